use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use thiserror::Error;

use crate::{
    api::{Bounded, proxy::Limits as Configured},
    proxy::sessions::LiveSession,
};

/// Memory budget of an open stream: a client connection, an upstream connection and their buffers. The measured use is lower
/// (docs/performance.md, P5); TLS to the upstream adds to it.
const STREAM_MEMORY: u64 = 64 * 1024;

/// The stream limit on however little memory.
const MIN_STREAMS: u64 = 64;

/// Concurrency limits of this process. Excess requests are refused at once and never queued.
#[derive(Debug)]
pub struct ConcurrencyLimits {
    requests: Limit,
    streams: Limit,
}

#[derive(Debug)]
struct Limit {
    open: AtomicU32,
    max: u32,
    max_per_user: u32,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// A message and its response.
    Request,
    /// A standalone event stream (GET).
    Stream,
}

/// Which limit is reached.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum LimitReached {
    #[error("the server is busy: try again")]
    Full,
    #[error("too many of your requests or streams are open: try again when one has finished")]
    User,
}

/// Counts one open request or stream until it is dropped.
#[derive(Debug)]
pub struct Permit {
    limits: Arc<ConcurrencyLimits>,
    session: Arc<LiveSession>,
    kind: Kind,
}

impl ConcurrencyLimits {
    /// `memory` is the process's memory limit in bytes.
    pub fn new(configured: &Configured, memory: Option<u64>) -> Self {
        let by_memory = memory.map_or(u64::from(u32::MAX), |bytes| (bytes / STREAM_MEMORY).max(MIN_STREAMS));
        let streams = configured.streams.map_or(u32::try_from(by_memory).unwrap_or(u32::MAX), Bounded::get);
        Self {
            // One user alone cannot exhaust the limit.
            requests: Limit::new(configured.concurrency.get(), configured.concurrency.get().div_ceil(2)),
            streams: Limit::new(streams, configured.streams_per_user.get()),
        }
    }

    pub fn admit(self: &Arc<Self>, session: &Arc<LiveSession>, kind: Kind) -> Result<Permit, LimitReached> {
        let (limit, by_user) = self.limit(session, kind);
        increment(by_user, limit.max_per_user).ok_or(LimitReached::User)?;
        if increment(&limit.open, limit.max).is_none() {
            by_user.fetch_sub(1, Ordering::Relaxed);
            return Err(LimitReached::Full);
        }
        Ok(Permit { limits: self.clone(), session: session.clone(), kind })
    }

    /// The limit of a kind, and how many the user of `session` has open.
    fn limit<'a>(&'a self, session: &'a LiveSession, kind: Kind) -> (&'a Limit, &'a AtomicU32) {
        match kind {
            Kind::Request => (&self.requests, &session.open.requests),
            Kind::Stream => (&self.streams, &session.open.streams),
        }
    }
}

impl Limit {
    fn new(max: u32, max_per_user: u32) -> Self {
        Self { open: AtomicU32::new(0), max, max_per_user }
    }
}

fn increment(open: &AtomicU32, max: u32) -> Option<()> {
    if open.fetch_add(1, Ordering::Relaxed) < max {
        return Some(());
    }
    open.fetch_sub(1, Ordering::Relaxed);
    None
}

impl Drop for Permit {
    fn drop(&mut self) {
        let (limit, by_user) = self.limits.limit(&self.session, self.kind);
        limit.open.fetch_sub(1, Ordering::Relaxed);
        by_user.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The memory limit of this process's cgroup in bytes, if it has one, as under Kubernetes and systemd.
pub fn memory_limit() -> Option<u64> {
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    cgroup_memory_limit(Path::new("/sys/fs/cgroup"), &own)
}

/// Reads the limit of a cgroup, version 2 or 1. `own` is the content of `/proc/self/cgroup`.
fn cgroup_memory_limit(root: &Path, own: &str) -> Option<u64> {
    let path = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    let files =
        [root.join(path).join("memory.max"), root.join("memory.max"), root.join("memory/memory.limit_in_bytes")];
    let text = files.iter().find_map(|file| std::fs::read_to_string(file).ok())?;
    // No limit is `max`, or a number near the largest.
    text.trim().parse().ok().filter(|bytes| *bytes < 1 << 60)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        proxy::sessions::{LiveSet, SessionEvent},
        session::Session,
        testing::session,
    };

    fn configured(concurrency: i64, streams: Option<i64>, streams_per_user: i64) -> Configured {
        Configured {
            concurrency: concurrency.try_into().unwrap(),
            streams: streams.map(|streams| streams.try_into().unwrap()),
            streams_per_user: streams_per_user.try_into().unwrap(),
            ..Configured::default()
        }
    }

    /// Live sessions of these users.
    fn sessions(users: &[&str]) -> Vec<Arc<LiveSession>> {
        let all: Vec<Session> = users
            .iter()
            .zip(["a", "b", "c", "d"])
            .map(|(user, nonce)| {
                let mut session = session(nonce);
                session.user.subject = (*user).to_owned();
                session
            })
            .collect();
        let live = LiveSet::default();
        live.apply(SessionEvent::All(all.clone()));
        all.iter().map(|session| live.get(&session.id).unwrap()).collect()
    }

    #[test]
    fn request_limit_refuses_until_a_request_ends() {
        let users = sessions(&["ada", "bob", "eve"]);
        let limits = Arc::new(ConcurrencyLimits::new(&configured(2, Some(1), 9), None));
        let first = limits.admit(&users[0], Kind::Request).unwrap();
        let _second = limits.admit(&users[1], Kind::Request).unwrap();
        assert_eq!(limits.admit(&users[2], Kind::Request).unwrap_err(), LimitReached::Full);
        drop(first);
        limits.admit(&users[2], Kind::Request).unwrap();
        let _stream = limits.admit(&users[0], Kind::Stream).unwrap();
        assert_eq!(limits.admit(&users[1], Kind::Stream).unwrap_err(), LimitReached::Full);
    }

    #[test]
    fn user_limit_spans_all_sessions_of_a_user() {
        let users = sessions(&["ada", "ada", "bob"]);
        let limits = Arc::new(ConcurrencyLimits::new(&configured(4, None, 2), None));
        for kind in [Kind::Request, Kind::Stream] {
            let held = [&users[0], &users[1]].map(|session| limits.admit(session, kind).unwrap());
            assert_eq!(limits.admit(&users[0], kind).unwrap_err(), LimitReached::User);
            limits.admit(&users[2], kind).unwrap();
            drop(held);
            limits.admit(&users[0], kind).unwrap();
        }
    }

    #[test]
    fn stream_limit_defaults_to_memory() {
        let max = |streams, memory| ConcurrencyLimits::new(&configured(9, streams, 9), memory).streams.max;
        assert_eq!(max(None, Some(128 << 20)), 2048);
        assert_eq!(max(None, Some(1 << 20)), 64);
        assert_eq!(max(Some(7), Some(128 << 20)), 7);
        assert_eq!(max(None, None), u32::MAX);
    }

    #[test]
    fn cgroup_memory_limit_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        assert_eq!(cgroup_memory_limit(root, "0::/\n"), None);
        std::fs::create_dir(root.join("memory")).unwrap();
        std::fs::write(root.join("memory/memory.limit_in_bytes"), "9223372036854771712\n").unwrap();
        assert_eq!(cgroup_memory_limit(root, "4:memory:/x\n"), None);
        std::fs::write(root.join("memory.max"), "134217728\n").unwrap();
        assert_eq!(cgroup_memory_limit(root, "0::/\n"), Some(128 << 20));
        std::fs::create_dir_all(root.join("system.slice/a.service")).unwrap();
        std::fs::write(root.join("system.slice/a.service/memory.max"), "max\n").unwrap();
        assert_eq!(cgroup_memory_limit(root, "0::/system.slice/a.service\n"), None);
    }
}
