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

/// How long a look-up speaks for a session that the watch has not shown yet.
const LOOKUP_VALID: Duration = Duration::from_secs(1);

/// How many look-ups a second reach the store, for long and at once; more would let a flood of old tokens do so.
const LOOKUPS_A_SECOND: NonZeroU32 = NonZeroU32::new(50).unwrap();
const LOOKUPS_AT_ONCE: NonZeroU32 = NonZeroU32::new(100).unwrap();

/// How long a look-up may take.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

/// How long one may take of a session that a list does not have. Short: it may be one that has ended, and has been let through
/// for as long as the list took to come.
const UNLISTED_TIMEOUT: Duration = Duration::from_secs(1);

/// What is known of the session of a valid token.
#[derive(Clone, Debug)]
pub enum Admission {
    /// It is live.
    Live(Arc<LiveSession>),
    /// It was live when the store was asked, a second ago at most; the watch has not shown it yet.
    LookedUp(Arc<LiveSession>),
    /// It has ended.
    Ended,
    /// Nothing is known: the store cannot be asked, or there has been no complete list yet.
    Unknown,
}

type Lookup = Shared<BoxFuture<'static, Admission>>;

/// Says whether a session is live: from the live set, and for one that the watch has not shown yet (a login finished at
/// another replica a moment ago) from the store, once.
pub struct Sessions {
    live: Arc<LiveSet>,
    store: Arc<dyn SessionStore>,
    control: Handle,
    lookups: Mutex<HashMap<SessionId, (Instant, Lookup)>>,
    rate: DefaultDirectRateLimiter,
    rules: Arc<Rules>,
}

impl std::fmt::Debug for Sessions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sessions").field("live", &self.live).finish_non_exhaustive()
    }
}

impl Sessions {
    /// Look-ups run on `control`; what they find has to keep to the rules, like what the watch shows.
    pub fn new(live: Arc<LiveSet>, store: Arc<dyn SessionStore>, control: Handle, rules: Arc<Rules>) -> Self {
        let rate = RateLimiter::direct(Quota::per_second(LOOKUPS_A_SECOND).allow_burst(LOOKUPS_AT_ONCE));
        Self { live, store, control, lookups: Mutex::default(), rate, rules }
    }

    /// The live set alone.
    pub fn live(&self) -> &Arc<LiveSet> {
        &self.live
    }

    /// Takes in what the watch says.
    pub fn apply(&self, event: SessionEvent) {
        for id in self.live.apply(event) {
            self.control.spawn(self.settle(id));
        }
    }

    /// Asks the store for a session that a list does not have. If it is there, it is newer than the list, and the watch will
    /// show it. If nothing can be learned, it is taken as ended for those who hold it.
    fn settle(&self, id: SessionId) -> impl Future<Output = ()> + use<> {
        let (ask, live) = (self.ask(id, UNLISTED_TIMEOUT), self.live.clone());
        async move {
            if matches!(ask.await, Admission::Unknown) {
                live.let_go(&id);
            }
        }
    }

    /// Whether the session of that name is live at `now`.
    pub async fn admit(&self, id: SessionId, now: Timestamp) -> Admission {
        if !self.live.is_complete() {
            return Admission::Unknown;
        }
        match self.live.get(&id) {
            Some(session) if session.admits(now) => return Admission::Live(session),
            None if self.live.has_ended(&id) => return Admission::Ended,
            // Expired here means expired everywhere only if the record is the newest; a refresh at another replica may be
            // on its way to us, just as a login may be.
            _ => (),
        }
        let Some(lookup) = self.lookup(id) else { return Admission::Unknown };
        match lookup.await {
            // It was let go since, and that is no end.
            Admission::LookedUp(session) if session.is_over() && !self.live.has_ended(&id) => Admission::Unknown,
            Admission::LookedUp(session) if !session.admits(now) => Admission::Ended,
            other => other,
        }
    }

    /// One look-up a session and second, shared by all who ask; `None` if there are too many.
    fn lookup(&self, id: SessionId) -> Option<Lookup> {
        let mut lookups = self.lookups.lock().unwrap_or_else(PoisonError::into_inner);
        // A few hundred at most, by the rate and the time that each may take.
        lookups.retain(|_, (started, lookup)| started.elapsed() < LOOKUP_VALID || lookup.peek().is_none());
        if let Some((_, lookup)) = lookups.get(&id) {
            return Some(lookup.clone());
        }
        self.rate.check().ok()?;
        let task = self.control.spawn(self.ask(id, LOOKUP_TIMEOUT));
        let lookup = task.map(|admission| admission.unwrap_or(Admission::Unknown)).boxed().shared();
        lookups.insert(id, (Instant::now(), lookup.clone()));
        Some(lookup)
    }

    /// What the store says of a session, if it does so in time.
    fn ask(&self, id: SessionId, patience: Duration) -> impl Future<Output = Admission> + use<> {
        let (store, live, rules) = (self.store.clone(), self.live.clone(), self.rules.clone());
        let asking = async move {
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
                // A list that has come since may be newer than the answer, and nothing but its silence tell of the end.
                if live.lists() == lists {
                    return Admission::LookedUp(session);
                }
            }
        };
        async move { tokio::time::timeout(patience, asking).await.unwrap_or(Admission::Unknown) }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use async_trait::async_trait;
    use futures::stream::{self, BoxStream, StreamExt};
    use jiff::SignedDuration;

    use super::super::{Ending, IsOver, StoreError, Stored};
    use super::*;
    use crate::{
        api::SessionPhase,
        api::proxy::EmailVerified,
        session::{Session, tests::session},
    };

    /// Holds one session, until it has ended; counts who asks, and may be down.
    #[derive(Default)]
    struct Store {
        session: Option<Session>,
        ended: AtomicBool,
        asked: AtomicUsize,
        down: AtomicBool,
    }

    #[async_trait]
    impl SessionStore for Store {
        async fn get(&self, id: SessionId) -> Result<Option<Stored>, StoreError> {
            self.asked.fetch_add(1, Ordering::SeqCst);
            let found = |session: &Session| session.id == id && !self.ended.load(Ordering::SeqCst);
            let session = self.session.clone().filter(found);
            // What is found now is on its way for a while.
            tokio::task::yield_now().await;
            if self.down.load(Ordering::SeqCst) {
                return Err(StoreError::unavailable("down"));
            }
            Ok(session.map(|session| Stored { session, version: String::new(), uid: String::new() }))
        }

        async fn create(&self, _: &Session) -> Result<(), StoreError> {
            unreachable!("a look-up writes nothing")
        }

        async fn replace(&self, _: &Stored, _: &Session) -> Result<(), StoreError> {
            unreachable!("a look-up writes nothing")
        }

        async fn end(&self, _: &Stored, _: Ending<'_>) -> Result<bool, StoreError> {
            unreachable!("a look-up writes nothing")
        }

        async fn delete_dead(&self, _: Timestamp, _: SignedDuration, _: IsOver<'_>) -> Result<(), StoreError> {
            unreachable!("a look-up writes nothing")
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

    /// The rules of a process that started a minute after the session was begun.
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
    async fn all_who_ask_at_once_share_one_look_up() {
        let (sessions, store, now) = sessions(Store { session: Some(active()), ..Store::default() });
        let all = futures::future::join_all((0..50).map(|_| sessions.admit(active().id, now))).await;
        assert!(all.iter().all(|admission| matches!(admission, Admission::LookedUp(_))));
        assert_eq!(store.asked.load(Ordering::SeqCst), 1);
        assert_eq!(sessions.live().len(), 0, "a look-up makes no member");
    }

    #[tokio::test]
    async fn a_look_up_that_fails_says_nothing_of_the_session() {
        let (sessions, store, now) = sessions(Store { session: Some(active()), ..Store::default() });
        store.down.store(true, Ordering::SeqCst);
        assert!(matches!(sessions.admit(active().id, now).await, Admission::Unknown));
        assert!(!sessions.live().has_ended(&active().id));
    }

    #[tokio::test]
    async fn what_has_ended_is_asked_for_once() {
        let (sessions, store, now) = sessions(Store::default());
        for _ in 0..3 {
            assert!(matches!(sessions.admit(active().id, now).await, Admission::Ended));
            sessions.lookups.lock().unwrap().clear();
        }
        assert_eq!(store.asked.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_flood_of_unknown_sessions_does_not_reach_the_store() {
        let (sessions, store, now) = sessions(Store::default());
        let ids = (0..1000).map(|number| session(&number.to_string()).id);
        let all = futures::future::join_all(ids.map(|id| sessions.admit(id, now))).await;
        let asked = store.asked.load(Ordering::SeqCst);
        assert!((100..1000).contains(&asked), "{asked}");
        let unknown = all.iter().filter(|admission| matches!(admission, Admission::Unknown)).count();
        assert_eq!(unknown, 1000 - asked);
    }

    #[tokio::test]
    async fn an_end_that_the_watch_shows_ends_what_a_look_up_admitted() {
        let (sessions, _, now) = sessions(Store { session: Some(active()), ..Store::default() });
        assert!(matches!(sessions.admit(active().id, now).await, Admission::LookedUp(_)));
        sessions.live().apply(SessionEvent::Ended(active().id));
        assert!(matches!(sessions.admit(active().id, now).await, Admission::Ended));
    }

    #[tokio::test]
    async fn a_session_that_a_list_does_not_have_goes_on_only_if_the_store_has_it_after_that() {
        for (ended, down, lives) in [(false, false, true), (true, false, false), (false, true, false)] {
            let (sessions, store, now) = sessions(Store { session: Some(active()), ..Store::default() });
            let Admission::LookedUp(held) = sessions.admit(active().id, now).await else { panic!("it is found") };
            store.ended.store(ended, Ordering::SeqCst);
            store.down.store(down, Ordering::SeqCst);
            for id in sessions.live().apply(SessionEvent::All(vec![])) {
                assert!(held.admits(now), "a list alone ends nothing that was looked up");
                sessions.settle(id).await;
            }
            assert_eq!(held.admits(now), lives, "ended: {ended}, down: {down}");
            assert_eq!(store.asked.load(Ordering::SeqCst), 2);
            // That nobody knows is no end.
            assert_eq!(sessions.live().has_ended(&active().id), ended);
            let again = sessions.admit(active().id, now).await;
            assert_eq!(matches!(again, Admission::Ended), ended);
            assert_eq!(matches!(again, Admission::Unknown), down);
        }
    }

    #[tokio::test]
    async fn a_list_makes_the_store_be_asked_for_what_it_does_not_have() {
        let (sessions, store, now) = sessions(Store { session: Some(active()), ..Store::default() });
        let Admission::LookedUp(held) = sessions.admit(active().id, now).await else { panic!("it is found") };
        store.ended.store(true, Ordering::SeqCst);
        sessions.apply(SessionEvent::All(vec![]));
        let ends = async {
            while held.admits(now) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), ends).await.expect("it ends");
    }

    /// It was live when the store was asked and ended before the list was read, so that the watch has nothing to tell of it.
    #[tokio::test]
    async fn an_answer_that_comes_after_a_list_does_not_count_against_it() {
        let (sessions, store, now) = sessions(Store { session: Some(active()), ..Store::default() });
        let admission = sessions.admit(active().id, now);
        let meanwhile = async {
            while store.asked.load(Ordering::SeqCst) == 0 {
                tokio::task::yield_now().await;
            }
            store.ended.store(true, Ordering::SeqCst);
            sessions.apply(SessionEvent::All(vec![]));
        };
        let (admission, ()) = futures::join!(admission, meanwhile);
        assert!(matches!(admission, Admission::Ended));
        assert_eq!(store.asked.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn what_the_rules_do_not_let_in_has_ended_or_waits_if_it_is_younger_than_they_are() {
        let (mut sessions, _, now) = sessions(Store { session: Some(active()), ..Store::default() });
        sessions.rules = rules("Listed");
        assert!(matches!(sessions.admit(active().id, now).await, Admission::Ended));
        let younger = Session { created_at: now + SignedDuration::from_mins(2), ..active() };
        let (mut sessions, ..) = self::sessions(Store { session: Some(younger), ..Store::default() });
        sessions.rules = rules("Listed");
        assert!(matches!(sessions.admit(active().id, now).await, Admission::Unknown));
    }
}
