use std::{
    io,
    net::SocketAddr,
    time::{Duration, SystemTime},
    vec,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_cache_semantics::{CacheOptions, CachePolicy};
use jiff::{SignedDuration, Timestamp};
use tower::BoxError;

use super::addresses::is_public;
use crate::http_client::{HttpClient, HttpError, Schemes, Settings};
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

/// An https client for public addresses only, which ignores the proxy settings of the environment.
pub struct Fetcher(HttpClient);

impl Fetcher {
    /// Trusts the system's root certificates.
    pub fn new() -> io::Result<Self> {
        Ok(Self(HttpClient::new(Settings {
            schemes: Schemes::Https { ca: None },
            timeout: TIMEOUT,
            max_body: MAX_DOCUMENT,
            addresses: public_addresses,
            // A document is fetched about once a day.
            pooled: false,
        })?))
    }

    pub async fn fetch(&self, url: &DocumentUrl, now: Timestamp) -> Result<FetchedDocument, OAuthError> {
        let agent = concat!("mcp-oauth-operator/", env!("CARGO_PKG_VERSION"));
        let request = Request::get(url.as_str())
            .header(header::ACCEPT, "application/json")
            .header(header::USER_AGENT, agent)
            .body(Bytes::new())
            .map_err(|_| unavailable("its URL is invalid"))?;
        let (head, body) = request.clone().into_parts();
        match self.0.send(Request::from_parts(head, body)).await {
            Ok(response) => read(&request, response, now),
            Err(HttpError::Response { status, .. }) => {
                check_status(status)?;
                Err(not_a_document("it is larger than 5 KiB or incomplete"))
            }
            Err(HttpError::Timeout(_)) => Err(unavailable("its host takes longer than 5 seconds")),
            Err(error @ (HttpError::Request(_) | HttpError::Stopping)) => {
                // Only logged: the response must not reveal the internal network to unauthenticated clients.
                tracing::debug!(error = &error as &dyn std::error::Error, url = url.as_str(), "fetch failed");
                Err(unavailable("its host cannot be reached"))
            }
        }
    }
}

fn unavailable(reason: &str) -> OAuthError {
    OAuthError::temporarily_unavailable(format!("the client's metadata document cannot be fetched: {reason}"))
}

fn not_a_document(reason: &str) -> OAuthError {
    OAuthError::invalid_client_metadata(format!("there is no client metadata document at the client's URL: {reason}"))
}

fn check_status(status: StatusCode) -> Result<(), OAuthError> {
    let responded = || format!("its host responds with status {}", status.as_u16());
    match status {
        StatusCode::OK => Ok(()),
        status if status.is_redirection() => Err(not_a_document("redirects are not followed")),
        status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => Err(unavailable(&responded())),
        _ => Err(not_a_document(&responded())),
    }
}

fn read(request: &Request<Bytes>, response: Response<Bytes>, now: Timestamp) -> Result<FetchedDocument, OAuthError> {
    check_status(response.status())?;
    let media_type = media_type(response.headers()).to_ascii_lowercase();
    if media_type != "application/json" && !(media_type.starts_with("application/") && media_type.ends_with("+json")) {
        return Err(not_a_document("its media type is not application/json"));
    }
    let at = SystemTime::from(now);
    // A private cache.
    let options = CacheOptions { shared: false, ..CacheOptions::default() };
    let policy = CachePolicy::new_options(request, &response, at, options);
    let fresh_for = if policy.is_storable() { policy.time_to_live(at) } else { Duration::ZERO };
    Ok(FetchedDocument {
        body: response.into_body().to_vec(),
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
    use super::*;
    use crate::oauth::{ErrorCode, client_document::tests::CLAUDE_CODE};

    fn read_response(response: Response<Bytes>) -> Result<FetchedDocument, OAuthError> {
        read(&Request::get(CLAUDE_CODE).body(Bytes::new()).unwrap(), response, Timestamp::now())
    }

    fn response(status: u16, headers: &[(&str, &str)], length: usize) -> Response<Bytes> {
        let mut response = Response::builder().status(status);
        for (name, value) in headers {
            response = response.header(*name, *value);
        }
        response.body(vec![b' '; length].into()).unwrap()
    }

    #[test]
    fn b1_only_a_small_json_response_is_a_document() {
        let json = [("content-type", "application/json; charset=utf-8")];
        assert!(read_response(response(200, &json, MAX_DOCUMENT)).is_ok());
        assert!(read_response(response(200, &[("content-type", "application/oauth-client+json")], 1)).is_ok());
        for (response, code) in [
            (response(200, &[("content-type", "text/html")], 1), ErrorCode::InvalidClientMetadata),
            (response(200, &[], 1), ErrorCode::InvalidClientMetadata),
            (response(302, &[("location", "http://169.254.169.254/")], 0), ErrorCode::InvalidClientMetadata),
            (response(301, &json, 1), ErrorCode::InvalidClientMetadata),
            (response(404, &json, 1), ErrorCode::InvalidClientMetadata),
            (response(503, &json, 1), ErrorCode::TemporarilyUnavailable),
            (response(429, &json, 1), ErrorCode::TemporarilyUnavailable),
        ] {
            let status = response.status();
            assert_eq!(read_response(response).err().map(|error| error.code), Some(code), "{status}");
        }
    }

    #[test]
    fn b6_document_freshness_follows_its_http_headers() {
        let json = ("content-type", "application/json");
        for (control, seconds) in
            [("max-age=3600", 3600), ("private, max-age=60", 60), ("no-store", 0), ("no-cache, max-age=3600", 0)]
        {
            let fetched = read_response(response(200, &[json, ("cache-control", control)], 1)).unwrap();
            assert_eq!(fetched.fresh_for.as_secs(), seconds, "{control}");
        }
        assert_eq!(read_response(response(200, &[json], 1)).unwrap().fresh_for, SignedDuration::ZERO);
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
