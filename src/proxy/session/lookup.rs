use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use jiff::Timestamp;
use tokio::{runtime::Handle, sync::Semaphore};

use super::{LiveSession, LiveSet, SessionId, SessionStore};

/// How long a look-up speaks for a session that the watch has not shown yet.
const LOOKUP_VALID: Duration = Duration::from_secs(1);

/// How many look-ups may be under way at once; more would let a flood of old tokens reach the store.
const CONCURRENT_LOOKUPS: usize = 16;

/// How long a look-up may take.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

/// What is known of the session of a valid token.
#[derive(Clone, Debug)]
pub enum Admission {
    /// It is live, and will be seen to end.
    Live(Arc<LiveSession>),
    /// It was live when the store was asked, a second ago at most; its end will not be seen.
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
    slots: Arc<Semaphore>,
}

impl std::fmt::Debug for Sessions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sessions").field("live", &self.live).finish_non_exhaustive()
    }
}

impl Sessions {
    /// Look-ups run on `control`.
    pub fn new(live: Arc<LiveSet>, store: Arc<dyn SessionStore>, control: Handle) -> Self {
        let slots = Arc::new(Semaphore::new(CONCURRENT_LOOKUPS));
        Self { live, store, control, lookups: Mutex::default(), slots }
    }

    /// The live set alone.
    pub fn live(&self) -> &Arc<LiveSet> {
        &self.live
    }

    /// Whether the session of that name is live at `now`.
    pub async fn admit(&self, id: SessionId, now: Timestamp) -> Admission {
        if !self.live.is_complete() {
            return Admission::Unknown;
        }
        match self.live.get(&id) {
            Some(session) if session.admits(now) => Admission::Live(session),
            // Expired here means expired everywhere only if the record is the newest; a refresh at another replica may be
            // on its way to us, just as a login may be.
            _ => {
                let lookup = self.lookup(id);
                match lookup.await {
                    Admission::LookedUp(session) if !session.admits(now) => Admission::Ended,
                    other => other,
                }
            }
        }
    }

    /// One look-up a session and second, shared by all who ask.
    fn lookup(&self, id: SessionId) -> Lookup {
        let mut lookups = self.lookups.lock().unwrap_or_else(PoisonError::into_inner);
        lookups.retain(|_, (started, lookup)| started.elapsed() < LOOKUP_VALID || lookup.peek().is_none());
        let (_, lookup) = lookups.entry(id).or_insert_with(|| (Instant::now(), self.start(id)));
        lookup.clone()
    }

    fn start(&self, id: SessionId) -> Lookup {
        let (store, slots) = (self.store.clone(), self.slots.clone());
        let task = self.control.spawn(async move {
            let Ok(_slot) = slots.try_acquire() else { return Admission::Unknown };
            match tokio::time::timeout(LOOKUP_TIMEOUT, store.get(id)).await {
                Ok(Ok(Some(stored))) => Admission::LookedUp(Arc::new(LiveSession::new(&stored.session))),
                Ok(Ok(None)) => Admission::Ended,
                Ok(Err(_)) | Err(_) => Admission::Unknown,
            }
        });
        task.map(|admission| admission.unwrap_or(Admission::Unknown)).boxed().shared()
    }
}
