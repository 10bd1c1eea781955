//! The counts and complaints of all clients.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

/// Complaints that are kept; more say nothing new.
const KEPT: usize = 20;

/// What the clients have seen.
#[derive(Default)]
pub struct Tally {
    pub over: AtomicBool,
    pub seen: Mutex<BTreeMap<&'static str, u64>>,
    pub complaints: Mutex<Vec<String>>,
}

impl Tally {
    /// One more of a kind.
    pub fn count(&self, kind: &'static str) {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner).entry(kind).or_default() += 1;
    }

    /// Whether clients shall stop.
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
