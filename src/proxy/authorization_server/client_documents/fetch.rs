use std::{
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, SystemTime},
    vec,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body::Body;
use http_body_util::{BodyExt, Full, Limited};
use http_cache_semantics::{CacheOptions, CachePolicy};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{
        Client,
        connect::{
            HttpConnector,
            dns::{GaiResolver, Name},
        },
    },
    rt::TokioExecutor,
};
use jiff::{SignedDuration, Timestamp};
use tower::Service;

use super::addresses::is_public;
use crate::media_type::media_type;
use crate::oauth::{OAuthError, client_document::DocumentUrl};

/// How long a host may take, from looking up its name to the document's last byte.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The largest document, in bytes (draft-ietf-oauth-client-id-metadata-document §6.6).
const MAX_DOCUMENT: usize = 5 * 1024;

/// A document as it was found.
pub struct Found {
    /// Its text.
    pub body: Vec<u8>,
    /// How long its HTTP headers let it be used (RFC 9111).
    pub fresh_for: SignedDuration,
}

/// Asks public https hosts, and no others: a name is looked up once, and of its addresses only public ones are connected to.
/// Redirects are not followed, and no proxy of the environment is used.
// Nothing is sent; but with the body of the issuer's client, so that hyper's connections are compiled once for both.
pub struct Fetcher(Client<HttpsConnector<HttpConnector<PublicOnly>>, Full<Bytes>>);

impl Fetcher {
    /// One that trusts the system's roots.
    ///
    /// # Errors
    /// When the system has none.
    pub fn new() -> io::Result<Self> {
        let mut tcp = HttpConnector::new_with_resolver(PublicOnly(GaiResolver::new()));
        tcp.enforce_http(false);
        let tls = HttpsConnectorBuilder::new().with_native_roots()?.https_only().enable_http1();
        // Nothing is gained by connections that stay open: a document is asked for once a day.
        let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(tls.wrap_connector(tcp));
        Ok(Self(client))
    }

    /// Fetches a document.
    ///
    /// # Errors
    /// `temporarily_unavailable` when the host does not give it, `invalid_client_metadata` when it gives something else.
    pub async fn fetch(&self, url: &DocumentUrl, now: Timestamp) -> Result<Found, OAuthError> {
        let request = || {
            let agent = concat!("mcp-oauth-operator/", env!("CARGO_PKG_VERSION"));
            Request::get(url.as_str()).header(header::ACCEPT, "application/json").header(header::USER_AGENT, agent)
        };
        let unavailable = |why: &str| {
            OAuthError::temporarily_unavailable(format!("the client's metadata document cannot be fetched: {why}"))
        };
        let sent = request().body(Full::default()).map_err(|_| unavailable("its address is no address"))?;
        let exchange = async {
            let answer = self.0.request(sent).await.map_err(|error| {
                // Which address a name has, and what answers there, is nobody's business who is not logged in.
                tracing::debug!(error = &error as &dyn std::error::Error, url = url.as_str(), "no document");
                unavailable("its host cannot be reached")
            })?;
            let asked = request().body(()).map_err(|_| unavailable("its address is no address"))?;
            read(&asked, answer, now).await
        };
        tokio::time::timeout(TIMEOUT, exchange)
            .await
            .unwrap_or_else(|_| Err(unavailable("its host takes longer than 5 seconds")))
    }
}

/// What an answer holds, if it is a document.
async fn read<B>(asked: &Request<()>, answer: Response<B>, now: Timestamp) -> Result<Found, OAuthError>
where
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
{
    let not_a_document = |why: &str| {
        OAuthError::invalid_client_metadata(format!(
            "there is no client metadata document at the client's address: {why}"
        ))
    };
    match answer.status() {
        StatusCode::OK => (),
        status if status.is_redirection() => return Err(not_a_document("redirects are not followed")),
        status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
            return Err(OAuthError::temporarily_unavailable(format!(
                "the client's metadata document cannot be fetched: its host answers {}",
                status.as_u16()
            )));
        }
        status => return Err(not_a_document(&format!("its host answers {}", status.as_u16()))),
    }
    let media_type = media_type(answer.headers()).to_ascii_lowercase();
    if media_type != "application/json" && !(media_type.starts_with("application/") && media_type.ends_with("+json")) {
        return Err(not_a_document("its media type is not application/json"));
    }
    let at = SystemTime::from(now);
    // A cache of our own, for ourselves: not a shared one.
    let options = CacheOptions { shared: false, ..CacheOptions::default() };
    let policy = CachePolicy::new_options(asked, &answer, at, options);
    let fresh_for = if policy.is_storable() { policy.time_to_live(at) } else { Duration::ZERO };
    let body = Limited::new(answer.into_body(), MAX_DOCUMENT)
        .collect()
        .await
        .map_err(|_| not_a_document("it is larger than 5 KiB, or broke off"))?;
    Ok(Found {
        body: body.to_bytes().to_vec(),
        fresh_for: SignedDuration::try_from(fresh_for).unwrap_or(SignedDuration::MAX),
    })
}

/// Looks up names and keeps of their addresses those that are public: what is connected to is what was looked at.
#[derive(Clone)]
struct PublicOnly<R = GaiResolver>(R);

impl<R> Service<Name> for PublicOnly<R>
where
    R: Service<Name, Response: Iterator<Item = SocketAddr>, Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
    R::Future: Send + 'static,
{
    type Response = vec::IntoIter<SocketAddr>;
    type Error = Box<dyn std::error::Error + Send + Sync>;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let looking_up = self.0.call(name);
        Box::pin(async move {
            let found = looking_up.await.map_err(Into::into)?;
            let public: Vec<_> = found.filter(|address| is_public(address.ip())).collect();
            if public.is_empty() { Err("the name has no public address".into()) } else { Ok(public.into_iter()) }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use http_body_util::Full;

    use super::*;
    use crate::oauth::{ErrorCode, client_document::tests::CLAUDE_CODE};

    async fn answered(answer: Response<Full<Bytes>>) -> Result<Found, OAuthError> {
        read(&Request::get(CLAUDE_CODE).body(()).unwrap(), answer, Timestamp::now()).await
    }

    fn answer(status: u16, headers: &[(&str, &str)], length: usize) -> Response<Full<Bytes>> {
        let mut answer = Response::builder().status(status);
        for (name, value) in headers {
            answer = answer.header(*name, *value);
        }
        answer.body(Full::new(vec![b' '; length].into())).unwrap()
    }

    #[tokio::test]
    async fn b1_only_a_small_json_response_is_a_document() {
        let json = [("content-type", "application/json; charset=utf-8")];
        assert!(answered(answer(200, &json, MAX_DOCUMENT)).await.is_ok());
        assert!(answered(answer(200, &[("content-type", "application/oauth-client+json")], 1)).await.is_ok());
        for (answer, code) in [
            (answer(200, &json, MAX_DOCUMENT + 1), ErrorCode::InvalidClientMetadata),
            (answer(200, &[("content-type", "text/html")], 1), ErrorCode::InvalidClientMetadata),
            (answer(200, &[], 1), ErrorCode::InvalidClientMetadata),
            (answer(302, &[("location", "http://169.254.169.254/")], 0), ErrorCode::InvalidClientMetadata),
            (answer(301, &json, 1), ErrorCode::InvalidClientMetadata),
            (answer(404, &json, 1), ErrorCode::InvalidClientMetadata),
            (answer(503, &json, 1), ErrorCode::TemporarilyUnavailable),
            (answer(429, &json, 1), ErrorCode::TemporarilyUnavailable),
        ] {
            let status = answer.status();
            assert_eq!(answered(answer).await.err().map(|error| error.code), Some(code), "{status}");
        }
    }

    #[tokio::test]
    async fn b6_document_freshness_follows_its_http_headers() {
        let json = ("content-type", "application/json");
        for (control, seconds) in
            [("max-age=3600", 3600), ("private, max-age=60", 60), ("no-store", 0), ("no-cache, max-age=3600", 0)]
        {
            let found = answered(answer(200, &[json, ("cache-control", control)], 1)).await.unwrap();
            assert_eq!(found.fresh_for.as_secs(), seconds, "{control}");
        }
        assert_eq!(answered(answer(200, &[json], 1)).await.unwrap().fresh_for, SignedDuration::ZERO);
    }

    #[tokio::test]
    async fn b1_only_public_addresses_of_a_host_are_connected_to() {
        let resolver = |addresses: &'static [&'static str]| {
            PublicOnly(tower::service_fn(move |_: Name| async move {
                Ok::<_, io::Error>(addresses.iter().map(|address| SocketAddr::new(address.parse().unwrap(), 0)))
            }))
        };
        let name = || Name::from_str("claude.ai").unwrap();
        let found = resolver(&["127.0.0.1", "160.79.104.10", "::1"]).call(name()).await.unwrap();
        assert_eq!(found.map(|address| address.ip().to_string()).collect::<Vec<_>>(), ["160.79.104.10"]);
        assert!(resolver(&["169.254.169.254", "fd00::1"]).call(name()).await.is_err());
    }

    #[tokio::test]
    async fn b1_localhost_is_never_fetched() {
        let rules = serde_json::from_value(serde_json::json!({"metadataDocuments": "Any"})).unwrap();
        let url = DocumentUrl::parse("https://localhost/client.json", &rules).unwrap();
        let error = Fetcher::new().unwrap().fetch(&url, Timestamp::now()).await.err().unwrap();
        assert_eq!(error.code, ErrorCode::TemporarilyUnavailable);
        assert!(error.description.contains("cannot be reached"), "{error}");
    }
}
