//! Sessions survive a killed process and a full or read-only disk.

use std::{
    env,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use super::super::*;
use crate::{
    api::SessionPhase,
    testing::{record_keys, session},
};

/// Database path of the child process that is killed; set only for that process.
const DATABASE: &str = "SESSIONS_OF_THE_KILLED";

/// Writes what `/token` writes when a code is redeemed.
async fn redeem(store: &SqliteStore, pending: &Session) -> Result<(), StoreError> {
    let read = store.get(pending.id).await?.ok_or(StoreError::Conflict)?;
    store.replace(&read, &Session { phase: SessionPhase::Active, ..pending.clone() }).await
}

/// Creates and activates sessions until the process is killed; prints each one whose write has completed.
#[tokio::main(flavor = "current_thread")]
async fn redeem_codes_until_killed(path: &Path) {
    let store = SqliteStore::open(path, record_keys()).await.unwrap();
    for number in 0.. {
        let pending = session(&format!("{} {number}", std::process::id()));
        store.create(&pending).await.unwrap();
        redeem(&store, &pending).await.unwrap();
        println!("redeemed {}", pending.id);
    }
}

#[test]
fn redeemed_code_survives_a_kill_of_the_process() {
    if let Some(path) = env::var_os(DATABASE) {
        return redeem_codes_until_killed(Path::new(&path));
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sessions.db");
    let this = std::thread::current().name().unwrap().to_owned();
    let mut redeemed: Vec<SessionId> = Vec::new();
    for round in 0..100 {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["--exact", &this, "--nocapture"]).env(DATABASE, &path).stdout(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let mut output = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut redeem_line = |line: &str| line.strip_prefix("redeemed ").map(|id| redeemed.push(id.parse().unwrap()));
        // Killed after one to seven redeemed codes, in the middle of the next one.
        let mut left = 1 + round % 7;
        while left > 0 {
            left -= usize::from(redeem_line(&output.next().unwrap().unwrap()).is_some());
        }
        process.kill().unwrap();
        for line in output.map_while(Result::ok) {
            redeem_line(&line);
        }
        process.wait().unwrap();
    }
    assert!(redeemed.len() >= 100);
    let again = async {
        let store = SqliteStore::open(&path, record_keys()).await.unwrap();
        for id in redeemed {
            let stored = store.get(id).await.unwrap().unwrap();
            assert_eq!(stored.session.phase, SessionPhase::Active, "{id}");
        }
    };
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(again);
}

#[tokio::test]
async fn full_or_read_only_disk_loses_no_session_and_needs_no_restart() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&folder.path().join("sessions.db"), record_keys()).await.unwrap();
    let (before, mut events) = (session("before"), store.watch());
    store.create(&before).await.unwrap();
    for (full, free) in [
        // A full disk, then a read-only one.
        ("PRAGMA max_page_count = 1", "PRAGMA max_page_count = 1000000"),
        ("PRAGMA query_only = ON", "PRAGMA query_only = OFF"),
    ] {
        sqlx::query(full).execute(&store.pool).await.unwrap();
        let mut refused = Vec::new();
        // The last page may still have space for some records.
        while refused.is_empty() {
            let more = session(&format!("{full} {}", store.all().await.unwrap().len()));
            if let Err(error) = store.create(&more).await {
                assert!(matches!(error, StoreError::Unavailable(_)), "{full}: {error}");
                refused.push(more);
            }
        }
        assert_eq!(store.get(before.id).await.unwrap().unwrap().session, before, "{full}");
        sqlx::query(free).execute(&store.pool).await.unwrap();
        assert!(store.get(refused[0].id).await.unwrap().is_none(), "{full}");
        store.create(&refused[0]).await.unwrap();
    }
    redeem(&store, &before).await.unwrap();
    assert!(matches!(events.next().await, Some(SessionEvent::All(_))));
}
