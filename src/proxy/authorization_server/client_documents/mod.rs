//! Fetches and keeps the metadata documents of clients that name themselves by an address: what anybody on the internet can
//! make us ask for, so it is bounded in every way, and nothing here reaches an address that is not public.

mod addresses;
mod fetch;

use std::{
    num::NonZeroU32,
    sync::{Arc, OnceLock},
};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use jiff::{SignedDuration, Timestamp};
use quick_cache::sync::Cache;
use tokio::sync::Mutex;

use self::fetch::{Fetcher, Found};
use crate::{
    api::proxy::Redirects,
    oauth::{ErrorCode, OAuthError, client::Client, client_document::DocumentUrl},
};

/// How many documents are kept; there are about ten well-known ones. Each has 5 KiB at most.
const KEPT: usize = 256;

/// How long a document is used without another look, at least and at most, whatever its HTTP headers say.
const FRESH_AT_LEAST: SignedDuration = SignedDuration::from_mins(1);
const FRESH_AT_MOST: SignedDuration = SignedDuration::from_hours(24);

/// How long a document goes on being used when its host does not give it anew: a login is worth more than the latest name.
const STALE_AT_MOST: SignedDuration = SignedDuration::from_hours(48);

/// How long a failure is answered without another try.
const FAILURE_KEPT: SignedDuration = SignedDuration::from_secs(10);

/// How often one host is asked: its real documents are few, and made-up addresses are not to make us a nuisance to it.
const PER_HOST: Quota = Quota::per_second(NonZeroU32::MIN).allow_burst(NonZeroU32::new(20).unwrap());

/// How often all of them together are.
const FOR_ALL: Quota = Quota::per_second(NonZeroU32::new(5).unwrap()).allow_burst(NonZeroU32::new(50).unwrap());

/// How many hosts are told apart.
const HOSTS: usize = 1_000;

/// The documents of one replica.
pub struct ClientDocuments {
    /// Made when it is first needed: its root certificates are a megabyte of memory.
    fetcher: OnceLock<Fetcher>,
    redirects: Redirects,
    known: Cache<DocumentUrl, Arc<Mutex<Known>>>,
    hosts: Cache<String, Arc<DefaultDirectRateLimiter>>,
    all: DefaultDirectRateLimiter,
}

/// What is known of one document.
#[derive(Default)]
struct Known {
    document: Option<Document>,
    failure: Option<(Timestamp, OAuthError)>,
}

struct Document {
    client: Client,
    fetched: Timestamp,
    fresh_until: Timestamp,
}

impl ClientDocuments {
    /// None yet.
    pub fn new(redirects: &Redirects) -> Self {
        Self {
            fetcher: OnceLock::new(),
            redirects: redirects.clone(),
            known: Cache::new(KEPT),
            hosts: Cache::new(HOSTS),
            all: RateLimiter::direct(FOR_ALL),
        }
    }

    /// The client that the document at this address describes.
    ///
    /// # Errors
    /// `temporarily_unavailable` when the document cannot be had, `invalid_client_metadata` or `invalid_redirect_uri` when it
    /// is not right.
    pub async fn client(&self, url: &DocumentUrl, now: Timestamp) -> Result<Client, OAuthError> {
        self.client_by(url, now, async || self.fetcher()?.fetch(url, now).await).await
    }

    fn fetcher(&self) -> Result<&Fetcher, OAuthError> {
        if let Some(fetcher) = self.fetcher.get() {
            return Ok(fetcher);
        }
        let new = Fetcher::new().map_err(|error| {
            tracing::error!(%error, "cannot load the system's root certificates, which are needed to fetch client metadata documents");
            OAuthError::temporarily_unavailable("this server cannot fetch client metadata documents")
        })?;
        Ok(self.fetcher.get_or_init(|| new))
    }

    async fn client_by<F>(
        &self,
        url: &DocumentUrl,
        now: Timestamp,
        fetch: impl FnOnce() -> F,
    ) -> Result<Client, OAuthError>
    where
        F: Future<Output = Result<Found, OAuthError>>,
    {
        // Not kept before it may be asked for: made-up addresses do not push real ones out faster than we ask.
        let (slot, admitted) = match self.known.get(url) {
            Some(slot) => (slot, false),
            None if self.may_ask(url.host()) => {
                let slot = Arc::<Mutex<Known>>::default();
                (self.known.get_or_insert_with(url, || Ok::<_, OAuthError>(slot))?, true)
            }
            None => return Err(too_often()),
        };
        // Held during the fetch: a hundred logins at once ask once.
        let mut known = slot.lock().await;
        if let Some(document) = known.document.as_ref().filter(|document| now < document.fresh_until) {
            return Ok(document.client.clone());
        }
        let fetched = match &known.failure {
            Some((failed, error)) if now < *failed + FAILURE_KEPT => Err(error.clone()),
            _ if !admitted && !self.may_ask(url.host()) => Err(too_often()),
            _ => {
                let fetched = match fetch().await {
                    Ok(found) => url.read(&found.body, &self.redirects).map(|client| (client, found.fresh_for)),
                    Err(error) => Err(error),
                };
                known.failure = fetched.as_ref().err().map(|error| (now, error.clone()));
                fetched
            }
        };
        match fetched {
            Ok((client, fresh_for)) => {
                let fresh_until = now + fresh_for.clamp(FRESH_AT_LEAST, FRESH_AT_MOST);
                known.document = Some(Document { client: client.clone(), fetched: now, fresh_until });
                Ok(client)
            }
            Err(error) => {
                tracing::warn!(url = url.as_str(), %error, "a client metadata document cannot be used");
                // What its host has taken back is not used any longer.
                let is_down = error.code == ErrorCode::TemporarilyUnavailable;
                let old = known.document.as_ref().filter(|document| is_down && now < document.fetched + STALE_AT_MOST);
                old.map(|document| document.client.clone()).ok_or(error)
            }
        }
    }

    fn may_ask(&self, host: &str) -> bool {
        let limiter = self.hosts.get(host).unwrap_or_else(|| {
            let new = Arc::new(RateLimiter::direct(PER_HOST));
            self.hosts.insert(host.to_owned(), new.clone());
            new
        });
        limiter.check().is_ok() && self.all.check().is_ok()
    }
}

fn too_often() -> OAuthError {
    OAuthError::temporarily_unavailable("too many client metadata documents are asked for: try again in a moment")
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

    fn found(document: &Value, fresh_for: SignedDuration) -> Result<Found, OAuthError> {
        Ok(Found { body: document.to_string().into_bytes(), fresh_for })
    }

    fn down() -> Result<Found, OAuthError> {
        Err(OAuthError::temporarily_unavailable("down"))
    }

    #[tokio::test]
    async fn b6_concurrent_logins_fetch_a_document_once() {
        let (documents, asked, url) = (documents(), AtomicUsize::new(0), document_url());
        let asking = join_all((0..100).map(|_| {
            documents.client_by(&url, Timestamp::UNIX_EPOCH, || async {
                asked.fetch_add(1, Ordering::SeqCst);
                tokio::task::yield_now().await;
                found(&document(), SignedDuration::ZERO)
            })
        }));
        assert!(asking.await.iter().all(Result::is_ok));
        assert_eq!(asked.into_inner(), 1);
    }

    #[tokio::test]
    async fn b6_document_freshness_is_clamped() {
        let (url, begin) = (document_url(), Timestamp::UNIX_EPOCH);
        for (says, fresh) in [
            (SignedDuration::ZERO, FRESH_AT_LEAST),
            (SignedDuration::from_hours(1), SignedDuration::from_hours(1)),
            (SignedDuration::from_hours(10_000), FRESH_AT_MOST),
        ] {
            let documents = documents();
            documents.client_by(&url, begin, || async { found(&document(), says) }).await.unwrap();
            let mut renamed = document();
            renamed["client_name"] = "Renamed".into();
            let name = async |after| {
                let client = documents.client_by(&url, begin + after, || async { found(&renamed, says) }).await;
                client.unwrap().name
            };
            assert_eq!(name(fresh - SignedDuration::from_secs(1)).await, "Claude Code");
            assert_eq!(name(fresh).await, "Renamed");
        }
    }

    #[tokio::test]
    async fn cached_document_survives_host_outage_and_failures_are_cached() {
        let (documents, url, begin) = (documents(), document_url(), Timestamp::UNIX_EPOCH);
        let asked = AtomicUsize::new(0);
        let refused = async |after| {
            let fetch = || async {
                asked.fetch_add(1, Ordering::SeqCst);
                down()
            };
            documents.client_by(&url, begin + after, fetch).await.map_err(|error| error.code)
        };
        assert_eq!(refused(SignedDuration::ZERO).await, Err(ErrorCode::TemporarilyUnavailable));
        assert_eq!(refused(SignedDuration::from_secs(1)).await, Err(ErrorCode::TemporarilyUnavailable));
        assert_eq!(asked.load(Ordering::SeqCst), 1);
        let up = begin + FAILURE_KEPT;
        documents.client_by(&url, up, || async { found(&document(), SignedDuration::ZERO) }).await.unwrap();
        assert!(refused(SignedDuration::from_hours(40)).await.is_ok());
        assert!(refused(STALE_AT_MOST + FAILURE_KEPT).await.is_err());
    }

    #[tokio::test]
    async fn b6_fabricated_document_urls_are_rate_limited_and_the_cache_is_bounded() {
        let (documents, asked) = (documents(), AtomicUsize::new(0));
        // Also when each has failed before, and long enough ago.
        for (number, round) in (0..2_000).flat_map(|number| [(number, 0), (number % 20, number)]) {
            let url = DocumentUrl::parse(&format!("https://claude.ai/{number}"), &Clients::default()).unwrap();
            let fetch = || async {
                asked.fetch_add(1, Ordering::SeqCst);
                down()
            };
            let now = Timestamp::UNIX_EPOCH + FAILURE_KEPT * round;
            assert!(documents.client_by(&url, now, fetch).await.is_err());
        }
        assert!((20..40).contains(&asked.into_inner()));
        assert!(documents.known.len() <= KEPT);
    }
}
