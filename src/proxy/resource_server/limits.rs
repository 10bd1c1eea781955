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

/// What an open stream may take of the memory that there is: a client's connection, one to the upstream, and their buffers
/// (7 KiB are measured without TLS to the upstream: bench/RESULTS.md, P5).
const STREAM: u64 = 64 * 1024;

/// As few streams as there may be, however little memory.
const FEWEST_STREAMS: u64 = 64;

/// How much may be open at the same time, in this process. What is too much is refused at once and never waits.
#[derive(Debug)]
pub struct Limits {
    requests: Limit,
    streams: Limit,
    requests_of_one: u32,
    streams_of_one: u32,
}

#[derive(Debug)]
struct Limit {
    open: AtomicU32,
    most: u32,
}

/// What is asked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// A message, and its answer.
    Request,
    /// What the server has to say by itself: a GET.
    Stream,
}

/// Why a request is refused that could be answered later.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum Shed {
    /// All that may be open is.
    #[error("the server is busy: try again")]
    Full,
    /// All that one user may have open is.
    #[error("too many of your requests or streams are open: try again when one has ended")]
    User,
}

/// The right to have one thing open, until it is dropped.
#[derive(Debug)]
pub struct Permit {
    limits: Arc<Limits>,
    session: Arc<LiveSession>,
    kind: Kind,
}

impl Limits {
    /// What is configured, for a process that may use so many bytes of memory.
    pub fn new(configured: &Configured, memory: Option<u64>) -> Self {
        let by_memory = memory.map_or(u64::from(u32::MAX), |bytes| (bytes / STREAM).max(FEWEST_STREAMS));
        let streams = configured.streams.map_or(u32::try_from(by_memory).unwrap_or(u32::MAX), Bounded::get);
        Self {
            requests: Limit::new(configured.concurrency.get()),
            streams: Limit::new(streams),
            // One alone cannot keep all others out.
            requests_of_one: configured.concurrency.get().div_ceil(2),
            streams_of_one: configured.streams_per_user.get(),
        }
    }

    /// Lets one more in.
    ///
    /// # Errors
    /// When there are too many.
    pub fn admit(self: &Arc<Self>, session: &Arc<LiveSession>, kind: Kind) -> Result<Permit, Shed> {
        let (all, open, most) = match kind {
            Kind::Request => (&self.requests, &session.open.requests, self.requests_of_one),
            Kind::Stream => (&self.streams, &session.open.streams, self.streams_of_one),
        };
        take(open, most).ok_or(Shed::User)?;
        if take(&all.open, all.most).is_none() {
            open.fetch_sub(1, Ordering::Relaxed);
            return Err(Shed::Full);
        }
        Ok(Permit { limits: self.clone(), session: session.clone(), kind })
    }
}

impl Limit {
    fn new(most: u32) -> Self {
        Self { open: AtomicU32::new(0), most }
    }
}

fn take(open: &AtomicU32, most: u32) -> Option<()> {
    if open.fetch_add(1, Ordering::Relaxed) < most {
        return Some(());
    }
    open.fetch_sub(1, Ordering::Relaxed);
    None
}

impl Drop for Permit {
    fn drop(&mut self) {
        let (all, open) = match self.kind {
            Kind::Request => (&self.limits.requests, &self.session.open.requests),
            Kind::Stream => (&self.limits.streams, &self.session.open.streams),
        };
        all.open.fetch_sub(1, Ordering::Relaxed);
        open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How many bytes of memory this process may use, if somebody limits it: by its cgroup, as Kubernetes and systemd do.
pub fn memory_limit() -> Option<u64> {
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    memory_limit_below(Path::new("/sys/fs/cgroup"), &own)
}

/// The limit of a cgroup, of version 2 or 1; `own` is what the kernel says of the process's place.
fn memory_limit_below(root: &Path, own: &str) -> Option<u64> {
    let place = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    let files =
        [root.join(place).join("memory.max"), root.join("memory.max"), root.join("memory/memory.limit_in_bytes")];
    let text = files.iter().find_map(|file| std::fs::read_to_string(file).ok())?;
    // No limit is `max`, or a number near the largest.
    text.trim().parse().ok().filter(|bytes| *bytes < 1 << 60)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        proxy::sessions::{LiveSet, SessionEvent},
        session::{Session, tests::session},
    };

    fn configured(concurrency: i64, streams: Option<i64>, streams_per_user: i64) -> Configured {
        Configured {
            concurrency: concurrency.try_into().unwrap(),
            streams: streams.map(|streams| streams.try_into().unwrap()),
            streams_per_user: streams_per_user.try_into().unwrap(),
            ..Configured::default()
        }
    }

    /// The live forms of sessions of these people.
    fn sessions(people: &[&str]) -> Vec<Arc<LiveSession>> {
        let all: Vec<Session> = people
            .iter()
            .zip(["a", "b", "c", "d"])
            .map(|(person, nonce)| {
                let mut session = session(nonce);
                session.user.subject = (*person).to_owned();
                session
            })
            .collect();
        let live = LiveSet::default();
        live.apply(SessionEvent::All(all.clone()));
        all.iter().map(|session| live.get(&session.id).unwrap()).collect()
    }

    #[test]
    fn request_limit_refuses_until_a_request_ends() {
        let people = sessions(&["ada", "bob", "eve"]);
        let limits = Arc::new(Limits::new(&configured(2, Some(1), 9), None));
        let first = limits.admit(&people[0], Kind::Request).unwrap();
        let _second = limits.admit(&people[1], Kind::Request).unwrap();
        assert_eq!(limits.admit(&people[2], Kind::Request).unwrap_err(), Shed::Full);
        drop(first);
        limits.admit(&people[2], Kind::Request).unwrap();
        let _stream = limits.admit(&people[0], Kind::Stream).unwrap();
        assert_eq!(limits.admit(&people[1], Kind::Stream).unwrap_err(), Shed::Full);
    }

    #[test]
    fn user_limit_spans_all_sessions_of_a_user() {
        let people = sessions(&["ada", "ada", "bob"]);
        let limits = Arc::new(Limits::new(&configured(4, None, 2), None));
        for kind in [Kind::Request, Kind::Stream] {
            let held = [&people[0], &people[1]].map(|session| limits.admit(session, kind).unwrap());
            assert_eq!(limits.admit(&people[0], kind).unwrap_err(), Shed::User);
            limits.admit(&people[2], kind).unwrap();
            drop(held);
            limits.admit(&people[0], kind).unwrap();
        }
    }

    #[test]
    fn stream_limit_defaults_to_memory() {
        let most = |streams, memory| Limits::new(&configured(9, streams, 9), memory).streams.most;
        assert_eq!(most(None, Some(128 << 20)), 2048);
        assert_eq!(most(None, Some(1 << 20)), 64);
        assert_eq!(most(Some(7), Some(128 << 20)), 7);
        assert_eq!(most(None, None), u32::MAX);
    }

    #[test]
    fn cgroup_memory_limit_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        assert_eq!(memory_limit_below(root, "0::/\n"), None);
        std::fs::create_dir(root.join("memory")).unwrap();
        std::fs::write(root.join("memory/memory.limit_in_bytes"), "9223372036854771712\n").unwrap();
        assert_eq!(memory_limit_below(root, "4:memory:/x\n"), None);
        std::fs::write(root.join("memory.max"), "134217728\n").unwrap();
        assert_eq!(memory_limit_below(root, "0::/\n"), Some(128 << 20));
        std::fs::create_dir_all(root.join("system.slice/a.service")).unwrap();
        std::fs::write(root.join("system.slice/a.service/memory.max"), "max\n").unwrap();
        assert_eq!(memory_limit_below(root, "0::/system.slice/a.service\n"), None);
    }
}
