use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use thiserror::Error;

/// After so many connections in a row that could not be made, no more are tried for a while.
const FAILURES: u32 = 5;

/// How long at first; twice as long after each further failure.
const PAUSE: Duration = Duration::from_secs(1);

/// How long at most.
const LONGEST: Duration = Duration::from_secs(30);

/// Keeps requests from waiting for connections to an upstream that cannot be reached. One for all workers; connections that
/// are open already are not its business.
#[derive(Debug)]
pub struct Breaker {
    begun: Instant,
    failures: AtomicU32,
    /// When the next connection may be tried, in milliseconds since `begun`.
    next: AtomicU64,
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
    pub fn admit(&self, now: Instant, patience: Duration) -> Result<(), Broken> {
        if self.failures.load(Ordering::Relaxed) < FAILURES {
            return Ok(());
        }
        let now = self.milliseconds(now);
        let wait = |next: u64| Broken { wait: Duration::from_millis(next.saturating_sub(now)) };
        let next = self.next.load(Ordering::Relaxed);
        if now < next {
            return Err(wait(next));
        }
        // One whose caller has gone says nothing; then the next may try.
        let until = now.saturating_add(milliseconds(patience)).max(now + 1);
        self.next.compare_exchange(next, until, Ordering::Relaxed, Ordering::Relaxed).map(drop).map_err(wait)
    }

    /// A connection was made.
    pub fn succeeded(&self) {
        self.failures.store(0, Ordering::Relaxed);
    }

    /// None was made.
    pub fn failed(&self, now: Instant) {
        let before = self.failures.fetch_add(1, Ordering::Relaxed);
        if let Some(more) = (before + 1).checked_sub(FAILURES) {
            let pause = PAUSE.saturating_mul(1 << more.min(10)).min(LONGEST);
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
            assert_eq!(breaker.admit(now, PATIENCE), Ok(()));
            breaker.failed(now);
        }
        breaker
    }

    #[test]
    fn after_failures_in_a_row_one_at_a_time_may_try() {
        let begun = Instant::now();
        let breaker = broken(begun);
        assert_eq!(breaker.admit(begun, PATIENCE), Err(Broken { wait: PAUSE }));
        let later = begun + PAUSE;
        assert_eq!(breaker.admit(later, PATIENCE), Ok(()));
        assert_eq!(breaker.admit(later, PATIENCE), Err(Broken { wait: PATIENCE }));
        breaker.failed(later);
        assert_eq!(breaker.admit(later, PATIENCE), Err(Broken { wait: PAUSE * 2 }));
        assert_eq!(breaker.admit(later + PAUSE * 2, PATIENCE), Ok(()));
        breaker.succeeded();
        assert_eq!(breaker.admit(later, PATIENCE), Ok(()));
    }

    #[test]
    fn one_that_was_given_up_does_not_keep_the_next_from_trying() {
        let begun = Instant::now();
        let breaker = broken(begun);
        assert_eq!(breaker.admit(begun + PAUSE, PATIENCE), Ok(()));
        assert_eq!(breaker.admit(begun + PAUSE + PATIENCE, PATIENCE), Ok(()));
    }

    #[test]
    fn a_success_between_failures_is_a_new_beginning_and_pauses_have_an_end() {
        let begun = Instant::now();
        let breaker = Breaker::new(begun);
        for _ in 1..FAILURES {
            breaker.failed(begun);
        }
        breaker.succeeded();
        breaker.failed(begun);
        assert_eq!(breaker.admit(begun, PATIENCE), Ok(()));
        (0..100).for_each(|_| breaker.failed(begun));
        assert_eq!(breaker.admit(begun, PATIENCE), Err(Broken { wait: LONGEST }));
    }
}
