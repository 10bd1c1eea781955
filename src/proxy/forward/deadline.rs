use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use slab::Slab;

/// How often a worker looks whose time is over. A timer of its own for each request would cost more than the request's headers.
pub const TICK: Duration = Duration::from_millis(500);

/// What the tasks of one worker wait for that may take too long. Never leaves its thread.
#[derive(Debug, Default)]
pub struct Deadlines {
    /// How many ticks there have been.
    now: Cell<u64>,
    waiting: RefCell<Slab<Waiting>>,
}

#[derive(Debug)]
struct Waiting {
    due: u64,
    waker: Waker,
}

impl Deadlines {
    /// Wakes those whose time is over. To be called every [`TICK`].
    pub fn tick(&self) {
        let now = self.now.get() + 1;
        self.now.set(now);
        self.waiting
            .borrow()
            .iter()
            .filter(|(_, waiting)| waiting.due <= now)
            .for_each(|(_, due)| due.waker.wake_by_ref());
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
}

impl Deadline {
    /// One that is not running.
    pub fn new(all: Rc<Deadlines>) -> Self {
        Self { all, key: None }
    }

    /// Ready when it has been running for `limit`, or up to two ticks longer. It runs from the first time that this is asked.
    pub fn poll(&mut self, limit: Duration, cx: &Context<'_>) -> Poll<()> {
        let Some(key) = self.key else {
            let waiting = Waiting { due: self.all.due(limit), waker: cx.waker().clone() };
            self.key = Some(self.all.waiting.borrow_mut().insert(waiting));
            return Poll::Pending;
        };
        let mut all = self.all.waiting.borrow_mut();
        let Some(waiting) = all.get_mut(key) else { return Poll::Pending };
        if waiting.due <= self.all.now.get() {
            return Poll::Ready(());
        }
        waiting.waker.clone_from(cx.waker());
        Poll::Pending
    }

    /// What was waited for has come: stops it.
    pub fn stop(&mut self) {
        let stopped = self.key.take().and_then(|key| self.all.waiting.borrow_mut().try_remove(key));
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
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use futures::task::{ArcWake, waker};

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl ArcWake for Woken {
        fn wake_by_ref(woken: &Arc<Self>) {
            woken.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn a_task_is_woken_when_its_time_is_over_and_not_before() {
        let (all, woken) = (Rc::new(Deadlines::default()), Arc::new(Woken::default()));
        let (waker, mut deadline) = (waker(woken.clone()), Deadline::new(all.clone()));
        let cx = Context::from_waker(&waker);
        assert_eq!(deadline.poll(TICK * 2, &cx), Poll::Pending);
        for _ in 0..2 {
            all.tick();
            assert_eq!((deadline.poll(TICK * 2, &cx), woken.0.load(Ordering::SeqCst)), (Poll::Pending, 0));
        }
        all.tick();
        assert_eq!((deadline.poll(TICK * 2, &cx), woken.0.load(Ordering::SeqCst)), (Poll::Ready(()), 1));
    }

    #[test]
    fn one_that_was_stopped_wakes_nobody_and_runs_anew() {
        let (all, woken) = (Rc::new(Deadlines::default()), Arc::new(Woken::default()));
        let (waker, mut deadline) = (waker(woken.clone()), Deadline::new(all.clone()));
        let cx = Context::from_waker(&waker);
        assert_eq!(deadline.poll(TICK, &cx), Poll::Pending);
        all.tick();
        deadline.stop();
        all.tick();
        assert_eq!((deadline.poll(TICK, &cx), woken.0.load(Ordering::SeqCst)), (Poll::Pending, 0));
        drop(deadline);
        assert!(all.waiting.borrow().is_empty());
    }
}
