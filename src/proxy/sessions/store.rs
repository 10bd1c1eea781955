use async_trait::async_trait;
use futures::stream::BoxStream;
use jiff::{SignedDuration, Timestamp};
use thiserror::Error;

use crate::session::{Session, SessionId};

/// A session as read from a store, with what a compare-and-swap needs.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    pub session: Session,
    /// Changes with every write.
    pub version: String,
    /// UID of the Kubernetes object, which differs between two objects of the same name; empty in SQLite.
    pub uid: String,
}

/// An event of a store's watch.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "events are short-lived and handled one at a time")]
pub enum SessionEvent {
    /// The complete list: a session that was known before and is missing here has ended.
    All(Vec<Session>),
    /// The session is new or has changed.
    Is(Session),
    /// The session was deleted, or its record no longer verifies.
    Ended(SessionId),
}

/// How a session is deleted.
#[derive(Clone, Copy, Debug)]
pub enum Deletion<'a> {
    /// Only if its version is unchanged: it had expired when it was read, and may have been refreshed since.
    IfUnchanged,
    /// Without a Kubernetes event: a logout, or an access rule.
    Unconditional,
    /// Unconditional; the text is published as a Kubernetes event.
    WithEvent(&'a str),
}

#[derive(Debug, Error)]
pub enum StoreError {
    #[error("the session already exists")]
    Exists,
    /// Compare-and-swap failed.
    #[error("the session was changed or deleted concurrently")]
    Conflict,
    /// The store rejects the record as invalid: a retry does not help.
    #[error("the session store rejected the record: {0}")]
    Refused(String),
    /// The state of the session is unknown.
    #[error("the session store is unavailable: {0}")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl StoreError {
    pub(super) fn unavailable(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Unavailable(error.into())
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        Self::unavailable(error)
    }
}

pub type SessionFilter<'a> = &'a (dyn Fn(&Session) -> bool + Send + Sync);

/// Persistent storage of sessions. Both implementations pass [`contract`].
#[async_trait]
pub trait SessionStore: Send + Sync + 'static {
    async fn create(&self, session: &Session) -> Result<(), StoreError>;

    /// A quorum read. `None` if the session does not exist, its record does not verify, or it is being deleted.
    async fn get(&self, id: SessionId) -> Result<Option<Stored>, StoreError>;

    /// Compare-and-swap; [`StoreError::Conflict`] if `old` was changed or deleted since it was read.
    async fn replace(&self, old: &Stored, new: &Session) -> Result<(), StoreError>;

    /// Returns whether it deleted the session; one that no longer exists is not an error.
    async fn end(&self, stored: &Stored, deletion: Deletion<'_>) -> Result<bool, StoreError>;

    /// Deletes records that no live set holds: those that expired more than an hour before `now`, whether they verify or not
    /// (sealed with another key, edited), and sessions for which `must_end` returns true.
    async fn purge(
        &self,
        now: Timestamp,
        max_ttl: SignedDuration,
        must_end: SessionFilter<'_>,
    ) -> Result<(), StoreError>;

    /// Unix time in seconds of the store's last response to a watch or a list of all sessions; 0 before the first one.
    fn last_contact(&self) -> i64;

    /// All sessions, then every change. The stream reconnects on its own and then starts with [`SessionEvent::All`] again.
    fn watch(&self) -> BoxStream<'static, SessionEvent>;
}

#[cfg(test)]
pub mod contract {
    //! The contract test of all stores. Each store's own test passes an empty store to [`run`].

    use std::sync::Arc;

    use futures::StreamExt;

    use super::*;
    use crate::{
        api::{SessionClaims, SessionPhase},
        testing::session,
    };

    pub async fn run(store: Arc<dyn SessionStore>) {
        create_rejects_duplicates(&store).await;
        replace_is_compare_and_swap(&store).await;
        concurrent_replaces_have_one_winner(&store).await;
        watch_reports_every_change(&store).await;
    }

    async fn create_rejects_duplicates(store: &Arc<dyn SessionStore>) {
        let session = session("create");
        assert!(store.get(session.id).await.unwrap().is_none());
        store.create(&session).await.unwrap();
        assert_eq!(store.get(session.id).await.unwrap().unwrap().session, session);
        assert!(matches!(store.create(&session).await, Err(StoreError::Exists)));
    }

    async fn replace_is_compare_and_swap(store: &Arc<dyn SessionStore>) {
        let pending = session("replace");
        store.create(&pending).await.unwrap();
        let read = store.get(pending.id).await.unwrap().unwrap();
        let active = Session {
            phase: SessionPhase::Active,
            generation: 1,
            expires_at: pending.expires_at + SignedDuration::from_hours(1),
            claims: SessionClaims { hosted_domain: None, email_verified: false, groups: Vec::new() },
            issuer_refresh_token: Some("another".to_owned()),
            leased_until: None,
            ..pending.clone()
        };
        store.replace(&read, &active).await.unwrap();
        assert!(matches!(store.replace(&read, &active).await, Err(StoreError::Conflict)));
        let now = store.get(pending.id).await.unwrap().unwrap();
        assert_eq!(now.session, active);
        // The session was refreshed after it had been read as expired.
        assert!(!store.end(&read, Deletion::IfUnchanged).await.unwrap());
        assert_eq!(store.get(pending.id).await.unwrap().unwrap().session, active);
        assert!(store.end(&now, Deletion::IfUnchanged).await.unwrap());
        assert!(!store.end(&now, Deletion::IfUnchanged).await.unwrap());
        assert!(store.get(pending.id).await.unwrap().is_none());
        assert!(matches!(store.replace(&now, &active).await, Err(StoreError::Conflict)));
    }

    async fn concurrent_replaces_have_one_winner(store: &Arc<dyn SessionStore>) {
        let pending = session("race");
        store.create(&pending).await.unwrap();
        let read = store.get(pending.id).await.unwrap().unwrap();
        let active = Session { phase: SessionPhase::Active, generation: 1, ..pending };
        let outcomes = futures::future::join_all((0..50).map(|_| store.replace(&read, &active))).await;
        assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
        assert!(outcomes.iter().all(|outcome| matches!(outcome, Ok(()) | Err(StoreError::Conflict))));
    }

    async fn watch_reports_every_change(store: &Arc<dyn SessionStore>) {
        let before = session("before");
        store.create(&before).await.unwrap();
        let mut events = store.watch();
        let Some(SessionEvent::All(all)) = events.next().await else {
            panic!("the watch does not start with all sessions")
        };
        assert!(all.contains(&before));
        let new = session("watched");
        store.create(&new).await.unwrap();
        assert_eq!(events.next().await, Some(SessionEvent::Is(new.clone())));
        let read = store.get(new.id).await.unwrap().unwrap();
        let active = Session { phase: SessionPhase::Active, generation: 1, ..new };
        store.replace(&read, &active).await.unwrap();
        assert_eq!(events.next().await, Some(SessionEvent::Is(active.clone())));
        let read = store.get(active.id).await.unwrap().unwrap();
        store.end(&read, Deletion::WithEvent("a test ends it")).await.unwrap();
        assert_eq!(events.next().await, Some(SessionEvent::Ended(active.id)));
    }
}
