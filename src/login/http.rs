//! The HTTP client of `login`. It differs from [`crate::http_client`] in that streams have no deadline and no size limit.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Response, Uri, header, request::Builder, response::Parts};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use openidconnect::AccessToken;
use thiserror::Error;
use tokio::time::timeout;
use url::Url;

use crate::{api::is_loopback, error_chain::error_chain};

/// Deadline of connecting, and of responses that are not streams.
const TIMEOUT: Duration = Duration::from_secs(30);

/// TCP keep-alive, because an event stream may be idle for hours.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// Size limit of metadata and token responses, in bytes.
const MAX_BODY: usize = 1024 * 1024;

const USER_AGENT: &str = concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION"), " login");

/// Follows no redirects, so that a token reaches no other host.
#[derive(Clone, Debug)]
pub struct Http(Client<HttpsConnector<HttpConnector>, Full<Bytes>>);

#[derive(Debug, Error)]
pub enum HttpError {
    #[error("no CA certificates: {0}; install ca-certificates, or set SSL_CERT_FILE to a file with CA certificates")]
    Roots(#[source] std::io::Error),
    #[error("{0} is not an allowed URL: it must be https://..., or http:// on this machine")]
    Insecure(String),
    #[error("the request is invalid: {0}")]
    Request(#[from] http::Error),
    #[error("{host} cannot be reached: {cause}")]
    Connection { host: String, cause: String },
    #[error("the response of {host} cannot be read: {cause}")]
    Body { host: String, cause: String },
    #[error("{host} did not respond within {} s: try again", TIMEOUT.as_secs())]
    Timeout { host: String },
}

impl Http {
    /// Trusts the system's CA certificates, or those in `SSL_CERT_FILE`. If `server` uses https, the client refuses plain
    /// http everywhere, including in the server's metadata.
    pub fn new(server: &Url) -> Result<Self, HttpError> {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(TIMEOUT));
        tcp.set_keepalive(Some(KEEPALIVE));
        let builder = HttpsConnectorBuilder::new().with_native_roots().map_err(HttpError::Roots)?;
        let builder = if server.scheme() == "https" { builder.https_only() } else { builder.https_or_http() };
        let connector = builder.enable_http1().wrap_connector(tcp);
        Ok(Self(Client::builder(TokioExecutor::new()).build(connector)))
    }

    /// Reads the whole response: at most 1 MiB within 30 s.
    pub async fn send(&self, request: Builder, body: impl Into<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let host = host(&request);
        let exchange = async {
            let (head, body) = self.open(request, body).await?.into_parts();
            Ok(Response::from_parts(head, read_body(body, &host, MAX_BODY).await?))
        };
        timeout(TIMEOUT, exchange).await.unwrap_or_else(|_| Err(HttpError::Timeout { host: host.clone() }))
    }

    /// Reads the response head, which must arrive within 30 s.
    pub async fn send_for_head(&self, request: Builder, body: impl Into<Bytes>) -> Result<Parts, HttpError> {
        let host = host(&request);
        let response = timeout(TIMEOUT, self.open(request, body)).await;
        Ok(response.map_err(|_| HttpError::Timeout { host })??.into_parts().0)
    }

    /// Returns when the response head has arrived. Has no deadline.
    pub async fn open(&self, request: Builder, body: impl Into<Bytes>) -> Result<Response<Incoming>, HttpError> {
        let host = host(&request);
        let request = request.header(header::USER_AGENT, USER_AGENT).body(Full::new(body.into()))?;
        self.0.request(request).await.map_err(|error| HttpError::Connection { host, cause: describe(&error) })
    }
}

/// Reads a body of at most `limit` bytes.
pub async fn read_body(body: Incoming, host: &str, limit: usize) -> Result<Bytes, HttpError> {
    let body = Limited::new(body, limit).collect().await;
    Ok(body.map_err(|error| HttpError::Body { host: host.to_owned(), cause: describe(&*error) })?.to_bytes())
}

/// Parses a URL that may be requested: https, or http to a loopback host.
pub fn secure_url(text: &str) -> Result<Url, HttpError> {
    let insecure = || HttpError::Insecure(text.chars().take(200).collect());
    let url = Url::parse(text).map_err(|_| insecure())?;
    let secure = url.has_host() && (url.scheme() == "https" || (url.scheme() == "http" && is_loopback(&url)));
    // Credentials in the URL would appear in messages and in the store.
    if secure && url.username().is_empty() && url.password().is_none() { Ok(url) } else { Err(insecure()) }
}

/// The `Authorization` header, redacted in debug output.
pub fn bearer(token: &AccessToken) -> Result<HeaderValue, HttpError> {
    let mut value = HeaderValue::try_from(format!("Bearer {}", token.secret())).map_err(http::Error::from)?;
    value.set_sensitive(true);
    Ok(value)
}

fn host(request: &Builder) -> String {
    request.uri_ref().and_then(Uri::host).unwrap_or("the server").to_owned()
}

/// The whole error chain: hyper's own message is only "client error (Connect)".
fn describe(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error_chain(error);
    if text.contains("UnknownIssuer") {
        text += "; if a private CA issued its certificate, set SSL_CERT_FILE to the CA's certificate";
    }
    text
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    #[test]
    fn plain_http_is_allowed_for_loopback_only() {
        for good in
            ["https://mcp.example.com/mcp", "http://127.0.0.1:8080/mcp", "http://localhost/mcp", "http://[::1]/"]
        {
            assert!(secure_url(good).is_ok(), "{good}");
        }
        for bad in
            ["http://mcp.example.com/mcp", "file:///etc/passwd", "mcp.example.com", "https://a:b@mcp.example.com/"]
        {
            assert!(matches!(secure_url(bad), Err(HttpError::Insecure(_))), "{bad}");
        }
    }

    #[test]
    fn request_debug_output_hides_the_token() {
        let token = bearer(&AccessToken::new("secret".to_owned())).unwrap();
        let request = Request::get("https://mcp.example.com/").header(header::AUTHORIZATION, token);
        assert!(!format!("{:?}", request.body(()).unwrap()).contains("secret"));
    }
}
