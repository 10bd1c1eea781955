use std::{
    collections::HashMap,
    sync::{
        Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak,
        atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering},
    },
};

use http::HeaderValue;
use jiff::Timestamp;
use quick_cache::sync::Cache;

use super::SessionEvent;
use crate::api::SessionPhase;
use crate::proxy::observability::audit::Caller;
use crate::session::{Session, SessionId};

/// How many names of ended sessions are remembered, so that their tokens are refused without asking the store.
const REMEMBERED_ENDS: usize = 10_000;

/// How many people without a session may be remembered.
const FORGOTTEN_AT_ONCE: usize = 1000;

/// The sessions that are live, kept by the store's watch alone. Asking it costs a read lock and no I/O.
#[derive(Debug)]
pub struct LiveSet {
    known: RwLock<Known>,
    // A name is an HMAC of a login's nonce: what has ended under it does not come back. (Unless from a backup; then the
    // watch shows it, and members come first.)
    ended: Cache<SessionId, ()>,
    /// How many complete lists there have been.
    lists: AtomicU64,
}

#[derive(Debug, Default)]
struct Known {
    members: HashMap<SessionId, Arc<LiveSession>>,
    /// Read from the store before the watch has shown them. No members, but whoever holds one shall see it end.
    looked_up: HashMap<SessionId, Weak<LiveSession>>,
    /// What each person has open, as long as a session of theirs is held.
    people: HashMap<Arc<str>, Weak<Open>>,
}

/// What one person has open at this replica, over all their sessions. Counted by the request path.
#[derive(Debug, Default)]
pub struct Open {
    /// Requests that are not answered to their end.
    pub requests: AtomicU32,
    /// Streams.
    pub streams: AtomicU32,
}

impl Default for LiveSet {
    fn default() -> Self {
        Self { known: RwLock::default(), ended: Cache::new(REMEMBERED_ENDS), lists: AtomicU64::default() }
    }
}

/// What the request path needs to know of a session. Whoever holds one sees it end.
#[derive(Debug)]
pub struct LiveSession {
    /// The session's name.
    pub id: SessionId,
    /// The person's verified e-mail address, ready to be sent; empty if it cannot be put in a header.
    pub email: HeaderValue,
    /// What the client calls itself.
    pub client: Box<str>,
    /// The issuer and its identifier of the person, for binding things to them.
    pub user: Arc<str>,
    /// What this person has open.
    pub open: Arc<Open>,
    active: AtomicBool,
    ended: AtomicBool,
    expires_at: AtomicI64,
    rotated_at: AtomicI64,
}

impl LiveSession {
    fn new(session: &Session, user: Arc<str>, open: Arc<Open>) -> Self {
        Self {
            id: session.id,
            email: HeaderValue::from_str(&session.user.email).unwrap_or(HeaderValue::from_static("")),
            client: session.client.name.as_str().into(),
            user,
            open,
            active: AtomicBool::new(session.phase == SessionPhase::Active),
            ended: AtomicBool::new(false),
            expires_at: AtomicI64::new(session.expires_at.as_second()),
            rotated_at: AtomicI64::new(session.rotated_at.as_second()),
        }
    }

    /// The same e-mail address as text.
    pub fn email(&self) -> &str {
        str::from_utf8(self.email.as_bytes()).unwrap_or_default()
    }

    /// Who sends the requests of this session, as the audit log has it.
    pub fn caller(&self) -> Caller<'_> {
        Caller { session: self.id, email: self.email(), client: &self.client }
    }

    /// Whether requests of this session are answered at `now`.
    pub fn admits(&self, now: Timestamp) -> bool {
        !self.is_over()
            && self.active.load(Ordering::Acquire)
            && now.as_second() < self.expires_at.load(Ordering::Acquire)
    }

    /// Whether it has ended, or was let go ([`LiveSet::let_go`]).
    pub fn is_over(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// A session that is active does not become pending again: such news is older than what is known.
    fn update(&self, session: &Session) {
        if session.phase == SessionPhase::Pending && self.active.load(Ordering::Acquire) {
            return;
        }
        self.expires_at.store(session.expires_at.as_second(), Ordering::Release);
        self.rotated_at.store(session.rotated_at.as_second(), Ordering::Release);
        self.active.store(session.phase == SessionPhase::Active, Ordering::Release);
    }

    fn end(&self) {
        self.ended.store(true, Ordering::Release);
    }
}

fn user(session: &Session) -> String {
    format!("{} {}", session.user.issuer, session.user.subject)
}

impl LiveSet {
    /// Whether there has been a first complete list. Before, the absence of a session means nothing.
    pub fn is_complete(&self) -> bool {
        self.lists() > 0
    }

    /// How many complete lists there have been: whether one has come since the store was asked.
    pub fn lists(&self) -> u64 {
        self.lists.load(Ordering::Acquire)
    }

    /// The session of that name, if the watch has shown it.
    pub fn get(&self, id: &SessionId) -> Option<Arc<LiveSession>> {
        self.read().members.get(id).cloned()
    }

    /// Whether the session of that name is known to have ended.
    pub fn has_ended(&self, id: &SessionId) -> bool {
        self.ended.contains_key(id)
    }

    /// Takes in what the store said of a session that the watch has not shown: `None` if it has ended. It does not become a
    /// member, but will be told when the watch shows its end.
    pub fn looked_up(&self, id: SessionId, session: Option<&Session>) -> Option<Arc<LiveSession>> {
        let mut known = self.write();
        // Who holds it from an earlier look-up holds the only object of it that the watch will tell.
        let held = known.looked_up.get(&id).and_then(Weak::upgrade);
        let Some(session) = session else {
            held.inspect(|held| held.end());
            self.ended.insert(id, ());
            return None;
        };
        // A member: the watch was quicker than the answer, or the record is newer than what the watch has shown.
        if let Some(live) = known.members.get(&id).cloned().or(held) {
            let newer = session.rotated_at.as_second() >= live.rotated_at.load(Ordering::Acquire);
            if newer && session.phase == SessionPhase::Active {
                live.update(session);
            }
            return Some(live);
        }
        if self.has_ended(&id) {
            return None;
        }
        let live = known.live_form(session);
        known.looked_up.retain(|_, held| held.strong_count() > 0);
        known.looked_up.insert(id, Arc::downgrade(&live));
        Some(live)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.read().members.len()
    }

    /// The sessions that a person has beyond `most`, counting `new`, which may not be among the members yet: those that have
    /// gone longest without a refresh.
    pub fn surplus(&self, new: &Session, most: usize) -> Vec<SessionId> {
        let user = user(new);
        let known = self.read();
        let mut others: Vec<&Arc<LiveSession>> =
            known.members.values().filter(|member| *member.user == *user && member.id != new.id).collect();
        others.sort_by_key(|member| member.rotated_at.load(Ordering::Acquire));
        let surplus = (others.len() + 1).saturating_sub(most);
        others.iter().take(surplus).map(|member| member.id).collect()
    }

    /// The names of those whose time was over at `now`.
    pub fn expired(&self, now: Timestamp) -> Vec<SessionId> {
        let over = |session: &LiveSession| session.expires_at.load(Ordering::Acquire) <= now.as_second();
        self.read().members.values().filter(|session| over(session)).map(|session| session.id).collect()
    }

    /// Ends what is held of a session that was only looked up, because nobody knows any more whether it lives. Whoever asks for
    /// it asks the store again.
    pub fn let_go(&self, id: &SessionId) {
        if let Some(held) = self.write().looked_up.remove(id).and_then(|held| held.upgrade()) {
            held.end();
        }
    }

    /// Takes in what the watch says. Returns the sessions that somebody holds from a look-up and that a list does not have: they
    /// are newer than the list, or have ended before it was read. The store has to be asked, because the watch that follows the
    /// list says no word of the latter.
    pub fn apply(&self, event: SessionEvent) -> Vec<SessionId> {
        let mut unlisted = Vec::new();
        let mut known = self.write();
        match event {
            SessionEvent::Is(session) => known.insert(&session),
            SessionEvent::Ended(id) => {
                let Known { members, looked_up, .. } = &mut *known;
                members
                    .remove(&id)
                    .into_iter()
                    .chain(looked_up.remove(&id).and_then(|held| held.upgrade()))
                    .for_each(|ended| ended.end());
                self.ended.insert(id, ());
            }
            SessionEvent::All(all) => {
                let mut before = std::mem::take(&mut *known);
                known.people = std::mem::take(&mut before.people);
                for session in &all {
                    if let Some(member) = before.members.remove(&session.id) {
                        known.members.insert(session.id, member);
                    } else if let Some(held) = before.looked_up.remove(&session.id) {
                        known.looked_up.insert(session.id, held);
                    }
                    known.insert(session);
                }
                for missing in before.members.values() {
                    missing.end();
                    self.ended.insert(missing.id, ());
                }
                before.looked_up.retain(|_, held| held.strong_count() > 0);
                unlisted.extend(before.looked_up.keys().copied());
                known.looked_up.extend(before.looked_up);
                self.lists.fetch_add(1, Ordering::AcqRel);
            }
        }
        unlisted
    }

    fn read(&self) -> RwLockReadGuard<'_, Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Known> {
        self.known.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// The live form of a session just read.
    fn live_form(&mut self, session: &Session) -> Arc<LiveSession> {
        // Now and then, or who was here once would be remembered for ever.
        if self.people.len() > 2 * self.members.len() + FORGOTTEN_AT_ONCE {
            self.people.retain(|_, open| open.strong_count() > 0);
        }
        let user = user(session);
        let known = self.people.get_key_value(&*user);
        let (user, open) = match known.and_then(|(user, open)| Some((user.clone(), open.upgrade()?))) {
            Some(known) => known,
            None => {
                let (user, open): (Arc<str>, Arc<Open>) = (user.into(), Arc::default());
                self.people.insert(user.clone(), Arc::downgrade(&open));
                (user, open)
            }
        };
        Arc::new(LiveSession::new(session, user, open))
    }

    fn insert(&mut self, session: &Session) {
        if let Some(member) = self.members.get(&session.id) {
            member.update(session);
            return;
        }
        // One object for one session: who holds it from a look-up sees what the watch says from now on.
        let held = self.looked_up.remove(&session.id).and_then(|held| held.upgrade());
        let member = held.unwrap_or_else(|| self.live_form(session));
        member.update(session);
        self.members.insert(session.id, member);
    }
}

#[cfg(test)]
mod tests;
