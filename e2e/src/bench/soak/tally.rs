//! Counts and failures of all clients.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

/// The number of failure messages that are kept.
const KEPT: usize = 20;

#[derive(Default)]
pub struct Tally {
    pub over: AtomicBool,
    pub seen: Mutex<BTreeMap<&'static str, u64>>,
    pub complaints: Mutex<Vec<String>>,
}

impl Tally {
    pub fn count(&self, kind: &'static str) {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner).entry(kind).or_default() += 1;
    }

    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    pub fn complain(&self, complaint: String) {
        self.count("FAILED");
        let mut complaints = self.complaints.lock().unwrap_or_else(PoisonError::into_inner);
        if complaints.len() < KEPT {
            complaints.push(complaint);
        }
    }
}
