//! Counts and failures of all clients.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

/// The number of failure messages that are kept.
const MAX_FAILURES: usize = 20;

#[derive(Default)]
pub struct Tally {
    pub stopped: AtomicBool,
    pub counts: Mutex<BTreeMap<&'static str, u64>>,
    pub failures: Mutex<Vec<String>>,
}

impl Tally {
    pub fn count(&self, kind: &'static str) {
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner).entry(kind).or_default() += 1;
    }

    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    pub fn record_failure(&self, failure: String) {
        self.count("FAILED");
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if failures.len() < MAX_FAILURES {
            failures.push(failure);
        }
    }
}
