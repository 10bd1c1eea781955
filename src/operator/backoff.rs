use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Retry delay of each unsettled resource: as long as it has been unsettled, within limits. It depends on time and not on the
/// number of reconciles, because events of children trigger further reconciles.
#[derive(Debug, Default)]
pub(super) struct Backoff(Mutex<HashMap<String, Unsettled>>);

#[derive(Clone, Copy, Debug)]
struct Unsettled {
    generation: Option<i64>,
    since: Instant,
}

const MIN_DELAY: Duration = Duration::from_secs(2);
const MAX_DELAY: Duration = Duration::from_secs(60);

impl Backoff {
    /// Delay until the next reconcile of the resource with this UID. A new generation resets it.
    pub(super) fn next_delay(&self, uid: &str, generation: Option<i64>, now: Instant) -> Duration {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let started = Unsettled { generation, since: now };
        let entry = all.entry(uid.to_owned()).or_insert(started);
        if entry.generation != generation {
            *entry = started;
        }
        now.duration_since(entry.since).clamp(MIN_DELAY, MAX_DELAY)
    }

    /// Resets the delay of a settled resource.
    pub(super) fn reset(&self, uid: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }

    /// Removes the entries of deleted resources.
    pub(super) fn retain(&self, exists: impl Fn(&str) -> bool) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|uid, _| exists(uid));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_grows_to_a_limit_and_resets_on_success() {
        let (backoff, start) = (Backoff::default(), Instant::now());
        let after = |seconds| backoff.next_delay("a", Some(1), start + Duration::from_secs(seconds)).as_secs();
        assert_eq!([0, 0, 0, 1, 5, 30, 100].map(after), [2, 2, 2, 2, 5, 30, 60]);
        backoff.reset("a");
        assert_eq!(after(100), 2);
    }

    #[test]
    fn changed_generation_resets_backoff() {
        let (backoff, start) = (Backoff::default(), Instant::now());
        let later = start + MAX_DELAY;
        backoff.next_delay("a", Some(1), start);
        assert_eq!(backoff.next_delay("a", Some(1), later), MAX_DELAY);
        assert_eq!(backoff.next_delay("a", Some(2), later), MIN_DELAY);
    }

    #[test]
    fn backoff_is_per_resource_and_forgets_deleted_ones() {
        let (backoff, start) = (Backoff::default(), Instant::now());
        backoff.next_delay("a", Some(1), start);
        backoff.retain(|uid| uid != "a");
        let later = start + MAX_DELAY;
        assert_eq!(backoff.next_delay("a", Some(1), later), MIN_DELAY);
        assert_eq!(backoff.next_delay("b", Some(1), later), MIN_DELAY);
    }
}
