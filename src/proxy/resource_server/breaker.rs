use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use thiserror::Error;

/// Consecutive connect failures that open the breaker.
const FAILURES: u32 = 5;

/// The first pause. It doubles after each failed probe.
const MIN_PAUSE: Duration = Duration::from_secs(1);

const MAX_PAUSE: Duration = Duration::from_secs(30);

/// A circuit breaker for connections to the upstream, shared by all workers. Open connections are not affected.
#[derive(Debug)]
pub struct Breaker {
    start: Instant,
    /// Consecutive failures. From [`FAILURES`] on, the breaker is open.
    failures: AtomicU32,
    /// When the next probe is allowed, in milliseconds since `start`.
    next_probe: AtomicU64,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Attempt {
    Normal,
    /// The one attempt after a pause.
    Probe,
}

/// The breaker is open: new connections are paused.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[error("the upstream could not be reached {FAILURES} times in a row: new connections are paused")]
pub struct BreakerOpen {
    /// Time until the next probe.
    pub wait: Duration,
}

impl Breaker {
    pub fn new(start: Instant) -> Self {
        Self { start, failures: AtomicU32::new(0), next_probe: AtomicU64::new(0) }
    }

    /// Admits a connection attempt that may take `timeout`. An open breaker admits one probe after each pause.
    pub fn admit(&self, now: Instant, timeout: Duration) -> Result<Attempt, BreakerOpen> {
        if self.failures.load(Ordering::Relaxed) < FAILURES {
            return Ok(Attempt::Normal);
        }
        let now = self.milliseconds(now);
        let wait = |next: u64| BreakerOpen { wait: Duration::from_millis(next.saturating_sub(now)) };
        let next = self.next_probe.load(Ordering::Relaxed);
        if now < next {
            return Err(wait(next));
        }
        // A probe whose client disconnects reports nothing; after the timeout, the next one is admitted.
        let until = now.saturating_add(milliseconds(timeout)).max(now + 1);
        let claimed = self.next_probe.compare_exchange(next, until, Ordering::Relaxed, Ordering::Relaxed);
        claimed.map(|_| Attempt::Probe).map_err(wait)
    }

    /// Records a connection.
    pub fn succeeded(&self) {
        self.failures.store(0, Ordering::Relaxed);
    }

    /// Records a failed attempt. Attempts that started before the breaker opened do not lengthen the pause: after a restart of
    /// the upstream there may be hundreds.
    pub fn failed(&self, attempt: Attempt, now: Instant) {
        let count = |failures: u32| {
            let counts = (attempt == Attempt::Probe) == (failures >= FAILURES);
            counts.then(|| failures.saturating_add(1))
        };
        let Ok(before) = self.failures.fetch_update(Ordering::Relaxed, Ordering::Relaxed, count) else { return };
        if let Some(failed_probes) = (before + 1).checked_sub(FAILURES) {
            let pause = MIN_PAUSE.saturating_mul(1 << failed_probes.min(10)).min(MAX_PAUSE);
            self.next_probe.store(self.milliseconds(now).saturating_add(milliseconds(pause)), Ordering::Relaxed);
        }
    }

    fn milliseconds(&self, time: Instant) -> u64 {
        milliseconds(time.saturating_duration_since(self.start))
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(5);

    fn open_breaker(now: Instant) -> Breaker {
        let breaker = Breaker::new(now);
        for _ in 0..FAILURES {
            assert_eq!(breaker.admit(now, TIMEOUT), Ok(Attempt::Normal));
            breaker.failed(Attempt::Normal, now);
        }
        breaker
    }

    #[test]
    fn open_breaker_admits_one_probe_at_a_time() {
        let start = Instant::now();
        let breaker = open_breaker(start);
        assert_eq!(breaker.admit(start, TIMEOUT), Err(BreakerOpen { wait: MIN_PAUSE }));
        let later = start + MIN_PAUSE;
        assert_eq!(breaker.admit(later, TIMEOUT), Ok(Attempt::Probe));
        assert_eq!(breaker.admit(later, TIMEOUT), Err(BreakerOpen { wait: TIMEOUT }));
        breaker.failed(Attempt::Probe, later);
        assert_eq!(breaker.admit(later, TIMEOUT), Err(BreakerOpen { wait: MIN_PAUSE * 2 }));
        assert_eq!(breaker.admit(later + MIN_PAUSE * 2, TIMEOUT), Ok(Attempt::Probe));
        breaker.succeeded();
        assert_eq!(breaker.admit(later, TIMEOUT), Ok(Attempt::Normal));
    }

    #[test]
    fn simultaneous_failures_do_not_lengthen_the_pause() {
        let start = Instant::now();
        let breaker = open_breaker(start);
        (0..100).for_each(|_| breaker.failed(Attempt::Normal, start + TIMEOUT));
        assert_eq!(breaker.admit(start + MIN_PAUSE, TIMEOUT), Ok(Attempt::Probe));
        (0..100).for_each(|_| breaker.failed(Attempt::Normal, start + TIMEOUT));
        assert_eq!(breaker.admit(start + MIN_PAUSE, TIMEOUT), Err(BreakerOpen { wait: TIMEOUT }));
        breaker.failed(Attempt::Probe, start + MIN_PAUSE);
        assert_eq!(breaker.admit(start + MIN_PAUSE, TIMEOUT), Err(BreakerOpen { wait: MIN_PAUSE * 2 }));
    }

    #[test]
    fn abandoned_probe_does_not_block_the_next() {
        let start = Instant::now();
        let breaker = open_breaker(start);
        assert_eq!(breaker.admit(start + MIN_PAUSE, TIMEOUT), Ok(Attempt::Probe));
        assert_eq!(breaker.admit(start + MIN_PAUSE + TIMEOUT, TIMEOUT), Ok(Attempt::Probe));
    }

    #[test]
    fn success_resets_breaker_and_pause_is_bounded() {
        let start = Instant::now();
        let breaker = Breaker::new(start);
        for _ in 1..FAILURES {
            breaker.failed(Attempt::Normal, start);
        }
        breaker.succeeded();
        breaker.failed(Attempt::Normal, start);
        assert_eq!(breaker.admit(start, TIMEOUT), Ok(Attempt::Normal));
        let breaker = open_breaker(start);
        (0..100).for_each(|_| breaker.failed(Attempt::Probe, start));
        assert_eq!(breaker.admit(start, TIMEOUT), Err(BreakerOpen { wait: MAX_PAUSE }));
    }
}
