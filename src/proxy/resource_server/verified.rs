use std::{
    cell::RefCell,
    sync::{Arc, Weak},
};

use aws_lc_rs::digest::{SHA256, digest};
use jiff::Timestamp;
use quick_cache::sync::Cache;

use super::{ResourceServer, bearer::Caller};
use crate::{
    crypto::now_seconds,
    proxy::{secrets::Secrets, sessions::LiveSession},
};

/// How many verified tokens are remembered. One more costs a verification (100 us), not an error.
const CACHED_TOKENS: usize = 10_000;

/// How many a worker finds without hashing them.
const LAST_TOKENS: usize = 256;

/// Tokens that have been verified: 0.6 us instead of 100, and less for the last ones of a worker, which are compared with
/// instead of hashed. What may change is checked on every hit.
pub struct VerifiedTokens {
    shared: SharedTokens,
    last: RefCell<Box<[Option<Last>]>>,
}

/// What the workers of a proxy share of them, by the SHA-256 of the whole token.
pub type SharedTokens = Arc<Cache<Key, Arc<Verified>>>;

struct Last {
    token: Box<str>,
    verified: Arc<Verified>,
}

/// What a verified token says.
pub struct Verified {
    /// The resource that it is for.
    pub audience: Box<str>,
    /// When it expires, in seconds since 1970.
    pub expires: u64,
    /// Its session.
    pub session: Arc<LiveSession>,
    /// The secrets it was verified with. Weak, so that old keys are not kept in memory, and their address not reused.
    pub secrets: Weak<Secrets>,
}

impl Verified {
    /// Whose it is, if it is still good for the endpoint at `path`.
    fn caller(&self, server: &ResourceServer, secrets: &Arc<Secrets>, now: Timestamp, path: &str) -> Option<Caller> {
        let good = self.secrets.as_ptr() == Arc::as_ptr(secrets)
            && now_seconds(now) < self.expires
            && self.session.admits(now)
            && server.resources.is_audience(&self.audience, path);
        good.then(|| Caller { session: self.session.clone(), expires: self.expires })
    }
}

/// The SHA-256 of a token.
pub type Key = [u8; 32];

impl VerifiedTokens {
    /// Those of a worker.
    pub fn new(shared: SharedTokens) -> Self {
        Self { shared, last: RefCell::new((0..LAST_TOKENS).map(|_| None).collect()) }
    }

    /// What all workers share, empty.
    pub fn shared() -> SharedTokens {
        Arc::new(Cache::new(CACHED_TOKENS))
    }

    /// Whose token it is, if it is one of these and still good for the endpoint at `path`; otherwise what it is to be kept
    /// by when it has been verified.
    pub fn caller(
        &self,
        server: &ResourceServer,
        secrets: &Arc<Secrets>,
        now: Timestamp,
        token: &str,
        path: &str,
    ) -> Result<Caller, Key> {
        let slot = slot(token);
        if let Some(last) = self.last.borrow().get(slot).and_then(Option::as_ref)
            // Not in constant time: what a guess has in common with it shows in steps of 32 characters at best, a third of a signature.
            && *last.token == *token
            && let Some(caller) = last.verified.caller(server, secrets, now, path)
        {
            return Ok(caller);
        }
        let mut key = Key::default();
        key.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
        let Some(verified) = self.shared.get(&key) else { return Err(key) };
        if let Some(caller) = verified.caller(server, secrets, now, path) {
            self.keep_last(slot, token, verified);
            return Ok(caller);
        }
        // The long way says why, and lets in a session that was refreshed or came back.
        self.shared.remove(&key);
        Err(key)
    }

    /// Remembers a token.
    pub fn keep(&self, key: Key, verified: Verified) {
        self.shared.insert(key, Arc::new(verified));
    }

    // A token that is used once alone is not copied.
    fn keep_last(&self, slot: usize, token: &str, verified: Arc<Verified>) {
        if let Some(last) = self.last.borrow_mut().get_mut(slot) {
            *last = Some(Last { token: token.into(), verified });
        }
    }
}

impl Default for VerifiedTokens {
    fn default() -> Self {
        Self::new(Self::shared())
    }
}

#[cfg(test)]
impl VerifiedTokens {
    pub fn len(&self) -> usize {
        self.shared.len()
    }
}

/// By the end of its signature, which is as good as random. Only what was verified is kept, so nobody can fill a slot at will.
fn slot(token: &str) -> usize {
    let end = token.as_bytes().iter().rev().take(8);
    end.fold(0, |slot: usize, byte| slot.wrapping_mul(31).wrapping_add(usize::from(*byte))) % LAST_TOKENS
}
