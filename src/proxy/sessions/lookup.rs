use std::{
    collections::HashMap,
    num::NonZeroU32,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use jiff::Timestamp;
use tokio::runtime::Handle;

use super::{LiveSession, LiveSet, SessionEvent, SessionStore};
use crate::{
    access::{Rules, Verdict},
    session::SessionId,
};

/// How long the result of a look-up admits a session that the watch has not shown yet.
const LOOKUP_VALID: Duration = Duration::from_secs(1);

/// Rate and burst of look-ups at the store, so that a flood of old tokens does not reach it.
const LOOKUPS_A_SECOND: NonZeroU32 = NonZeroU32::new(50).unwrap();
const LOOKUPS_AT_ONCE: NonZeroU32 = NonZeroU32::new(100).unwrap();

const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

/// Timeout of a look-up for a session that is missing from a list. Short, because the session may have ended and is admitted
/// until the look-up completes.
const UNLISTED_TIMEOUT: Duration = Duration::from_secs(1);

/// State of the session of a valid token.
#[derive(Clone, Debug)]
pub enum Admission {
    Live(Arc<LiveSession>),
    /// The store returned it as live at most a second ago; the watch has not shown it yet.
    LookedUp(Arc<LiveSession>),
    Ended,
    /// The store is unavailable, or no complete list has arrived yet.
    Unknown,
}

type Lookup = Shared<BoxFuture<'static, Admission>>;

/// Decides whether a session is live: from the live set, or by one look-up at the store if the watch has not shown the session
/// yet (a login that another replica has just completed).
pub struct Sessions {
    live: Arc<LiveSet>,
    store: Arc<dyn SessionStore>,
    control: Handle,
    lookups: Mutex<HashMap<SessionId, (Instant, Lookup)>>,
    rate: DefaultDirectRateLimiter,
    rules: Arc<Rules>,
}

impl Sessions {
    /// Look-ups run on `control`. A session that they find is subject to the access rules, like one from the watch.
    pub fn new(live: Arc<LiveSet>, store: Arc<dyn SessionStore>, control: Handle, rules: Arc<Rules>) -> Self {
        let rate = RateLimiter::direct(Quota::per_second(LOOKUPS_A_SECOND).allow_burst(LOOKUPS_AT_ONCE));
        Self { live, store, control, lookups: Mutex::default(), rate, rules }
    }

    pub fn live(&self) -> &Arc<LiveSet> {
        &self.live
    }

    /// Applies an event of the watch.
    pub fn apply(&self, event: SessionEvent) {
        for id in self.live.apply(event) {
            self.control.spawn(self.resolve_unlisted(id));
        }
    }

    /// Looks up a session that is missing from a list. If the store has it, it is newer than the list, and the watch will show
    /// it. If the store does not respond, the held session is released and so admits nothing any more.
    fn resolve_unlisted(&self, id: SessionId) -> impl Future<Output = ()> + use<> {
        let (fetch, live) = (self.fetch(id, UNLISTED_TIMEOUT), self.live.clone());
        async move {
            if matches!(fetch.await, Admission::Unknown) {
                live.release(&id);
            }
        }
    }

    /// Whether the session `id` is live at `now`.
    pub async fn admit(&self, id: SessionId, now: Timestamp) -> Admission {
        if !self.live.is_complete() {
            return Admission::Unknown;
        }
        match self.live.get(&id) {
            Some(session) if session.admits(now) => return Admission::Live(session),
            None if self.live.has_ended(&id) => return Admission::Ended,
            // The local record may be stale: a login or a refresh at another replica may not have arrived here yet.
            _ => (),
        }
        let Some(lookup) = self.lookup(id) else { return Admission::Unknown };
        match lookup.await {
            // Released since then, which does not mean that it has ended.
            Admission::LookedUp(session) if session.is_closed() && !self.live.has_ended(&id) => Admission::Unknown,
            Admission::LookedUp(session) if !session.admits(now) => Admission::Ended,
            other => other,
        }
    }

    /// At most one look-up per session and second, shared by all callers; `None` above the rate limit.
    fn lookup(&self, id: SessionId) -> Option<Lookup> {
        let mut lookups = self.lookups.lock().unwrap_or_else(PoisonError::into_inner);
        // Rate limit and timeout bound the map to a few hundred entries.
        lookups.retain(|_, (started, lookup)| started.elapsed() < LOOKUP_VALID || lookup.peek().is_none());
        if let Some((_, lookup)) = lookups.get(&id) {
            return Some(lookup.clone());
        }
        self.rate.check().ok()?;
        let task = self.control.spawn(self.fetch(id, LOOKUP_TIMEOUT));
        let lookup = task.map(|admission| admission.unwrap_or(Admission::Unknown)).boxed().shared();
        lookups.insert(id, (Instant::now(), lookup.clone()));
        Some(lookup)
    }

    /// Reads a session from the store; [`Admission::Unknown`] after `timeout`.
    fn fetch(&self, id: SessionId, timeout: Duration) -> impl Future<Output = Admission> + use<> {
        let (store, live, rules) = (self.store.clone(), self.live.clone(), self.rules.clone());
        let reading = async move {
            loop {
                let lists = live.lists();
                let Ok(stored) = store.get(id).await else { return Admission::Unknown };
                let found = stored.map(|stored| stored.session);
                let session = match found.as_ref().map(|session| rules.evaluate(session)) {
                    Some(Verdict::Withhold) => return Admission::Unknown,
                    Some(Verdict::Allow) => found.as_ref(),
                    Some(Verdict::End(_)) | None => None,
                };
                let Some(session) = live.looked_up(id, session) else { return Admission::Ended };
                // A list that arrived meanwhile may be newer than this response, and an ended session is only missing from it.
                if live.lists() == lists {
                    return Admission::LookedUp(session);
                }
            }
        };
        async move { tokio::time::timeout(timeout, reading).await.unwrap_or(Admission::Unknown) }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use async_trait::async_trait;
    use futures::stream::{self, BoxStream, StreamExt};
    use jiff::SignedDuration;

    use super::super::{Deletion, SessionFilter, StoreError, Stored};
    use super::*;
    use crate::{api::SessionPhase, api::proxy::EmailVerified, session::Session, testing::session};

    /// Holds one session until it ends, counts requests, and may be down.
    #[derive(Default)]
    struct Store {
        session: Option<Session>,
        ended: AtomicBool,
        requests: AtomicUsize,
        down: AtomicBool,
    }

    #[async_trait]
    impl SessionStore for Store {
        async fn get(&self, id: SessionId) -> Result<Option<Stored>, StoreError> {
            self.requests.fetch_add(1, Ordering::SeqCst);
            let found = |session: &Session| session.id == id && !self.ended.load(Ordering::SeqCst);
            let session = self.session.clone().filter(found);
            // The response takes a while to arrive.
            tokio::task::yield_now().await;
            if self.down.load(Ordering::SeqCst) {
                return Err(StoreError::unavailable("down"));
            }
            Ok(session.map(|session| Stored { session, version: String::new(), uid: String::new() }))
        }

        async fn create(&self, _: &Session) -> Result<(), StoreError> {
            unreachable!("a look-up must not write")
        }

        async fn replace(&self, _: &Stored, _: &Session) -> Result<(), StoreError> {
            unreachable!("a look-up must not write")
        }

        async fn end(&self, _: &Stored, _: Deletion<'_>) -> Result<bool, StoreError> {
            unreachable!("a look-up must not write")
        }

        async fn purge(&self, _: Timestamp, _: SignedDuration, _: SessionFilter<'_>) -> Result<(), StoreError> {
            unreachable!("a look-up must not write")
        }

        fn last_contact(&self) -> i64 {
            0
        }

        fn watch(&self) -> BoxStream<'static, SessionEvent> {
            stream::empty().boxed()
        }
    }

    fn active() -> Session {
        Session { phase: SessionPhase::Active, ..session("a") }
    }

    /// The access rules of a process that started a minute after the session was created.
    fn rules(policy: &str) -> Arc<Rules> {
        let access = serde_json::from_value(serde_json::json!({"policy": policy})).unwrap();
        Arc::new(Rules::new(access, EmailVerified::Required, None, active().created_at + SignedDuration::from_mins(1)))
    }

    fn sessions(store: Store) -> (Sessions, Arc<Store>, Timestamp) {
        let store = Arc::new(store);
        let live = Arc::new(LiveSet::default());
        live.apply(SessionEvent::All(vec![]));
        (Sessions::new(live, store.clone(), Handle::current(), rules("AnyUser")), store, active().created_at)
    }

    #[tokio::test]
    async fn concurrent_look_ups_of_one_session_are_merged() {
        let (sessions, store, now) = sessions(Store { session: Some(active()), ..Store::default() });
        let all = futures::future::join_all((0..50).map(|_| sessions.admit(active().id, now))).await;
        assert!(all.iter().all(|admission| matches!(admission, Admission::LookedUp(_))));
        assert_eq!(store.requests.load(Ordering::SeqCst), 1);
        assert_eq!(sessions.live().len(), 0, "a look-up must not add a member");
    }

    #[tokio::test]
    async fn failed_look_up_leaves_the_session_unknown() {
        let (sessions, store, now) = sessions(Store { session: Some(active()), ..Store::default() });
        store.down.store(true, Ordering::SeqCst);
        assert!(matches!(sessions.admit(active().id, now).await, Admission::Unknown));
        assert!(!sessions.live().has_ended(&active().id));
    }

    #[tokio::test]
    async fn ended_session_is_looked_up_once() {
        let (sessions, store, now) = sessions(Store::default());
        for _ in 0..3 {
            assert!(matches!(sessions.admit(active().id, now).await, Admission::Ended));
            sessions.lookups.lock().unwrap().clear();
        }
        assert_eq!(store.requests.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn unknown_sessions_are_looked_up_within_the_rate_limit() {
        let (sessions, store, now) = sessions(Store::default());
        let ids = (0..1000).map(|number| session(&number.to_string()).id);
        let all = futures::future::join_all(ids.map(|id| sessions.admit(id, now))).await;
        let requests = store.requests.load(Ordering::SeqCst);
        assert!((100..1000).contains(&requests), "{requests}");
        let unknown = all.iter().filter(|admission| matches!(admission, Admission::Unknown)).count();
        assert_eq!(unknown, 1000 - requests);
    }

    #[tokio::test]
    async fn watch_ends_a_session_admitted_by_a_look_up() {
        let (sessions, _, now) = sessions(Store { session: Some(active()), ..Store::default() });
        assert!(matches!(sessions.admit(active().id, now).await, Admission::LookedUp(_)));
        sessions.live().apply(SessionEvent::Ended(active().id));
        assert!(matches!(sessions.admit(active().id, now).await, Admission::Ended));
    }

    #[tokio::test]
    async fn unlisted_session_continues_only_if_the_store_still_has_it() {
        for (ended, down, lives) in [(false, false, true), (true, false, false), (false, true, false)] {
            let (sessions, store, now) = sessions(Store { session: Some(active()), ..Store::default() });
            let Admission::LookedUp(held) = sessions.admit(active().id, now).await else {
                panic!("the session is not found")
            };
            store.ended.store(ended, Ordering::SeqCst);
            store.down.store(down, Ordering::SeqCst);
            for id in sessions.live().apply(SessionEvent::All(vec![])) {
                assert!(held.admits(now), "a list alone must not end a looked-up session");
                sessions.resolve_unlisted(id).await;
            }
            assert_eq!(held.admits(now), lives, "ended: {ended}, down: {down}");
            assert_eq!(store.requests.load(Ordering::SeqCst), 2);
            // An unknown state is not recorded as an end.
            assert_eq!(sessions.live().has_ended(&active().id), ended);
            let again = sessions.admit(active().id, now).await;
            assert_eq!(matches!(again, Admission::Ended), ended);
            assert_eq!(matches!(again, Admission::Unknown), down);
        }
    }

    #[tokio::test]
    async fn list_triggers_a_look_up_of_unlisted_sessions() {
        let (sessions, store, now) = sessions(Store { session: Some(active()), ..Store::default() });
        let Admission::LookedUp(held) = sessions.admit(active().id, now).await else {
            panic!("the session is not found")
        };
        store.ended.store(true, Ordering::SeqCst);
        sessions.apply(SessionEvent::All(vec![]));
        let ends = async {
            while held.admits(now) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), ends).await.expect("the session ends");
    }

    /// The session is live when the store is read and ends before the list is read, so the watch never reports its end.
    #[tokio::test]
    async fn look_up_is_repeated_if_a_list_arrives_meanwhile() {
        let (sessions, store, now) = sessions(Store { session: Some(active()), ..Store::default() });
        let admission = sessions.admit(active().id, now);
        let meanwhile = async {
            while store.requests.load(Ordering::SeqCst) == 0 {
                tokio::task::yield_now().await;
            }
            store.ended.store(true, Ordering::SeqCst);
            sessions.apply(SessionEvent::All(vec![]));
        };
        let (admission, ()) = futures::join!(admission, meanwhile);
        assert!(matches!(admission, Admission::Ended));
        assert_eq!(store.requests.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn session_denied_by_the_rules_is_ended_or_unknown_if_newer_than_the_rules() {
        let (mut sessions, _, now) = sessions(Store { session: Some(active()), ..Store::default() });
        sessions.rules = rules("Listed");
        assert!(matches!(sessions.admit(active().id, now).await, Admission::Ended));
        let younger = Session { created_at: now + SignedDuration::from_mins(2), ..active() };
        let (mut sessions, ..) = self::sessions(Store { session: Some(younger), ..Store::default() });
        sessions.rules = rules("Listed");
        assert!(matches!(sessions.admit(active().id, now).await, Admission::Unknown));
    }
}
