use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// How long to wait before a resource is looked at again: longer each time it is found unfinished, for each resource by
/// itself.
#[derive(Debug, Default)]
pub(super) struct Backoff(Mutex<HashMap<Key, u32>>);

/// Namespace and name.
type Key = (Option<String>, String);

const FIRST: Duration = Duration::from_secs(2);
const LONGEST: Duration = Duration::from_secs(60);

impl Backoff {
    /// The wait before the next look at a resource.
    pub(super) fn next(&self, name: &str, namespace: Option<&str>) -> Duration {
        let mut attempts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let attempt = attempts.entry(key(name, namespace)).or_default();
        let wait = FIRST.saturating_mul(1 << (*attempt).min(8)).min(LONGEST);
        *attempt += 1;
        wait
    }

    /// The resource is as it should be, or has gone.
    pub(super) fn forget(&self, name: &str, namespace: Option<&str>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&key(name, namespace));
    }
}

fn key(name: &str, namespace: Option<&str>) -> Key {
    (namespace.map(str::to_owned), name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_bound_and_start_again_when_all_is_well() {
        let backoff = Backoff::default();
        let waits: Vec<u64> = (0..7).map(|_| backoff.next("a", Some("ns")).as_secs()).collect();
        assert_eq!(waits, [2, 4, 8, 16, 32, 60, 60]);
        backoff.forget("a", Some("ns"));
        assert_eq!(backoff.next("a", Some("ns")), FIRST);
    }

    #[test]
    fn one_resource_does_not_slow_another() {
        let backoff = Backoff::default();
        for _ in 0..5 {
            backoff.next("a", Some("ns"));
        }
        assert_eq!(backoff.next("a", Some("other")), FIRST);
    }
}
