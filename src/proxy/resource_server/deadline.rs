use std::{
    cell::{Cell, RefCell, RefMut},
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use jiff::Timestamp;
use slab::Slab;

use crate::{end_reasons::ResponseCutReason, proxy::sessions::LiveSession};

/// How often a worker checks its deadlines. A timer for each request would cost more.
pub const TICK: Duration = Duration::from_millis(500);

/// The running deadlines of one worker.
#[derive(Debug)]
pub struct Deadlines {
    /// The number of ticks so far.
    now: Cell<u64>,
    /// The time of the last tick.
    time: Cell<Timestamp>,
    is_closed: Cell<bool>,
    running: RefCell<Slab<Running>>,
}

#[derive(Debug)]
struct Running {
    due: u64,
    waker: Waker,
    credentials: Option<ResponseCredentials>,
}

/// What a response depends on: its session, and the time in seconds since 1970 until which its access token allows it.
#[derive(Clone, Debug)]
pub struct ResponseCredentials {
    pub session: Arc<LiveSession>,
    pub until: i64,
}

impl ResponseCredentials {
    /// Why they are not valid at `now`.
    fn end_reason(&self, now: Timestamp) -> Option<ResponseCutReason> {
        if !self.session.admits(now) {
            return Some(ResponseCutReason::SessionEnded);
        }
        (now.as_second() >= self.until).then_some(ResponseCutReason::TokenEnded)
    }
}

impl Deadlines {
    pub fn new(time: Timestamp) -> Self {
        Self { now: Cell::new(0), time: Cell::new(time), is_closed: Cell::new(false), running: RefCell::default() }
    }

    /// Wakes the tasks whose deadline or credentials have expired. Must be called every [`TICK`].
    pub fn tick(&self, time: Timestamp) {
        let now = self.now.get() + 1;
        self.now.set(now);
        self.time.set(time);
        for (_, running) in self.running.borrow().iter() {
            let credentials = running.credentials.as_ref();
            if running.due <= now || credentials.and_then(|credentials| credentials.end_reason(time)).is_some() {
                running.waker.wake_by_ref();
            }
        }
    }

    /// The time of the last tick, which is recent enough for checks on each part of a response.
    pub fn time(&self) -> Timestamp {
        self.time.get()
    }

    /// Ends all responses, because this process shuts down.
    pub fn close(&self) {
        self.is_closed.set(true);
        self.wake_all();
    }

    /// Wakes all tasks with a running deadline.
    pub fn wake_all(&self) {
        self.running.borrow().iter().for_each(|(_, running)| running.waker.wake_by_ref());
    }

    /// The first tick at which `after` has certainly passed.
    fn due(&self, after: Duration) -> u64 {
        let ticks = after.as_millis().div_ceil(TICK.as_millis());
        self.now.get().saturating_add(u64::try_from(ticks).unwrap_or(u64::MAX)).saturating_add(1)
    }
}

/// A time limit for one thing that a task waits for. It costs nothing until the task has to wait.
#[derive(Debug)]
pub struct Deadline {
    all: Rc<Deadlines>,
    key: Option<usize>,
    credentials: Option<ResponseCredentials>,
}

impl Deadline {
    pub fn new(all: Rc<Deadlines>) -> Self {
        Self { all, key: None, credentials: None }
    }

    fn running(&self) -> Option<RefMut<'_, Running>> {
        let key = self.key?;
        RefMut::filter_map(self.all.running.borrow_mut(), |running| running.get_mut(key)).ok()
    }

    /// Ready when it has been running for `limit`, or up to two ticks longer. The first poll starts it.
    pub fn poll(&mut self, limit: Duration, cx: &Context<'_>) -> Poll<()> {
        if self.key.is_none() {
            let (due, waker, credentials) = (self.all.due(limit), cx.waker().clone(), self.credentials.clone());
            self.key = Some(self.all.running.borrow_mut().insert(Running { due, waker, credentials }));
            return Poll::Pending;
        }
        match self.running() {
            Some(running) if running.due <= self.all.now.get() => Poll::Ready(()),
            Some(mut running) => {
                running.waker.clone_from(cx.waker());
                Poll::Pending
            }
            None => Poll::Pending,
        }
    }

    /// Also wakes the task when `credentials` expire.
    pub fn watch(&mut self, credentials: Option<ResponseCredentials>) {
        if let Some(mut running) = self.running() {
            running.credentials.clone_from(&credentials);
        }
        self.credentials = credentials;
    }

    pub fn credentials(&self) -> Option<&ResponseCredentials> {
        self.credentials.as_ref()
    }

    /// Why the watched response must end.
    pub fn end_reason(&self) -> Option<ResponseCutReason> {
        let reason = self.credentials.as_ref()?.end_reason(self.all.time());
        reason.or_else(|| self.all.is_closed.get().then_some(ResponseCutReason::Leaving))
    }

    /// Restarts it if it is running.
    pub fn restart(&mut self, limit: Duration) {
        let due = self.all.due(limit);
        if let Some(mut running) = self.running() {
            running.due = due;
        }
    }

    pub fn stop(&mut self) {
        let Some(key) = self.key.take() else { return };
        let stopped = self.all.running.borrow_mut().try_remove(key);
        // Outside the borrow: dropping a waker may drop its task and further deadlines.
        drop(stopped);
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        self.stop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::SessionPhase,
        proxy::sessions::{LiveSet, SessionEvent},
        session::Session,
        testing::{Wakes, session},
    };

    #[test]
    fn deadline_wakes_its_task_when_due() {
        let (all, woken) = (Rc::new(Deadlines::new(Timestamp::UNIX_EPOCH)), Arc::new(Wakes::default()));
        let (waker, mut deadline) = (Waker::from(woken.clone()), Deadline::new(all.clone()));
        let cx = Context::from_waker(&waker);
        assert_eq!(deadline.poll(TICK * 2, &cx), Poll::Pending);
        for _ in 0..2 {
            all.tick(Timestamp::UNIX_EPOCH);
            assert_eq!((deadline.poll(TICK * 2, &cx), woken.count()), (Poll::Pending, 0));
        }
        all.tick(Timestamp::UNIX_EPOCH);
        assert_eq!((deadline.poll(TICK * 2, &cx), woken.count()), (Poll::Ready(()), 1));
    }

    #[test]
    fn stopped_deadline_does_not_wake_and_can_restart() {
        let (all, woken) = (Rc::new(Deadlines::new(Timestamp::UNIX_EPOCH)), Arc::new(Wakes::default()));
        let (waker, mut deadline) = (Waker::from(woken.clone()), Deadline::new(all.clone()));
        let cx = Context::from_waker(&waker);
        assert_eq!(deadline.poll(TICK, &cx), Poll::Pending);
        all.tick(Timestamp::UNIX_EPOCH);
        deadline.stop();
        all.tick(Timestamp::UNIX_EPOCH);
        assert_eq!((deadline.poll(TICK, &cx), woken.count()), (Poll::Pending, 0));
        drop(deadline);
        assert!(all.running.borrow().is_empty());
    }

    #[test]
    fn session_watch_wakes_at_session_end_expiry_and_shutdown() {
        let (live, start) = (LiveSet::default(), Timestamp::from_second(1000).unwrap());
        let at = |second: i64| Timestamp::from_second(second).unwrap();
        let ends = |what: &dyn Fn(&Deadlines, &Session)| {
            let session = Session { phase: SessionPhase::Active, expires_at: at(2000), ..session("a") };
            live.apply(SessionEvent::All(vec![]));
            live.apply(SessionEvent::All(vec![session.clone()]));
            let (all, woken) = (Rc::new(Deadlines::new(start)), Arc::new(Wakes::default()));
            let (waker, mut deadline) = (Waker::from(woken.clone()), Deadline::new(all.clone()));
            let session_and_token = ResponseCredentials { session: live.get(&session.id).unwrap(), until: 1500 };
            deadline.watch(Some(session_and_token));
            assert_eq!(deadline.poll(Duration::from_secs(3600), &Context::from_waker(&waker)), Poll::Pending);
            all.tick(at(1499));
            assert_eq!(woken.count(), 0);
            what(&all, &session);
            woken.count()
        };
        assert_eq!(ends(&|all, _| all.tick(at(1500))), 1);
        assert_eq!(ends(&|all, _| all.close()), 1);
        assert_eq!(
            ends(&|all, session| {
                live.apply(SessionEvent::Ended(session.id));
                all.tick(at(1499));
            }),
            1
        );
    }

    #[test]
    fn stalled_response_is_woken_when_its_session_ends() {
        let (live, now) = (LiveSet::default(), Timestamp::from_second(1000).unwrap());
        let session = Session { phase: SessionPhase::Active, expires_at: Timestamp::MAX, ..session("a") };
        live.apply(SessionEvent::Is(session.clone()));
        let (all, woken, hour) = (Rc::new(Deadlines::new(now)), Arc::new(Wakes::default()), Duration::from_secs(3600));
        let (waker, mut client) = (Waker::from(woken.clone()), Deadline::new(all.clone()));
        // The upstream's deadline has never run: the head and the content arrived at once.
        let mut upstream = Deadline::new(all.clone());
        upstream.watch(Some(ResponseCredentials { session: live.get(&session.id).unwrap(), until: 2000 }));
        assert_eq!(client.poll(hour, &Context::from_waker(&waker)), Poll::Pending);
        client.watch(upstream.credentials().cloned());
        all.tick(now);
        assert_eq!((woken.count(), upstream.end_reason()), (0, None));
        live.apply(SessionEvent::Ended(session.id));
        all.tick(now);
        assert_eq!((woken.count(), upstream.end_reason()), (1, Some(ResponseCutReason::SessionEnded)));
    }
}
