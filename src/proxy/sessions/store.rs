use async_trait::async_trait;
use futures::stream::BoxStream;
use jiff::{SignedDuration, Timestamp};
use thiserror::Error;

use crate::session::{Session, SessionId};

/// A session as a store gave it, with what a compare-and-swap needs.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    /// The session.
    pub session: Session,
    /// Changes with every write.
    pub version: String,
    /// Tells two objects of one name apart.
    pub uid: String,
}

/// What a store's watch says.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "one at a time, and read at once")]
pub enum SessionEvent {
    /// These are all there were when it was read: whatever was there before and is missing has ended.
    All(Vec<Session>),
    /// This one is there, new or changed.
    Is(Session),
    /// This one has ended: deleted, or no longer what we wrote.
    Ended(SessionId),
}

/// Why a session is to end.
#[derive(Clone, Copy, Debug)]
pub enum Ending<'a> {
    /// Its time was over when it was read: it ends only if it has not been refreshed since.
    Expired,
    /// Whatever has become of it, and nobody needs to look into it: a log-out, or a rule.
    Quietly,
    /// Whatever has become of it, for a reason that somebody should look into: it becomes an event.
    Because(&'a str),
}

/// Why a store did not do what was asked.
#[derive(Debug, Error)]
pub enum StoreError {
    /// A session of that name is there already.
    #[error("the session exists already")]
    Exists,
    /// Somebody else wrote, or deleted, in between.
    #[error("the session has been changed in between")]
    Conflict,
    /// The record is not one that can be kept: trying again changes nothing.
    #[error("the session store refuses the record: {0}")]
    Refused(String),
    /// The store cannot be reached or is broken; nothing is known.
    #[error("the session store cannot be reached: {0}")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl StoreError {
    pub(super) fn unavailable(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Unavailable(error.into())
    }
}

/// Whether a session may not go on.
pub type IsOver<'a> = &'a (dyn Fn(&Session) -> bool + Send + Sync);

/// Remembers sessions. Both stores pass the one contract test.
#[async_trait]
pub trait SessionStore: Send + Sync + 'static {
    /// Writes a new session.
    async fn create(&self, session: &Session) -> Result<(), StoreError>;

    /// Reads a session as it is now (a quorum read). `None` if it is gone, was changed by somebody else, or is on its way
    /// out.
    async fn get(&self, id: SessionId) -> Result<Option<Stored>, StoreError>;

    /// Replaces what `old` was read as; [`StoreError::Conflict`] if it has been changed or deleted since.
    async fn replace(&self, old: &Stored, new: &Session) -> Result<(), StoreError>;

    /// Ends a session, and says whether it did: it is fine if it is gone already.
    async fn end(&self, stored: &Stored, why: Ending<'_>) -> Result<bool, StoreError>;

    /// Deletes what nobody else would, because it is in no live set: what is no session of ours (sealed with another key, or
    /// edited) once it would be over for an hour at `now` if it were; sessions that have been over for so long; and those of
    /// which `is_over` says so.
    async fn delete_dead(&self, now: Timestamp, max_ttl: SignedDuration, is_over: IsOver<'_>)
    -> Result<(), StoreError>;

    /// When the watch, or a list of all sessions, last got an answer of the store, in seconds since 1970; 0 before the first time.
    fn last_contact(&self) -> i64;

    /// All sessions, then every change. It heals itself: a stream that broke off begins with [`SessionEvent::All`] again.
    fn watch(&self) -> BoxStream<'static, SessionEvent>;
}

#[cfg(test)]
pub mod contract {
    //! What every store must do. Each store's own test brings an empty store and calls [`run`].

    use std::sync::Arc;

    use futures::StreamExt;

    use super::*;
    use crate::{
        api::{SessionClaims, SessionPhase},
        session::tests::session,
    };

    pub async fn run(store: Arc<dyn SessionStore>) {
        create_once(&store).await;
        replace_compares(&store).await;
        one_of_fifty_wins(&store).await;
        watch_follows(&store).await;
    }

    async fn create_once(store: &Arc<dyn SessionStore>) {
        let session = session("create");
        assert!(store.get(session.id).await.unwrap().is_none());
        store.create(&session).await.unwrap();
        assert_eq!(store.get(session.id).await.unwrap().unwrap().session, session);
        assert!(matches!(store.create(&session).await, Err(StoreError::Exists)));
    }

    async fn replace_compares(store: &Arc<dyn SessionStore>) {
        let pending = session("replace");
        store.create(&pending).await.unwrap();
        let read = store.get(pending.id).await.unwrap().unwrap();
        let active = Session {
            phase: SessionPhase::Active,
            rotation: 1,
            expires_at: pending.expires_at + SignedDuration::from_hours(1),
            claims: SessionClaims { hosted_domain: None, email_verified: false, groups: Vec::new() },
            upstream_token: Some("another".to_owned()),
            leased_until: None,
            ..pending.clone()
        };
        store.replace(&read, &active).await.unwrap();
        assert!(matches!(store.replace(&read, &active).await, Err(StoreError::Conflict)));
        let now = store.get(pending.id).await.unwrap().unwrap();
        assert_eq!(now.session, active);
        // It was refreshed after it had been read as expired.
        assert!(!store.end(&read, Ending::Expired).await.unwrap());
        assert_eq!(store.get(pending.id).await.unwrap().unwrap().session, active);
        assert!(store.end(&now, Ending::Expired).await.unwrap());
        assert!(!store.end(&now, Ending::Expired).await.unwrap());
        assert!(store.get(pending.id).await.unwrap().is_none());
        assert!(matches!(store.replace(&now, &active).await, Err(StoreError::Conflict)));
    }

    async fn one_of_fifty_wins(store: &Arc<dyn SessionStore>) {
        let pending = session("race");
        store.create(&pending).await.unwrap();
        let read = store.get(pending.id).await.unwrap().unwrap();
        let active = Session { phase: SessionPhase::Active, rotation: 1, ..pending };
        let outcomes = futures::future::join_all((0..50).map(|_| store.replace(&read, &active))).await;
        assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
        assert!(outcomes.iter().all(|outcome| matches!(outcome, Ok(()) | Err(StoreError::Conflict))));
    }

    async fn watch_follows(store: &Arc<dyn SessionStore>) {
        let before = session("before");
        store.create(&before).await.unwrap();
        let mut events = store.watch();
        let Some(SessionEvent::All(all)) = events.next().await else { panic!("a watch begins with all sessions") };
        assert!(all.contains(&before));
        let new = session("watched");
        store.create(&new).await.unwrap();
        assert_eq!(events.next().await, Some(SessionEvent::Is(new.clone())));
        let read = store.get(new.id).await.unwrap().unwrap();
        let active = Session { phase: SessionPhase::Active, rotation: 1, ..new };
        store.replace(&read, &active).await.unwrap();
        assert_eq!(events.next().await, Some(SessionEvent::Is(active.clone())));
        let read = store.get(active.id).await.unwrap().unwrap();
        store.end(&read, Ending::Because("a test ends it")).await.unwrap();
        assert_eq!(events.next().await, Some(SessionEvent::Ended(active.id)));
    }
}
