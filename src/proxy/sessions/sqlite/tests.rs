mod faults;

use super::super::store::contract;
use super::*;
use crate::testing::{record_keys, session};

#[tokio::test]
async fn sqlite_store_passes_the_contract() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&folder.path().join("sessions.db"), record_keys()).await.unwrap();
    contract::run(Arc::new(store)).await;
}

#[tokio::test]
async fn sessions_outlive_the_process() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sessions.db");
    let session = session("a");
    SqliteStore::open(&path, record_keys()).await.unwrap().create(&session).await.unwrap();
    let again = SqliteStore::open(&path, record_keys()).await.unwrap();
    assert_eq!(again.get(session.id).await.unwrap().unwrap().session, session);
}

#[tokio::test]
async fn c19_user_and_client_names_are_never_interpreted_as_sql() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&folder.path().join("sessions.db"), record_keys()).await.unwrap();
    let bystander = session("bystander");
    store.create(&bystander).await.unwrap();
    for text in ["'); DROP TABLE sessions; --", "\" OR 1=1 --", "%", "?1", "$1", "\u{1}\u{feff}'"] {
        let mut odd = session(text);
        (odd.user.email, odd.user.subject, odd.client.name) = (text.to_owned(), text.to_owned(), text.to_owned());
        store.create(&odd).await.unwrap();
        let stored = store.get(odd.id).await.unwrap().unwrap();
        assert_eq!(stored.session, odd);
        store.end(&stored, Deletion::IfUnchanged).await.unwrap();
        assert!(store.get(odd.id).await.unwrap().is_none(), "{text}");
        assert_eq!(store.get(bystander.id).await.unwrap().unwrap().session, bystander, "{text}");
    }
}

#[tokio::test]
async fn row_deleted_or_edited_by_another_program_ends_its_session() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sessions.db");
    let store = SqliteStore::open(&path, record_keys()).await.unwrap();
    let (deleted, edited) = (session("deleted"), session("edited"));
    store.create(&deleted).await.unwrap();
    store.create(&edited).await.unwrap();
    let mut events = store.watch();
    assert!(matches!(events.next().await, Some(SessionEvent::All(all)) if all.len() == 2));
    let other = SqlitePool::connect_with(SqliteConnectOptions::new().filename(&path)).await.unwrap();
    sqlx::query("DELETE FROM sessions WHERE id = ?").bind(deleted.id.to_string()).execute(&other).await.unwrap();
    sqlx::query("UPDATE sessions SET record = replace(record, 'ada@', 'eve@')").execute(&other).await.unwrap();
    loop {
        if let Some(SessionEvent::All(all)) = events.next().await
            && all.is_empty()
        {
            break;
        }
    }
    assert!(store.get(edited.id).await.unwrap().is_none());
}

#[tokio::test]
async fn expired_records_are_deleted_even_if_they_do_not_verify() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sessions.db");
    let (lives, session) = (session("lives"), session("dead"));
    let other = RecordKeys::new(Arc::new(crate::testing::keyring()), "another");
    SqliteStore::open(&path, other).await.unwrap().create(&session).await.unwrap();
    let store = SqliteStore::open(&path, record_keys()).await.unwrap();
    store.create(&lives).await.unwrap();
    let rows =
        async || sqlx::query_scalar::<_, i64>("SELECT count(*) FROM sessions").fetch_one(&store.pool).await.unwrap();
    let hour = SignedDuration::from_hours(1);
    let fine = |_: &Session| false;
    store.purge(session.expires_at, hour * 100, &fine).await.unwrap();
    assert_eq!(rows().await, 2);
    // Expired for an hour: deleted, whether the record verifies or not.
    store.purge(session.expires_at + hour, hour * 100, &fine).await.unwrap();
    assert_eq!(rows().await, 0);
    store.create(&lives).await.unwrap();
    store.purge(session.expires_at, hour * 100, &|_: &Session| true).await.unwrap();
    assert_eq!(rows().await, 0);
}

#[tokio::test]
async fn open_error_names_the_database() {
    let missing = Path::new("/nonexistent/folder/sessions.db");
    let error = SqliteStore::open(missing, record_keys()).await.unwrap_err().to_string();
    assert!(error.contains("/nonexistent/folder/sessions.db") && error.contains("folder must exist"), "{error}");
}
