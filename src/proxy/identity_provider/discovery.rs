//! The issuer's metadata and keys (OpenID Connect Discovery), fetched when they are needed.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use openidconnect::IssuerUrl;
use tokio::sync::Mutex;

use super::{IssuerError, claims::OidcProviderMetadata, client::IssuerClient};
use crate::error_chain::error_chain;

/// Lifetime of the cached discovery document and keys.
pub(super) const METADATA_VALID: Duration = Duration::from_secs(3600);

/// Minimum interval between fetches for an unknown key ID, which means a key rotation or a forged token.
pub(super) const REFETCH_AFTER: Duration = Duration::from_secs(10);

/// How long a failed fetch is cached. Logins meanwhile fail at once instead of queueing.
pub(super) const FAILURE_VALID: Duration = Duration::from_secs(5);

/// A cache of the last result.
#[derive(Debug, Default)]
pub(super) struct Discovery(Mutex<Cache>);

#[derive(Debug, Default)]
struct Cache {
    metadata: Option<(Instant, Arc<OidcProviderMetadata>)>,
    failure: Option<(Instant, IssuerError)>,
}

impl Discovery {
    /// The metadata of the issuer at `url`. It was fetched within the time `valid`, unless a fetch fails.
    pub(super) async fn metadata(
        &self,
        url: &IssuerUrl,
        http: &ArcSwap<IssuerClient>,
        valid: Duration,
    ) -> Result<Arc<OidcProviderMetadata>, IssuerError> {
        // Held during the fetch, so that concurrent logins fetch once.
        let mut cache = self.0.lock().await;
        if let Some((fetched, metadata)) = &cache.metadata
            && fetched.elapsed() < valid
        {
            return Ok(metadata.clone());
        }
        // Stale keys and endpoints are better than no login.
        let stale = cache.metadata.as_ref().map(|(_, metadata)| metadata.clone());
        if let Some((failed, error)) = &cache.failure
            && failed.elapsed() < FAILURE_VALID
        {
            return stale.ok_or_else(|| error.clone());
        }
        match OidcProviderMetadata::discover_async(url.clone(), &*http.load_full()).await {
            Ok(metadata) => {
                let metadata = Arc::new(metadata);
                *cache = Cache { metadata: Some((Instant::now(), metadata.clone())), failure: None };
                Ok(metadata)
            }
            Err(error) => {
                let error = IssuerError::Unavailable(error_chain(&error));
                cache.failure = Some((Instant::now(), error.clone()));
                stale.ok_or(error)
            }
        }
    }
}

#[cfg(test)]
impl Discovery {
    /// Makes the cached result older.
    pub(super) async fn age(&self, by: Duration) {
        let Cache { metadata, failure } = &mut *self.0.lock().await;
        let times = [metadata.as_mut().map(|(time, _)| time), failure.as_mut().map(|(time, _)| time)];
        times.into_iter().flatten().for_each(|time| *time -= by);
    }
}
