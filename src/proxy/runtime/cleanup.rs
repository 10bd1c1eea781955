use std::{sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};

use crate::reasons::SessionEnd;
use crate::{
    crypto::random_bytes,
    proxy::{observability::audit, runtime::proxy::Proxy},
};
use crate::{
    proxy::sessions::{EndReason, LiveSet, SessionStore, StoreError},
    session::Session,
};

/// How many looks for expired sessions go by before the store is read whole for what is no session any more.
const LOOKS_BETWEEN_LISTS: u32 = 60;

/// How long replicas with older and newer rules may run side by side. A session that is older than this, and that the rules
/// refuse, is not one that a replica with newer rules has just let in.
const ROLL_OUT: SignedDuration = SignedDuration::from_mins(10);

/// Deletes sessions whose time is over, until the task is dropped. Every replica does it at moments of its own; who comes
/// second finds nothing to delete.
pub async fn clean_up(proxy: Arc<Proxy>) {
    for look in 1_u32.. {
        tokio::time::sleep(pause()).await;
        let ended = |session: &Session| {
            proxy.metrics.ended_sessions.count(SessionEnd::Expired);
            audit::session_end(session, SessionEnd::Expired, "its time was over", None);
        };
        let mut done = delete_expired(proxy.sessions.live(), &*proxy.store, proxy.now(), ended).await;
        if done.is_ok() && look.is_multiple_of(LOOKS_BETWEEN_LISTS) {
            let settled = proxy.now() - ROLL_OUT;
            let is_over = |session: &Session| session.created_at < settled && proxy.rules.refuse(session).is_some();
            done = proxy.store.purge(proxy.now(), proxy.max_ttl(), &is_over).await;
        }
        if let Err(error) = done {
            tracing::warn!(%error, "deleting expired sessions failed");
        }
    }
}

/// Deletes what is over at `now`, and tells `ended` of each.
async fn delete_expired(
    live: &LiveSet,
    store: &dyn SessionStore,
    now: Timestamp,
    ended: impl Fn(&Session),
) -> Result<(), StoreError> {
    for id in live.expired(now) {
        // Read again: it may have been refreshed at another replica.
        if let Some(stored) = store.get(id).await?
            && stored.session.expires_at <= now
            && store.end(&stored, EndReason::Expired).await?
        {
            ended(&stored.session);
        }
    }
    Ok(())
}

/// 30 to 90 seconds.
fn pause() -> Duration {
    let jitter = random_bytes::<1>().map_or(0, |[byte]| u64::from(byte));
    Duration::from_millis(30_000 + jitter * 60_000 / 255)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        proxy::sessions::{SessionEvent, SqliteStore},
        session::tests::{keys, session},
    };

    #[tokio::test]
    async fn expired_session_is_deleted_unless_refreshed_elsewhere() {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&folder.path().join("sessions.db"), keys()).await.unwrap();
        let (over, refreshed) = (session("over"), session("refreshed"));
        let live = LiveSet::default();
        live.apply(SessionEvent::All(vec![over.clone(), refreshed.clone()]));
        store.create(&over).await.unwrap();
        store
            .create(&Session { expires_at: refreshed.expires_at + SignedDuration::from_hours(1), ..refreshed.clone() })
            .await
            .unwrap();
        let a_moment_before = over.expires_at - SignedDuration::from_secs(1);
        let ended = std::cell::Cell::new(0);
        let count = |_: &Session| ended.set(ended.get() + 1);
        delete_expired(&live, &store, a_moment_before, count).await.unwrap();
        assert!(store.get(over.id).await.unwrap().is_some());
        delete_expired(&live, &store, over.expires_at, count).await.unwrap();
        assert_eq!(ended.get(), 1);
        assert!(store.get(over.id).await.unwrap().is_none());
        assert!(store.get(refreshed.id).await.unwrap().is_some());
    }
}
