use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use thiserror::Error;

/// After so many connections in a row that could not be made, no more are tried for a while.
const FAILURES: u32 = 5;

/// How long at first; twice as long after each connection that was tried after a pause and could not be made either.
const PAUSE: Duration = Duration::from_secs(1);

/// How long at most.
const LONGEST: Duration = Duration::from_secs(30);

/// Keeps requests from waiting for connections to an upstream that cannot be reached. One for all workers; connections that
/// are open already are not its business.
#[derive(Debug)]
pub struct Breaker {
    begun: Instant,
    /// In a row, of those that count.
    failures: AtomicU32,
    /// When the next connection may be tried, in milliseconds since `begun`.
    next: AtomicU64,
}

/// A connection that is being tried.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Attempt {
    /// One of many.
    Usual,
    /// The one after a pause.
    Trial,
}

/// No connection is tried for now.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[error("the upstream could not be reached {FAILURES} times in a row: no connection is tried for now")]
pub struct Broken {
    /// Until one is tried.
    pub wait: Duration,
}

impl Breaker {
    /// One that lets everybody try.
    pub fn new(begun: Instant) -> Self {
        Self { begun, failures: AtomicU32::new(0), next: AtomicU64::new(0) }
    }

    /// Whether a connection may be tried that may take `patience`. After a pause, one may: it shows whether others may.
    ///
    /// # Errors
    /// When not.
    pub fn admit(&self, now: Instant, patience: Duration) -> Result<Attempt, Broken> {
        if self.failures.load(Ordering::Relaxed) < FAILURES {
            return Ok(Attempt::Usual);
        }
        let now = self.milliseconds(now);
        let wait = |next: u64| Broken { wait: Duration::from_millis(next.saturating_sub(now)) };
        let next = self.next.load(Ordering::Relaxed);
        if now < next {
            return Err(wait(next));
        }
        // One whose caller has gone says nothing; then the next may try.
        let until = now.saturating_add(milliseconds(patience)).max(now + 1);
        let claimed = self.next.compare_exchange(next, until, Ordering::Relaxed, Ordering::Relaxed);
        claimed.map(|_| Attempt::Trial).map_err(wait)
    }

    /// A connection was made.
    pub fn succeeded(&self) {
        self.failures.store(0, Ordering::Relaxed);
    }

    /// None was made. Those that were being tried already when the pause began say nothing new: after a restart of the upstream
    /// there may be hundreds.
    pub fn failed(&self, attempt: Attempt, now: Instant) {
        let counts = |failures: u32| match attempt {
            Attempt::Usual => (failures < FAILURES).then_some(failures + 1),
            Attempt::Trial => (failures >= FAILURES).then(|| failures.saturating_add(1)),
        };
        let Ok(before) = self.failures.fetch_update(Ordering::Relaxed, Ordering::Relaxed, counts) else { return };
        if let Some(trials) = (before + 1).checked_sub(FAILURES) {
            let pause = PAUSE.saturating_mul(1 << trials.min(10)).min(LONGEST);
            self.next.store(self.milliseconds(now).saturating_add(milliseconds(pause)), Ordering::Relaxed);
        }
    }

    fn milliseconds(&self, now: Instant) -> u64 {
        milliseconds(now.saturating_duration_since(self.begun))
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(5);

    fn broken(now: Instant) -> Breaker {
        let breaker = Breaker::new(now);
        for _ in 0..FAILURES {
            assert_eq!(breaker.admit(now, PATIENCE), Ok(Attempt::Usual));
            breaker.failed(Attempt::Usual, now);
        }
        breaker
    }

    #[test]
    fn open_breaker_admits_one_trial_at_a_time() {
        let begun = Instant::now();
        let breaker = broken(begun);
        assert_eq!(breaker.admit(begun, PATIENCE), Err(Broken { wait: PAUSE }));
        let later = begun + PAUSE;
        assert_eq!(breaker.admit(later, PATIENCE), Ok(Attempt::Trial));
        assert_eq!(breaker.admit(later, PATIENCE), Err(Broken { wait: PATIENCE }));
        breaker.failed(Attempt::Trial, later);
        assert_eq!(breaker.admit(later, PATIENCE), Err(Broken { wait: PAUSE * 2 }));
        assert_eq!(breaker.admit(later + PAUSE * 2, PATIENCE), Ok(Attempt::Trial));
        breaker.succeeded();
        assert_eq!(breaker.admit(later, PATIENCE), Ok(Attempt::Usual));
    }

    #[test]
    fn simultaneous_failures_do_not_lengthen_the_pause() {
        let begun = Instant::now();
        let breaker = broken(begun);
        (0..100).for_each(|_| breaker.failed(Attempt::Usual, begun + PATIENCE));
        assert_eq!(breaker.admit(begun + PAUSE, PATIENCE), Ok(Attempt::Trial));
        (0..100).for_each(|_| breaker.failed(Attempt::Usual, begun + PATIENCE));
        assert_eq!(breaker.admit(begun + PAUSE, PATIENCE), Err(Broken { wait: PATIENCE }));
        breaker.failed(Attempt::Trial, begun + PAUSE);
        assert_eq!(breaker.admit(begun + PAUSE, PATIENCE), Err(Broken { wait: PAUSE * 2 }));
    }

    #[test]
    fn abandoned_trial_does_not_block_the_next() {
        let begun = Instant::now();
        let breaker = broken(begun);
        assert_eq!(breaker.admit(begun + PAUSE, PATIENCE), Ok(Attempt::Trial));
        assert_eq!(breaker.admit(begun + PAUSE + PATIENCE, PATIENCE), Ok(Attempt::Trial));
    }

    #[test]
    fn success_resets_breaker_and_pause_is_bounded() {
        let begun = Instant::now();
        let breaker = Breaker::new(begun);
        for _ in 1..FAILURES {
            breaker.failed(Attempt::Usual, begun);
        }
        breaker.succeeded();
        breaker.failed(Attempt::Usual, begun);
        assert_eq!(breaker.admit(begun, PATIENCE), Ok(Attempt::Usual));
        let breaker = broken(begun);
        (0..100).for_each(|_| breaker.failed(Attempt::Trial, begun));
        assert_eq!(breaker.admit(begun, PATIENCE), Err(Broken { wait: LONGEST }));
    }
}
