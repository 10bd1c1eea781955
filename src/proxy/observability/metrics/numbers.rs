//! Counters of the request path. Each costs one addition to a number that no other thread writes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use super::labels::{CacheLookup, ConnectOutcome, Label, Outcome};
use crate::end_reasons::{ResponseCutReason, StreamEndReason};

/// A counter for each value of a label.
#[derive(Debug)]
pub struct Counts<L: Label>(L::Numbers);

impl<L: Label> Default for Counts<L> {
    fn default() -> Self {
        Self(L::Numbers::default())
    }
}

impl<L: Label> Counts<L> {
    pub fn count(&self, label: L) {
        if let Some(number) = self.0.as_ref().get(label.index()) {
            number.fetch_add(1, Relaxed);
        }
    }

    pub fn all(&self) -> impl Iterator<Item = (L, u64)> {
        L::all().zip(self.0.as_ref().iter().map(|number| number.load(Relaxed)))
    }
}

/// The upper bounds of the buckets of [`DurationHistogram`], in microseconds.
const BOUNDS: [u64; 16] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000,
    10_000_000, 30_000_000, 60_000_000,
];

/// The upper bounds of the buckets of [`DurationHistogram`] in seconds; the last bucket has none.
pub fn bounds() -> impl Iterator<Item = f64> {
    BOUNDS.iter().map(|micros| seconds(micros * 1000)).chain([f64::INFINITY])
}

pub fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}

#[derive(Debug, Default)]
pub struct DurationHistogram {
    /// Observations in each bucket, not cumulative.
    pub counts: [AtomicU64; BOUNDS.len() + 1],
    /// In nanoseconds.
    pub sum: AtomicU64,
}

impl DurationHistogram {
    pub fn observe(&self, duration: Duration) {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        if let Some(count) = self.counts.get(BOUNDS.partition_point(|micros| micros * 1000 < nanos)) {
            count.fetch_add(1, Relaxed);
        }
        self.sum.fetch_add(nanos, Relaxed);
    }
}

/// The counters of one worker. They are aligned so that no two threads write to one cache line.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct WorkerMetrics {
    pub requests: Counts<Outcome>,
    /// From the head of a request to the head of the upstream's response.
    pub response_head: DurationHistogram,
    pub open_streams: AtomicI64,
    pub ended_streams: Counts<StreamEndReason>,
    pub cut_responses: Counts<ResponseCutReason>,
    pub token_cache: Counts<CacheLookup>,
    pub upstream_connections: AtomicI64,
    pub upstream_idle: AtomicUsize,
    pub upstream_connects: Counts<ConnectOutcome>,
}

/// Counts an upstream connection as open until it is dropped.
#[derive(Debug)]
pub struct OpenConnection(Arc<WorkerMetrics>);

impl OpenConnection {
    pub fn new(metrics: Arc<WorkerMetrics>) -> Self {
        metrics.upstream_connections.fetch_add(1, Relaxed);
        Self(metrics)
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.upstream_connections.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histogram_bucket_is_the_first_bound_not_exceeded() {
        let durations = DurationHistogram::default();
        for (nanos, index) in [(0, 0), (500_000, 0), (500_001, 1), (60_000_000_000, 15), (60_000_000_001, 16)] {
            let before = durations.counts[index].load(Relaxed);
            durations.observe(Duration::from_nanos(nanos));
            assert_eq!(durations.counts[index].load(Relaxed), before + 1, "{nanos}");
        }
        assert_eq!(durations.sum.load(Relaxed), 120_001_000_002);
    }
}
