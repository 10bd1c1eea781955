//! What counting costs on the request path: one addition to a number that no other thread writes to.

use crate::reasons::{AnswerCut, StreamEnd};
use std::{
    sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

use super::labels::{CacheLookup, Connect, Label, Outcome};

/// A counter for each value of a label.
#[derive(Debug)]
pub struct Counts<L: Label>(L::Numbers);

impl<L: Label> Default for Counts<L> {
    fn default() -> Self {
        Self(L::Numbers::default())
    }
}

impl<L: Label> Counts<L> {
    /// One more.
    pub fn count(&self, label: L) {
        if let Some(number) = self.0.as_ref().get(label.index()) {
            number.fetch_add(1, Relaxed);
        }
    }

    /// How many there have been of each.
    pub fn all(&self) -> impl Iterator<Item = (L, u64)> {
        L::all().zip(self.0.as_ref().iter().map(|number| number.load(Relaxed)))
    }
}

/// The upper bounds of [`Durations`], in nanoseconds: half a millisecond to a minute.
pub const BOUNDS: [u64; 16] = [
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
    30_000_000_000,
    60_000_000_000,
];

/// How long something took, by [`BOUNDS`].
#[derive(Debug, Default)]
pub struct Durations {
    /// How many took no longer than each bound and longer than the one before; the last has no bound.
    pub counts: [AtomicU64; BOUNDS.len() + 1],
    /// All together, in nanoseconds.
    pub sum: AtomicU64,
}

impl Durations {
    /// One more.
    pub fn observe(&self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        if let Some(count) = self.counts.get(BOUNDS.partition_point(|bound| *bound < nanos)) {
            count.fetch_add(1, Relaxed);
        }
        self.sum.fetch_add(nanos, Relaxed);
    }
}

/// What one worker counts. Apart from the others' and aligned, so that no cache line goes to and fro between threads.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct WorkerMetrics {
    /// Requests for MCP endpoints.
    pub requests: Counts<Outcome>,
    /// From a request's head to the head of the upstream's answer to it.
    pub response_head: Durations,
    /// Event streams that are open.
    pub open_streams: AtomicI64,
    /// Those that are no longer.
    pub ended_streams: Counts<StreamEnd>,
    /// Answers that are no stream, and that clients did not get to their end.
    pub cut_answers: Counts<AnswerCut>,
    /// Look-ups of verified tokens.
    pub token_cache: Counts<CacheLookup>,
    /// Connections to the upstream that are open.
    pub upstream_connections: AtomicI64,
    /// Those of them that wait for a request.
    pub upstream_idle: AtomicUsize,
    /// What came of connecting to it.
    pub upstream_connects: Counts<Connect>,
}

/// One more as long as this is held.
#[derive(Debug)]
pub struct Held(std::sync::Arc<WorkerMetrics>);

impl Held {
    /// An open connection to the upstream.
    pub fn connection(metrics: std::sync::Arc<WorkerMetrics>) -> Self {
        metrics.upstream_connections.fetch_add(1, Relaxed);
        Self(metrics)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.upstream_connections.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histogram_bucket_is_the_first_bound_not_exceeded() {
        let durations = Durations::default();
        for (nanos, index) in [(0, 0), (500_000, 0), (500_001, 1), (60_000_000_000, 15), (60_000_000_001, 16)] {
            let before = durations.counts[index].load(Relaxed);
            durations.observe(Duration::from_nanos(nanos));
            assert_eq!(durations.counts[index].load(Relaxed), before + 1, "{nanos}");
        }
        assert_eq!(durations.sum.load(Relaxed), 120_001_000_002);
    }
}
