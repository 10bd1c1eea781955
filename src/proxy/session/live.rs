use std::{
    collections::HashMap,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
};

use jiff::Timestamp;

use super::{Session, SessionEvent, SessionId};
use crate::api::SessionPhase;

/// The sessions that are live, kept by the store's watch alone. Asking it costs a read lock and no I/O.
#[derive(Debug, Default)]
pub struct LiveSet {
    sessions: RwLock<HashMap<SessionId, Arc<LiveSession>>>,
    complete: AtomicBool,
}

/// What the request path needs to know of a session. Whoever holds one sees it end.
#[derive(Debug)]
pub struct LiveSession {
    /// The session's name.
    pub id: SessionId,
    /// The person's verified e-mail address.
    pub email: Box<str>,
    /// The issuer and its identifier of the person, for binding things to them.
    pub user: Box<str>,
    active: AtomicBool,
    ended: AtomicBool,
    expires_at: AtomicI64,
}

impl LiveSession {
    /// The live form of a session just read.
    pub fn new(session: &Session) -> Self {
        Self {
            id: session.id,
            email: session.user.email.as_str().into(),
            user: format!("{} {}", session.user.issuer, session.user.subject).into(),
            active: AtomicBool::new(session.phase == SessionPhase::Active),
            ended: AtomicBool::new(false),
            expires_at: AtomicI64::new(session.expires_at.as_second()),
        }
    }

    /// Whether requests of this session are answered at `now`.
    pub fn admits(&self, now: Timestamp) -> bool {
        !self.ended.load(Ordering::Acquire)
            && self.active.load(Ordering::Acquire)
            && now.as_second() < self.expires_at.load(Ordering::Acquire)
    }

    fn update(&self, session: &Session) {
        self.expires_at.store(session.expires_at.as_second(), Ordering::Release);
        self.active.store(session.phase == SessionPhase::Active, Ordering::Release);
    }

    fn end(&self) {
        self.ended.store(true, Ordering::Release);
    }
}

impl LiveSet {
    /// Whether there has been a first complete list. Before, the absence of a session means nothing.
    pub fn is_complete(&self) -> bool {
        self.complete.load(Ordering::Acquire)
    }

    /// The session of that name, if the watch has shown it.
    pub fn get(&self, id: &SessionId) -> Option<Arc<LiveSession>> {
        self.sessions.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.sessions.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// The names of those whose time was over at `now`.
    pub fn expired(&self, now: Timestamp) -> Vec<SessionId> {
        let sessions = self.sessions.read().unwrap_or_else(PoisonError::into_inner);
        let over = |session: &LiveSession| session.expires_at.load(Ordering::Acquire) <= now.as_second();
        sessions.values().filter(|session| over(session)).map(|session| session.id).collect()
    }

    /// Takes in what the watch says.
    pub fn apply(&self, event: SessionEvent) {
        let mut sessions = self.sessions.write().unwrap_or_else(PoisonError::into_inner);
        match event {
            SessionEvent::Is(session) => Self::insert(&mut sessions, &session),
            SessionEvent::Ended(id) => {
                if let Some(ended) = sessions.remove(&id) {
                    ended.end();
                }
            }
            SessionEvent::All(all) => {
                let mut before = std::mem::take(&mut *sessions);
                for session in &all {
                    if let Some(known) = before.remove(&session.id) {
                        sessions.insert(session.id, known);
                    }
                    Self::insert(&mut sessions, session);
                }
                before.values().for_each(|missing| missing.end());
                self.complete.store(true, Ordering::Release);
            }
        }
    }

    fn insert(sessions: &mut HashMap<SessionId, Arc<LiveSession>>, session: &Session) {
        match sessions.get(&session.id) {
            Some(known) => known.update(session),
            None => {
                sessions.insert(session.id, Arc::new(LiveSession::new(session)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::session::record::tests::session;

    fn active(nonce: &str) -> Session {
        Session { phase: SessionPhase::Active, ..session(nonce) }
    }

    fn before_expiry(session: &Session) -> Timestamp {
        session.expires_at - jiff::SignedDuration::from_secs(1)
    }

    #[test]
    fn a_pending_session_admits_nobody_until_it_is_active() {
        let set = LiveSet::default();
        let pending = session("a");
        set.apply(SessionEvent::Is(pending.clone()));
        let held = set.get(&pending.id).unwrap();
        assert!(!held.admits(before_expiry(&pending)));
        set.apply(SessionEvent::Is(active("a")));
        assert!(held.admits(before_expiry(&pending)));
        assert!(!held.admits(pending.expires_at));
    }

    #[test]
    fn who_holds_a_session_sees_it_end() {
        let set = LiveSet::default();
        let session = active("a");
        set.apply(SessionEvent::Is(session.clone()));
        let held = set.get(&session.id).unwrap();
        set.apply(SessionEvent::Ended(session.id));
        assert!(!held.admits(before_expiry(&session)));
        assert!(set.get(&session.id).is_none());
    }

    #[test]
    fn a_complete_list_ends_what_is_missing_and_keeps_what_is_there() {
        let set = LiveSet::default();
        assert!(!set.is_complete());
        let (stays, goes) = (active("stays"), active("goes"));
        set.apply(SessionEvent::All(vec![stays.clone(), goes.clone()]));
        assert!(set.is_complete());
        let (held_stays, held_goes) = (set.get(&stays.id).unwrap(), set.get(&goes.id).unwrap());
        set.apply(SessionEvent::All(vec![stays.clone()]));
        assert!(held_stays.admits(before_expiry(&stays)));
        assert!(!held_goes.admits(before_expiry(&goes)));
        assert_eq!(set.len(), 1);
    }

    #[test]
    fn a_session_that_comes_back_does_not_revive_what_ended() {
        let set = LiveSet::default();
        let session = active("a");
        set.apply(SessionEvent::Is(session.clone()));
        let held = set.get(&session.id).unwrap();
        set.apply(SessionEvent::Ended(session.id));
        set.apply(SessionEvent::Is(session.clone()));
        assert!(!held.admits(before_expiry(&session)));
        assert!(set.get(&session.id).unwrap().admits(before_expiry(&session)));
    }
}
