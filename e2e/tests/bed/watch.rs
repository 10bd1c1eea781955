//! A replica whose session watch is disturbed (`e2e/src/peers/api_relay.rs`): it rejects ended sessions within a
//! bounded time, and never rejects live ones.

use std::time::{Duration, Instant};

use e2e::{
    peers::{api_relay::Watches, browser::Browser, context_forge::MEMBERS},
    stage::{NAMESPACE, Stage},
};
use kube::{Api, api::DeleteParams};
use mcp_oauth_operator::api::McpOAuthSession;
use reqwest::StatusCode;

use crate::{
    replica::Replica,
    support::{Scripted, eventually, sessions, stage},
};

/// The longest time for which an ended session is accepted while the API server responds (docs/reliability.md).
const BOUND: Duration = Duration::from_secs(15);

/// The measurement error on a busy machine.
const SLACK: Duration = Duration::from_secs(2);

/// Deletes a session and returns how long its token is accepted. Asserts that a live session is accepted meanwhile.
async fn end(stage: &Stage, replica: &Replica, ended: (&str, &str), living: &str) -> Duration {
    let api: Api<McpOAuthSession> = Api::namespaced(stage.cluster.client().await.unwrap(), NAMESPACE);
    let (name, access) = ended;
    assert_eq!(replica.status(access).await, StatusCode::OK);
    api.delete(name, &DeleteParams::default()).await.unwrap();
    let deleted = Instant::now();
    loop {
        assert_eq!(replica.status(living).await, StatusCode::OK, "a live session");
        let status = replica.status(access).await;
        if status == StatusCode::UNAUTHORIZED || deleted.elapsed() > BOUND * 2 {
            return deleted.elapsed();
        }
        assert_eq!(status, StatusCode::OK);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn disturbed_watch_delays_session_end_by_15_s_at_most_and_rejects_no_live_session() {
    let stage = stage();
    let name = "watched";
    let front = stage.front(name, |_| ()).await.unwrap();
    let replica = Replica::start(&stage, name, |_| ()).await;
    let browser = Browser::start(&stage.run).await.unwrap();
    let client = Scripted::register(&stage, &front).await.unwrap();
    let living = client.login(&browser, MEMBERS[0]).await.unwrap();
    let mut known: Vec<String> = names(&stage, name).await;

    for watches in [
        Watches::Pass,
        Watches::Hold,
        Watches::Cut,
        Watches::Expire,
        Watches::Delay(Duration::from_secs(8)),
        Watches::Delay(Duration::from_secs(40)),
    ] {
        // A login completed at a pod, which the disturbed watch does not report.
        replica.relay.set(watches);
        let tokens = client.login(&browser, MEMBERS[0]).await.unwrap();
        assert_eq!(replica.status(&tokens.access).await, StatusCode::OK, "{watches:?}: a new session");
        let all = names(&stage, name).await;
        let new = all.iter().find(|name| !known.contains(name)).unwrap().clone();
        known = all;

        // The watch must know the session first, so that only the watch can end it.
        replica.relay.set(Watches::Pass);
        eventually("the watch shows the new session", || async { replica.sessions().await == known.len() }).await;
        replica.relay.set(watches);
        let passed = end(&stage, &replica, (&new, &tokens.access), &living.access).await;
        eprintln!("{watches:?}: an ended session was accepted for {} ms", passed.as_millis());
        assert!(passed <= BOUND + SLACK, "{watches:?}: {passed:?}");
        known.retain(|name| *name != new);
        replica.relay.set(Watches::Pass);
    }
    browser.close().await.unwrap();
}

/// The stalled watch reports nothing, so only lists and look-ups can end the stream.
#[tokio::test(flavor = "multi_thread")]
async fn looked_up_sessions_stream_ends_with_it_and_live_stream_continues() {
    let stage = stage();
    let name = "listened";
    let front = stage.front(name, |_| ()).await.unwrap();
    let replica = Replica::start(&stage, name, |_| ()).await;
    let browser = Browser::start(&stage.run).await.unwrap();
    let client = Scripted::register(&stage, &front).await.unwrap();
    replica.relay.set(Watches::Hold);

    let mut tries = 0;
    let (ended, mut ending, mut living) = loop {
        // After a list, there is time for two logins before the next one.
        client.login(&browser, MEMBERS[0]).await.unwrap();
        let known = names(&stage, name).await;
        eventually("a list shows all sessions", || async { replica.sessions().await == known.len() }).await;
        let ends = client.login(&browser, MEMBERS[0]).await.unwrap();
        let new = names(&stage, name).await.into_iter().find(|name| !known.contains(name)).unwrap();
        let lives = client.login(&browser, MEMBERS[1]).await.unwrap();
        let streams = (replica.listen(&ends.access).await, replica.listen(&lives.access).await);
        if replica.sessions().await == known.len() {
            break (new, streams.0, streams.1);
        }
        tries += 1;
        assert!(tries < 5, "the interval between lists is too short for two logins");
    };
    let api: Api<McpOAuthSession> = Api::namespaced(stage.cluster.client().await.unwrap(), NAMESPACE);
    api.delete(&ended, &DeleteParams::default()).await.unwrap();
    let deleted = Instant::now();
    let rest = tokio::time::timeout(BOUND + SLACK, ending.chunk()).await;
    assert_eq!(rest.expect("the stream ends in time").unwrap(), None);
    eprintln!("the stream of an ended session stayed open for {} ms", deleted.elapsed().as_millis());
    replica.say("data: still there\n\n");
    assert_eq!(living.chunk().await.unwrap().unwrap(), "data: still there\n\n");
    browser.close().await.unwrap();
}

async fn names(stage: &Stage, proxy: &str) -> Vec<String> {
    sessions(stage, proxy).await.into_iter().filter_map(|session| session.metadata.name).collect()
}
