use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use jiff::Timestamp;
use slab::Slab;

use crate::proxy::sessions::LiveSession;

/// How often a worker looks whose time is over. A timer of its own for each request would cost more.
pub const TICK: Duration = Duration::from_millis(500);

/// What the tasks of one worker wait for that may take too long. Never leaves its thread.
#[derive(Debug)]
pub struct Deadlines {
    /// How many ticks there have been.
    now: Cell<u64>,
    /// What time it was at the last.
    time: Cell<Timestamp>,
    closed: Cell<bool>,
    waiting: RefCell<Slab<Waiting>>,
}

#[derive(Debug)]
struct Waiting {
    due: u64,
    waker: Waker,
    watched: Option<Watched>,
}

/// A session, and the time in seconds since 1970, after which a task may not go on.
type Watched = (Arc<LiveSession>, i64);

impl Deadlines {
    /// None yet, at this time.
    pub fn new(time: Timestamp) -> Self {
        Self { now: Cell::new(0), time: Cell::new(time), closed: Cell::new(false), waiting: RefCell::default() }
    }

    /// Wakes those whose time is over, or their session. To be called every [`TICK`].
    pub fn tick(&self, time: Timestamp) {
        let now = self.now.get() + 1;
        self.now.set(now);
        self.time.set(time);
        let is_over = |(session, until): &Watched| !session.admits(time) || time.as_second() >= *until;
        for (_, waiting) in self.waiting.borrow().iter() {
            if waiting.due <= now || waiting.watched.as_ref().is_some_and(is_over) {
                waiting.waker.wake_by_ref();
            }
        }
    }

    /// What time it was at the last tick: what is looked at for each part of an answer need not be newer.
    pub fn time(&self) -> Timestamp {
        self.time.get()
    }

    /// Ends all that watches a session, because this process ends.
    pub fn close(&self) {
        self.closed.set(true);
        self.waiting.borrow().iter().for_each(|(_, waiting)| waiting.waker.wake_by_ref());
    }

    /// Whether that has been called.
    pub fn is_closed(&self) -> bool {
        self.closed.get()
    }

    /// The first tick by which so much time is certainly over.
    fn due(&self, after: Duration) -> u64 {
        let ticks = after.as_millis().div_ceil(TICK.as_millis());
        self.now.get().saturating_add(u64::try_from(ticks).unwrap_or(u64::MAX)).saturating_add(1)
    }
}

/// A limit for one thing that a task waits for. Costs nothing until it has to wait.
#[derive(Debug)]
pub struct Deadline {
    all: Rc<Deadlines>,
    key: Option<usize>,
    watched: Option<Watched>,
}

impl Deadline {
    /// One that is not running.
    pub fn new(all: Rc<Deadlines>) -> Self {
        Self { all, key: None, watched: None }
    }

    /// Where it belongs to.
    pub fn all(&self) -> &Deadlines {
        &self.all
    }

    /// Ready when it has been running for `limit`, or up to two ticks longer. It runs from the first time that this is asked.
    pub fn poll(&mut self, limit: Duration, cx: &Context<'_>) -> Poll<()> {
        let Some(key) = self.key else {
            let (due, waker, watched) = (self.all.due(limit), cx.waker().clone(), self.watched.clone());
            self.key = Some(self.all.waiting.borrow_mut().insert(Waiting { due, waker, watched }));
            return Poll::Pending;
        };
        let now = self.all.now.get();
        let mut waiting = self.all.waiting.borrow_mut();
        match waiting.get_mut(key) {
            Some(waiting) if waiting.due <= now => Poll::Ready(()),
            Some(waiting) => {
                waiting.waker.clone_from(cx.waker());
                Poll::Pending
            }
            None => Poll::Pending,
        }
    }

    /// From now on its task is woken, too, when the session is over or the time, in seconds since 1970.
    pub fn watch(&mut self, session: Arc<LiveSession>, until: i64) {
        let watched = Some((session, until));
        if let Some(key) = self.key
            && let Some(waiting) = self.all.waiting.borrow_mut().get_mut(key)
        {
            waiting.watched.clone_from(&watched);
        }
        self.watched = watched;
    }

    /// Undoes [`Self::watch`].
    pub fn unwatch(&mut self) {
        if let Some(key) = self.key
            && let Some(waiting) = self.all.waiting.borrow_mut().get_mut(key)
        {
            waiting.watched = None;
        }
        self.watched = None;
    }

    /// Whether what it watches is over, or this process ends.
    pub fn is_over(&self) -> bool {
        let now = self.all.time();
        let watched = self.watched.as_ref();
        watched
            .is_some_and(|(session, until)| !session.admits(now) || now.as_second() >= *until || self.all.is_closed())
    }

    /// If it runs, it runs anew from now on.
    pub fn restart(&mut self, limit: Duration) {
        if let Some(key) = self.key {
            let due = self.all.due(limit);
            if let Some(waiting) = self.all.waiting.borrow_mut().get_mut(key) {
                waiting.due = due;
            }
        }
    }

    /// What was waited for has come: stops it.
    pub fn stop(&mut self) {
        let Some(key) = self.key.take() else { return };
        let stopped = self.all.waiting.borrow_mut().try_remove(key);
        // Not while the others are borrowed: with a waker its task may go, and with that further deadlines.
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
    use super::super::testing::Wakes;
    use super::*;
    use crate::{
        api::SessionPhase,
        proxy::sessions::{LiveSet, SessionEvent},
        session::{Session, tests::session},
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
    fn stopped_deadline_wakes_nobody_and_can_restart() {
        let (all, woken) = (Rc::new(Deadlines::new(Timestamp::UNIX_EPOCH)), Arc::new(Wakes::default()));
        let (waker, mut deadline) = (Waker::from(woken.clone()), Deadline::new(all.clone()));
        let cx = Context::from_waker(&waker);
        assert_eq!(deadline.poll(TICK, &cx), Poll::Pending);
        all.tick(Timestamp::UNIX_EPOCH);
        deadline.stop();
        all.tick(Timestamp::UNIX_EPOCH);
        assert_eq!((deadline.poll(TICK, &cx), woken.count()), (Poll::Pending, 0));
        drop(deadline);
        assert!(all.waiting.borrow().is_empty());
    }

    #[test]
    fn session_watch_wakes_at_session_end_expiry_and_shutdown() {
        let (live, begun) = (LiveSet::default(), Timestamp::from_second(1000).unwrap());
        let at = |second: i64| Timestamp::from_second(second).unwrap();
        let ends = |what: &dyn Fn(&Deadlines, &Session)| {
            let session = Session { phase: SessionPhase::Active, expires_at: at(2000), ..session("a") };
            live.apply(SessionEvent::All(vec![]));
            live.apply(SessionEvent::All(vec![session.clone()]));
            let (all, woken) = (Rc::new(Deadlines::new(begun)), Arc::new(Wakes::default()));
            let (waker, mut deadline) = (Waker::from(woken.clone()), Deadline::new(all.clone()));
            deadline.watch(live.get(&session.id).unwrap(), 1500);
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
}
