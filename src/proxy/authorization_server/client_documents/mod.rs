//! Fetches and caches client ID metadata documents. Unauthenticated clients can cause fetches, so fetches are limited in rate
//! and size, and only public addresses are contacted.

mod addresses;
mod fetch;

use std::{convert::Infallible, num::NonZeroU32, sync::Arc};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use jiff::{SignedDuration, Timestamp};
use quick_cache::sync::Cache;
use tokio::sync::{Mutex, OnceCell};

use self::fetch::{FetchedDocument, Fetcher};
use crate::{
    api::proxy::Redirects,
    oauth::{ErrorCode, OAuthError, client::Client, client_document::DocumentUrl},
};

/// About ten documents are well known. Each has at most 5 KiB.
const MAX_DOCUMENTS: usize = 256;

/// The limits of a document's freshness, whatever its HTTP headers say.
const MIN_FRESH: SignedDuration = SignedDuration::from_mins(1);
const MAX_FRESH: SignedDuration = SignedDuration::from_hours(24);

/// How long after its fetch a document is used while its host is down: an outage there must not prevent logins here.
const MAX_STALE: SignedDuration = SignedDuration::from_hours(48);

/// How long a failure is cached.
const FAILURE_VALID: SignedDuration = SignedDuration::from_secs(10);

/// A host has few real documents. Fabricated URLs must not make this server flood it.
const PER_HOST: Quota = Quota::per_second(NonZeroU32::MIN).allow_burst(NonZeroU32::new(20).unwrap());

const TOTAL: Quota = Quota::per_second(NonZeroU32::new(5).unwrap()).allow_burst(NonZeroU32::new(50).unwrap());

/// Maximum number of hosts with their own limiter.
const MAX_HOSTS: usize = 1_000;

/// The documents of one replica.
pub struct ClientDocuments {
    /// Created at the first fetch: its root certificates take a megabyte of memory.
    fetcher: OnceCell<Fetcher>,
    redirects: Redirects,
    cache: Cache<DocumentUrl, Arc<Mutex<CacheEntry>>>,
    hosts: Cache<String, Arc<DefaultDirectRateLimiter>>,
    total: DefaultDirectRateLimiter,
}

#[derive(Default)]
struct CacheEntry {
    document: Option<Document>,
    failure: Option<(Timestamp, OAuthError)>,
}

struct Document {
    client: Client,
    fetched: Timestamp,
    fresh_until: Timestamp,
}

impl ClientDocuments {
    pub fn new(redirects: &Redirects) -> Self {
        Self {
            fetcher: OnceCell::new(),
            redirects: redirects.clone(),
            cache: Cache::new(MAX_DOCUMENTS),
            hosts: Cache::new(MAX_HOSTS),
            total: RateLimiter::direct(TOTAL),
        }
    }

    /// Returns the client that the document at `url` describes.
    pub async fn client(&self, url: &DocumentUrl, now: Timestamp) -> Result<Client, OAuthError> {
        self.client_with(url, now, async || self.fetcher().await?.fetch(url, now).await).await
    }

    async fn fetcher(&self) -> Result<&Fetcher, OAuthError> {
        self.fetcher.get_or_try_init(async || Fetcher::new()).await.map_err(|error| {
            tracing::error!(%error, "client metadata documents cannot be fetched without the system's root certificates");
            OAuthError::temporarily_unavailable("this server cannot fetch client metadata documents")
        })
    }

    async fn client_with<F>(
        &self,
        url: &DocumentUrl,
        now: Timestamp,
        fetch: impl FnOnce() -> F,
    ) -> Result<Client, OAuthError>
    where
        F: Future<Output = Result<FetchedDocument, OAuthError>>,
    {
        // Rate-limited before the entry is created, so that fabricated URLs cannot flush real ones from the cache.
        let (entry, admitted) = match self.cache.get(url) {
            Some(entry) => (entry, false),
            None if self.admit(url.host()) => {
                let entry = Arc::<Mutex<CacheEntry>>::default();
                (self.cache.get_or_insert_with(url, || Ok::<_, OAuthError>(entry))?, true)
            }
            None => return Err(rate_limited()),
        };
        // Held during the fetch, so that concurrent logins fetch once.
        let mut entry = entry.lock().await;
        if let Some(document) = entry.document.as_ref().filter(|document| now < document.fresh_until) {
            return Ok(document.client.clone());
        }
        let fetched = match &entry.failure {
            Some((failed, error)) if now < *failed + FAILURE_VALID => Err(error.clone()),
            _ if !admitted && !self.admit(url.host()) => Err(rate_limited()),
            _ => {
                let fetched = fetch().await.and_then(|fetched| {
                    let client = url.parse_document(&fetched.body, &self.redirects)?;
                    Ok((client, fetched.fresh_for))
                });
                entry.failure = fetched.as_ref().err().map(|error| (now, error.clone()));
                fetched
            }
        };
        match fetched {
            Ok((client, fresh_for)) => {
                let fresh_until = now + fresh_for.clamp(MIN_FRESH, MAX_FRESH);
                entry.document = Some(Document { client: client.clone(), fetched: now, fresh_until });
                Ok(client)
            }
            Err(error) => {
                tracing::warn!(url = url.as_str(), %error, "fetching a client metadata document failed");
                // A document that its host has withdrawn is not used.
                let is_down = error.code == ErrorCode::TemporarilyUnavailable;
                let stale = entry.document.as_ref().filter(|document| is_down && now < document.fetched + MAX_STALE);
                stale.map(|document| document.client.clone()).ok_or(error)
            }
        }
    }

    fn admit(&self, host: &str) -> bool {
        let new = || Ok::<_, Infallible>(Arc::new(RateLimiter::direct(PER_HOST)));
        let limiter = self.hosts.get_or_insert_with(host, new);
        limiter.is_ok_and(|limiter| limiter.check().is_ok()) && self.total.check().is_ok()
    }
}

fn rate_limited() -> OAuthError {
    OAuthError::temporarily_unavailable("too many client metadata documents are requested: try again in a moment")
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::future::join_all;
    use serde_json::Value;

    use super::*;
    use crate::{
        api::proxy::Clients,
        oauth::client_document::tests::{document, document_url},
    };

    fn documents() -> ClientDocuments {
        ClientDocuments::new(&Redirects::default())
    }

    fn fetched(document: &Value, fresh_for: SignedDuration) -> Result<FetchedDocument, OAuthError> {
        Ok(FetchedDocument { body: document.to_string().into_bytes(), fresh_for })
    }

    fn down() -> Result<FetchedDocument, OAuthError> {
        Err(OAuthError::temporarily_unavailable("down"))
    }

    #[tokio::test]
    async fn b6_concurrent_logins_fetch_a_document_once() {
        let (documents, fetches, url) = (documents(), AtomicUsize::new(0), document_url());
        let logins = join_all((0..100).map(|_| {
            documents.client_with(&url, Timestamp::UNIX_EPOCH, || async {
                fetches.fetch_add(1, Ordering::SeqCst);
                tokio::task::yield_now().await;
                fetched(&document(), SignedDuration::ZERO)
            })
        }));
        assert!(logins.await.iter().all(Result::is_ok));
        assert_eq!(fetches.into_inner(), 1);
    }

    #[tokio::test]
    async fn b6_document_freshness_is_clamped() {
        let (url, begin) = (document_url(), Timestamp::UNIX_EPOCH);
        for (header, fresh) in [
            (SignedDuration::ZERO, MIN_FRESH),
            (SignedDuration::from_hours(1), SignedDuration::from_hours(1)),
            (SignedDuration::from_hours(10_000), MAX_FRESH),
        ] {
            let documents = documents();
            documents.client_with(&url, begin, || async { fetched(&document(), header) }).await.unwrap();
            let mut renamed = document();
            renamed["client_name"] = "Renamed".into();
            let name = async |after| {
                let client = documents.client_with(&url, begin + after, || async { fetched(&renamed, header) }).await;
                client.unwrap().name
            };
            assert_eq!(name(fresh - SignedDuration::from_secs(1)).await, "Claude Code");
            assert_eq!(name(fresh).await, "Renamed");
        }
    }

    #[tokio::test]
    async fn cached_document_survives_host_outage_and_failures_are_cached() {
        let (documents, url, begin) = (documents(), document_url(), Timestamp::UNIX_EPOCH);
        let fetches = AtomicUsize::new(0);
        let fetch_down = async |after| {
            let fetch = || async {
                fetches.fetch_add(1, Ordering::SeqCst);
                down()
            };
            documents.client_with(&url, begin + after, fetch).await.map_err(|error| error.code)
        };
        assert_eq!(fetch_down(SignedDuration::ZERO).await, Err(ErrorCode::TemporarilyUnavailable));
        assert_eq!(fetch_down(SignedDuration::from_secs(1)).await, Err(ErrorCode::TemporarilyUnavailable));
        assert_eq!(fetches.load(Ordering::SeqCst), 1);
        let up = begin + FAILURE_VALID;
        documents.client_with(&url, up, || async { fetched(&document(), SignedDuration::ZERO) }).await.unwrap();
        assert!(fetch_down(SignedDuration::from_hours(40)).await.is_ok());
        assert!(fetch_down(MAX_STALE + FAILURE_VALID).await.is_err());
    }

    #[tokio::test]
    async fn b6_fabricated_document_urls_are_rate_limited_and_the_cache_is_bounded() {
        let (documents, fetches) = (documents(), AtomicUsize::new(0));
        // Also for URLs whose cached failure has expired.
        for (number, round) in (0..2_000).flat_map(|number| [(number, 0), (number % 20, number)]) {
            let url = DocumentUrl::parse(&format!("https://claude.ai/{number}"), &Clients::default()).unwrap();
            let fetch = || async {
                fetches.fetch_add(1, Ordering::SeqCst);
                down()
            };
            let now = Timestamp::UNIX_EPOCH + FAILURE_VALID * round;
            assert!(documents.client_with(&url, now, fetch).await.is_err());
        }
        assert!((20..40).contains(&fetches.into_inner()));
        assert!(documents.cache.len() <= MAX_DOCUMENTS);
    }
}
