use std::{
    io,
    net::SocketAddr,
    time::{Duration, SystemTime},
    vec,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header, request};
use http_body::Body;
use http_body_util::{BodyExt, Full, Limited};
use http_cache_semantics::{CacheOptions, CachePolicy};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{
        Client,
        connect::{
            HttpConnector,
            dns::{GaiAddrs, GaiResolver},
        },
    },
    rt::TokioExecutor,
};
use jiff::{SignedDuration, Timestamp};
use tower::{BoxError, util::MapResult};

use super::addresses::is_public;
use crate::media_type::media_type;
use crate::oauth::{OAuthError, client_document::DocumentUrl};

/// The deadline of a fetch, from the name lookup to the last byte.
const TIMEOUT: Duration = Duration::from_secs(5);

/// In bytes (draft-ietf-oauth-client-id-metadata-document §6.6).
const MAX_DOCUMENT: usize = 5 * 1024;

pub struct FetchedDocument {
    pub body: Vec<u8>,
    /// The freshness lifetime by its HTTP headers (RFC 9111).
    pub fresh_for: SignedDuration,
}

type PublicResolver = MapResult<GaiResolver, fn(io::Result<GaiAddrs>) -> Result<vec::IntoIter<SocketAddr>, BoxError>>;

/// An https client for public addresses only. It looks up a name once, follows no redirects and uses no proxy of the
/// environment. The unused request body has the type of the issuer's client, so that hyper is compiled once for both.
pub struct Fetcher(Client<HttpsConnector<HttpConnector<PublicResolver>>, Full<Bytes>>);

impl Fetcher {
    /// Trusts the system's root certificates.
    pub fn new() -> io::Result<Self> {
        let resolver: PublicResolver = MapResult::new(GaiResolver::new(), public_addresses);
        let mut tcp = HttpConnector::new_with_resolver(resolver);
        tcp.enforce_http(false);
        let tls = HttpsConnectorBuilder::new().with_native_roots()?.https_only().enable_http1();
        // No idle connections: a document is fetched about once a day.
        let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(tls.wrap_connector(tcp));
        Ok(Self(client))
    }

    pub async fn fetch(&self, url: &DocumentUrl, now: Timestamp) -> Result<FetchedDocument, OAuthError> {
        let unavailable = |why: &str| {
            OAuthError::temporarily_unavailable(format!("the client's metadata document cannot be fetched: {why}"))
        };
        let agent = concat!("mcp-oauth-operator/", env!("CARGO_PKG_VERSION"));
        let request = Request::get(url.as_str())
            .header(header::ACCEPT, "application/json")
            .header(header::USER_AGENT, agent)
            .body(Full::default())
            .map_err(|_| unavailable("its address is no address"))?;
        let (head, body) = request.into_parts();
        let exchange = async {
            let response = self.0.request(Request::from_parts(head.clone(), body)).await.map_err(|error| {
                // Only logged: the response must not reveal the network to strangers.
                tracing::debug!(error = &error as &dyn std::error::Error, url = url.as_str(), "fetch failed");
                unavailable("its host cannot be reached")
            })?;
            read(&head, response, now).await
        };
        tokio::time::timeout(TIMEOUT, exchange)
            .await
            .unwrap_or_else(|_| Err(unavailable("its host takes longer than 5 seconds")))
    }
}

async fn read<B>(request: &request::Parts, response: Response<B>, now: Timestamp) -> Result<FetchedDocument, OAuthError>
where
    B: Body<Data = Bytes, Error: Into<BoxError>>,
{
    let not_a_document = |why: &str| {
        OAuthError::invalid_client_metadata(format!(
            "there is no client metadata document at the client's address: {why}"
        ))
    };
    match response.status() {
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
    let media_type = media_type(response.headers()).to_ascii_lowercase();
    if media_type != "application/json" && !(media_type.starts_with("application/") && media_type.ends_with("+json")) {
        return Err(not_a_document("its media type is not application/json"));
    }
    let at = SystemTime::from(now);
    // A private cache.
    let options = CacheOptions { shared: false, ..CacheOptions::default() };
    let policy = CachePolicy::new_options(request, &response, at, options);
    let fresh_for = if policy.is_storable() { policy.time_to_live(at) } else { Duration::ZERO };
    let body = Limited::new(response.into_body(), MAX_DOCUMENT)
        .collect()
        .await
        .map_err(|_| not_a_document("it is larger than 5 KiB, or broke off"))?;
    Ok(FetchedDocument {
        body: body.to_bytes().to_vec(),
        fresh_for: SignedDuration::try_from(fresh_for).unwrap_or(SignedDuration::MAX),
    })
}

/// Filters the result of a name lookup. The connection uses the checked addresses, so DNS rebinding has no effect.
fn public_addresses<A: Iterator<Item = SocketAddr>>(
    found: io::Result<A>,
) -> Result<vec::IntoIter<SocketAddr>, BoxError> {
    let public: Vec<_> = found?.filter(|address| is_public(address.ip())).collect();
    if public.is_empty() { Err("the name has no public address".into()) } else { Ok(public.into_iter()) }
}

#[cfg(test)]
mod tests {
    use http_body_util::Full;

    use super::*;
    use crate::oauth::{ErrorCode, client_document::tests::CLAUDE_CODE};

    async fn read_response(response: Response<Full<Bytes>>) -> Result<FetchedDocument, OAuthError> {
        read(&Request::get(CLAUDE_CODE).body(()).unwrap().into_parts().0, response, Timestamp::now()).await
    }

    fn response(status: u16, headers: &[(&str, &str)], length: usize) -> Response<Full<Bytes>> {
        let mut response = Response::builder().status(status);
        for (name, value) in headers {
            response = response.header(*name, *value);
        }
        response.body(Full::new(vec![b' '; length].into())).unwrap()
    }

    #[tokio::test]
    async fn b1_only_a_small_json_response_is_a_document() {
        let json = [("content-type", "application/json; charset=utf-8")];
        assert!(read_response(response(200, &json, MAX_DOCUMENT)).await.is_ok());
        assert!(read_response(response(200, &[("content-type", "application/oauth-client+json")], 1)).await.is_ok());
        for (response, code) in [
            (response(200, &json, MAX_DOCUMENT + 1), ErrorCode::InvalidClientMetadata),
            (response(200, &[("content-type", "text/html")], 1), ErrorCode::InvalidClientMetadata),
            (response(200, &[], 1), ErrorCode::InvalidClientMetadata),
            (response(302, &[("location", "http://169.254.169.254/")], 0), ErrorCode::InvalidClientMetadata),
            (response(301, &json, 1), ErrorCode::InvalidClientMetadata),
            (response(404, &json, 1), ErrorCode::InvalidClientMetadata),
            (response(503, &json, 1), ErrorCode::TemporarilyUnavailable),
            (response(429, &json, 1), ErrorCode::TemporarilyUnavailable),
        ] {
            let status = response.status();
            assert_eq!(read_response(response).await.err().map(|error| error.code), Some(code), "{status}");
        }
    }

    #[tokio::test]
    async fn b6_document_freshness_follows_its_http_headers() {
        let json = ("content-type", "application/json");
        for (control, seconds) in
            [("max-age=3600", 3600), ("private, max-age=60", 60), ("no-store", 0), ("no-cache, max-age=3600", 0)]
        {
            let fetched = read_response(response(200, &[json, ("cache-control", control)], 1)).await.unwrap();
            assert_eq!(fetched.fresh_for.as_secs(), seconds, "{control}");
        }
        assert_eq!(read_response(response(200, &[json], 1)).await.unwrap().fresh_for, SignedDuration::ZERO);
    }

    #[test]
    fn b1_only_public_addresses_of_a_host_are_connected_to() {
        let resolve = |addresses: &'static [&'static str]| {
            let addresses = addresses.iter().map(|address| SocketAddr::new(address.parse().unwrap(), 0));
            public_addresses(Ok(addresses)).map(Iterator::collect::<Vec<_>>)
        };
        let public = resolve(&["127.0.0.1", "160.79.104.10", "::1"]).unwrap();
        assert_eq!(public, [SocketAddr::from(([160, 79, 104, 10], 0))]);
        assert!(resolve(&["169.254.169.254", "fd00::1"]).is_err());
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
