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
use crate::proxy::observability::audit::CallerIdentity;
use crate::session::{Session, SessionId};

/// Capacity of the cache of ended sessions, whose tokens are rejected without a look-up.
const ENDED_CACHE_CAPACITY: usize = 10_000;

/// How many users without a session may be kept in memory before they are removed.
const UNUSED_USERS_MAX: usize = 1000;

/// The live sessions. Only the store's watch changes the members. A read takes a read lock and no I/O.
#[derive(Debug)]
pub struct LiveSet {
    known: RwLock<Known>,
    // A session id is an HMAC of a login's nonce, so an ended session does not reappear, except from a restored backup. Then
    // the watch shows it, and members take precedence.
    ended: Cache<SessionId, ()>,
    lists: AtomicU64,
}

#[derive(Debug, Default)]
struct Known {
    members: HashMap<SessionId, Arc<LiveSession>>,
    /// Sessions read from the store before the watch has shown them. They are not members, but their end is signalled to holders.
    looked_up: HashMap<SessionId, Weak<LiveSession>>,
    /// Kept while a session of the user is held.
    users: HashMap<Arc<str>, Weak<OpenCounts>>,
}

/// Requests in flight and open streams of one user at this replica, over all their sessions. The request path counts them.
#[derive(Debug, Default)]
pub struct OpenCounts {
    pub requests: AtomicU32,
    pub streams: AtomicU32,
}

impl Default for LiveSet {
    fn default() -> Self {
        Self { known: RwLock::default(), ended: Cache::new(ENDED_CACHE_CAPACITY), lists: AtomicU64::default() }
    }
}

/// The part of a session that the request path needs. An end of the session is visible to every holder.
#[derive(Debug)]
pub struct LiveSession {
    pub id: SessionId,
    /// The user's verified e-mail address as a header value; empty if it is not a valid one.
    pub email: HeaderValue,
    /// The client's name, chosen by the client.
    pub client: Box<str>,
    /// Issuer and subject, to which tokens and upstream sessions are bound.
    pub user: Arc<str>,
    pub open: Arc<OpenCounts>,
    active: AtomicBool,
    /// Ended, or released by [`LiveSet::release`].
    closed: AtomicBool,
    expires_at: AtomicI64,
    rotated_at: AtomicI64,
}

impl LiveSession {
    pub fn email(&self) -> &str {
        str::from_utf8(self.email.as_bytes()).unwrap_or_default()
    }

    pub fn caller(&self) -> CallerIdentity<'_> {
        CallerIdentity { session: self.id, email: self.email(), client: &self.client }
    }

    /// Whether requests of this session are admitted at `now`.
    pub fn admits(&self, now: Timestamp) -> bool {
        !self.is_closed()
            && self.active.load(Ordering::Acquire)
            && now.as_second() < self.expires_at.load(Ordering::Acquire)
    }

    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// An active session does not become pending again: such an event is older than the current state.
    fn update(&self, session: &Session) {
        if session.phase == SessionPhase::Pending && self.active.load(Ordering::Acquire) {
            return;
        }
        self.expires_at.store(session.expires_at.as_second(), Ordering::Release);
        self.rotated_at.store(session.rotated_at.as_second(), Ordering::Release);
        self.active.store(session.phase == SessionPhase::Active, Ordering::Release);
    }

    fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }
}

fn user(session: &Session) -> String {
    format!("{} {}", session.user.issuer, session.user.subject)
}

impl LiveSet {
    /// Whether a complete list has arrived. Before that, a missing session may still exist.
    pub fn is_complete(&self) -> bool {
        self.lists() > 0
    }

    /// Number of complete lists so far, to detect one that arrived during a look-up.
    pub fn lists(&self) -> u64 {
        self.lists.load(Ordering::Acquire)
    }

    pub fn get(&self, id: &SessionId) -> Option<Arc<LiveSession>> {
        self.read().members.get(id).cloned()
    }

    /// `false` if the state is unknown.
    pub fn has_ended(&self, id: &SessionId) -> bool {
        self.ended.contains_key(id)
    }

    /// Applies the result of a look-up; returns `None` if the session has ended. The session does not become a member, but ends
    /// when the watch shows its end.
    pub fn looked_up(&self, id: SessionId, session: Option<&Session>) -> Option<Arc<LiveSession>> {
        let mut known = self.write();
        // Reuse the object of an earlier look-up: the watch updates one object per session.
        let held = known.looked_up.get(&id).and_then(Weak::upgrade);
        let Some(session) = session else {
            held.inspect(|held| held.close());
            self.ended.insert(id, ());
            return None;
        };
        // Already known: the watch was faster than the look-up, or the record is newer than the watch's state.
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
        let live = known.new_session(session);
        known.looked_up.retain(|_, held| held.strong_count() > 0);
        known.looked_up.insert(id, Arc::downgrade(&live));
        Some(live)
    }

    pub fn len(&self) -> usize {
        self.read().members.len()
    }

    /// The user's sessions above the limit `max`, those without a refresh for the longest time. `new` counts but is never
    /// returned; it may not be a member yet.
    pub fn surplus(&self, new: &Session, max: usize) -> Vec<SessionId> {
        let user = user(new);
        let known = self.read();
        let mut others: Vec<&Arc<LiveSession>> =
            known.members.values().filter(|member| *member.user == *user && member.id != new.id).collect();
        others.sort_by_key(|member| member.rotated_at.load(Ordering::Acquire));
        let surplus = (others.len() + 1).saturating_sub(max);
        others.iter().take(surplus).map(|member| member.id).collect()
    }

    pub fn expired(&self, now: Timestamp) -> Vec<SessionId> {
        let is_expired = |session: &LiveSession| session.expires_at.load(Ordering::Acquire) <= now.as_second();
        self.read().members.values().filter(|session| is_expired(session)).map(|session| session.id).collect()
    }

    /// Closes a looked-up session whose state is unknown. The next request for it causes another look-up.
    pub fn release(&self, id: &SessionId) {
        if let Some(held) = self.write().looked_up.remove(id).and_then(|held| held.upgrade()) {
            held.close();
        }
    }

    /// Applies an event of the watch. Returns looked-up sessions that are held but missing from a list: either they are newer
    /// than the list, or they ended before it was read. They need a look-up, because the watch reports no end that precedes its
    /// list.
    pub fn apply(&self, event: SessionEvent) -> Vec<SessionId> {
        let mut unlisted = Vec::new();
        let mut known = self.write();
        match event {
            SessionEvent::Is(session) => known.insert(&session),
            SessionEvent::Ended(id) => {
                let member = known.members.remove(&id);
                let held = known.looked_up.remove(&id).and_then(|held| held.upgrade());
                member.into_iter().chain(held).for_each(|ended| ended.close());
                self.ended.insert(id, ());
            }
            SessionEvent::All(all) => {
                let mut before = std::mem::take(&mut *known);
                known.users = std::mem::take(&mut before.users);
                for session in &all {
                    if let Some(member) = before.members.remove(&session.id) {
                        known.members.insert(session.id, member);
                    } else if let Some(held) = before.looked_up.remove(&session.id) {
                        known.looked_up.insert(session.id, held);
                    }
                    known.insert(session);
                }
                for missing in before.members.values() {
                    missing.close();
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
    fn new_session(&mut self, session: &Session) -> Arc<LiveSession> {
        // Remove users without sessions from time to time, or the map would grow forever.
        if self.users.len() > 2 * self.members.len() + UNUSED_USERS_MAX {
            self.users.retain(|_, open| open.strong_count() > 0);
        }
        let user = user(session);
        let known = self.users.get_key_value(&*user);
        let (user, open) = known.and_then(|(user, open)| Some((user.clone(), open.upgrade()?))).unwrap_or_else(|| {
            let (user, open): (Arc<str>, Arc<OpenCounts>) = (user.into(), Arc::default());
            self.users.insert(user.clone(), Arc::downgrade(&open));
            (user, open)
        });
        Arc::new(LiveSession {
            id: session.id,
            email: HeaderValue::from_str(&session.user.email).unwrap_or(HeaderValue::from_static("")),
            client: session.client.name.as_str().into(),
            user,
            open,
            active: AtomicBool::new(session.phase == SessionPhase::Active),
            closed: AtomicBool::new(false),
            expires_at: AtomicI64::new(session.expires_at.as_second()),
            rotated_at: AtomicI64::new(session.rotated_at.as_second()),
        })
    }

    fn insert(&mut self, session: &Session) {
        if let Some(member) = self.members.get(&session.id) {
            member.update(session);
            return;
        }
        // Reuse the object of a look-up, so that its holders see the events of the watch.
        let held = self.looked_up.remove(&session.id).and_then(|held| held.upgrade());
        let member = held.unwrap_or_else(|| self.new_session(session));
        member.update(session);
        self.members.insert(session.id, member);
    }
}

#[cfg(test)]
mod tests;
