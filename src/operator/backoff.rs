use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// How long to wait before a resource is looked at again: the longer it has been found unfinished, the longer, for each
/// resource by itself. Counted in time and not in looks, because its children's events bring looks of their own.
#[derive(Debug, Default)]
pub(super) struct Backoff(Mutex<HashMap<String, Since>>);

#[derive(Clone, Copy, Debug)]
struct Since {
    generation: Option<i64>,
    unfinished: Instant,
}

const FIRST: Duration = Duration::from_secs(2);
const LONGEST: Duration = Duration::from_secs(60);

impl Backoff {
    /// The wait before the next look, at `now`, at the resource with this uid. A changed one begins anew.
    pub(super) fn next(&self, uid: &str, generation: Option<i64>, now: Instant) -> Duration {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let begun = Since { generation, unfinished: now };
        let since = all.entry(uid.to_owned()).or_insert(begun);
        if since.generation != generation {
            *since = begun;
        }
        now.duration_since(since.unfinished).clamp(FIRST, LONGEST)
    }

    /// The resource is as it should be.
    pub(super) fn forget(&self, uid: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }

    /// Only these resources are left: whatever is kept of others goes.
    pub(super) fn keep(&self, left: impl Fn(&str) -> bool) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|uid, _| left(uid));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_grows_to_a_limit_and_resets_on_success() {
        let (backoff, begun) = (Backoff::default(), Instant::now());
        let after = |seconds| backoff.next("a", Some(1), begun + Duration::from_secs(seconds)).as_secs();
        assert_eq!([0, 0, 0, 1, 5, 30, 100].map(after), [2, 2, 2, 2, 5, 30, 60]);
        backoff.forget("a");
        assert_eq!(after(100), 2);
    }

    #[test]
    fn changed_generation_resets_backoff() {
        let (backoff, begun) = (Backoff::default(), Instant::now());
        let later = begun + LONGEST;
        backoff.next("a", Some(1), begun);
        assert_eq!(backoff.next("a", Some(1), later), LONGEST);
        assert_eq!(backoff.next("a", Some(2), later), FIRST);
    }

    #[test]
    fn backoff_is_per_resource_and_forgets_deleted_ones() {
        let (backoff, begun) = (Backoff::default(), Instant::now());
        backoff.next("a", Some(1), begun);
        backoff.keep(|uid| uid != "a");
        let later = begun + LONGEST;
        assert_eq!(backoff.next("a", Some(1), later), FIRST);
        assert_eq!(backoff.next("b", Some(1), later), FIRST);
    }
}
