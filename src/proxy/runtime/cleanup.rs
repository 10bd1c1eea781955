use std::{sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};

use crate::{
    crypto::random_bytes,
    end_reasons::SessionEndReason,
    proxy::{
        authorization_server::AuthorizationServer,
        observability::audit,
        sessions::{Deletion, LiveSet, SessionStore, StoreError},
    },
    session::Session,
};

/// Rounds of clean-up between two purges, which list the whole store.
const ROUNDS_BETWEEN_PURGES: u32 = 60;

/// Maximum duration of a rollout. A session that the rules deny and that is older cannot have been admitted by a replica with
/// newer rules.
const ROLLOUT: SignedDuration = SignedDuration::from_mins(10);

/// Deletes expired sessions periodically. Every replica does so at random times; the first one deletes.
pub async fn clean_up(server: Arc<AuthorizationServer>) {
    for round in 1_u32.. {
        tokio::time::sleep(pause()).await;
        let ended = |session: &Session| {
            server.metrics.ended_sessions.count(SessionEndReason::Expired);
            audit::session_end(session, SessionEndReason::Expired, "the session expired", None);
        };
        let mut result = delete_expired(server.sessions.live(), &*server.store, server.now(), ended).await;
        if result.is_ok() && round.is_multiple_of(ROUNDS_BETWEEN_PURGES) {
            let settled = server.now() - ROLLOUT;
            let must_end = |session: &Session| session.created_at < settled && server.rules.refuse(session).is_some();
            result = server.store.purge(server.now(), server.config.sessions.max_ttl.signed(), &must_end).await;
        }
        if let Err(error) = result {
            tracing::warn!(%error, "deleting expired sessions failed");
        }
    }
}

/// Deletes the sessions that have expired at `now`, and calls `ended` for each.
async fn delete_expired(
    live: &LiveSet,
    store: &dyn SessionStore,
    now: Timestamp,
    ended: impl Fn(&Session),
) -> Result<(), StoreError> {
    for id in live.expired(now) {
        // Read again: another replica may have refreshed it.
        if let Some(stored) = store.get(id).await?
            && stored.session.expires_at <= now
            && store.end(&stored, Deletion::IfUnchanged).await?
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
        testing::{record_keys, session},
    };

    #[tokio::test]
    async fn expired_session_is_deleted_unless_refreshed_elsewhere() {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&folder.path().join("sessions.db"), record_keys()).await.unwrap();
        let (over, refreshed) = (session("over"), session("refreshed"));
        let live = LiveSet::default();
        live.apply(SessionEvent::All(vec![over.clone(), refreshed.clone()]));
        store.create(&over).await.unwrap();
        store
            .create(&Session { expires_at: refreshed.expires_at + SignedDuration::from_hours(1), ..refreshed.clone() })
            .await
            .unwrap();
        let just_before = over.expires_at - SignedDuration::from_secs(1);
        let ended = std::cell::Cell::new(0);
        let count = |_: &Session| ended.set(ended.get() + 1);
        delete_expired(&live, &store, just_before, count).await.unwrap();
        assert!(store.get(over.id).await.unwrap().is_some());
        delete_expired(&live, &store, over.expires_at, count).await.unwrap();
        assert_eq!(ended.get(), 1);
        assert!(store.get(over.id).await.unwrap().is_none());
        assert!(store.get(refreshed.id).await.unwrap().is_some());
    }
}
