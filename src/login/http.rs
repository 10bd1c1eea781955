//! How the client speaks HTTP. Not the client of `proxy::identity`, which bounds every answer in time and size: an MCP
//! server's streams have no end.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, header, response::Parts};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use thiserror::Error;
use url::Url;

use crate::{api::is_loopback, error_chain::error_chain};

/// How long a server may take for an answer that is read to its end, and for a connection.
const TIMEOUT: Duration = Duration::from_secs(30);

/// After how much silence a connection is asked whether it still stands: a stream may be quiet for hours.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// The largest answer that is read to its end, in bytes: metadata and tokens are a few KiB.
const MAX_ANSWER: usize = 1024 * 1024;

const USER_AGENT: &str = concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION"), " login");

/// Speaks to the MCP server and to its authorization server. Follows no redirects: tokens go where they were meant to go.
#[derive(Clone, Debug)]
pub struct Http(Client<HttpsConnector<HttpConnector>, Full<Bytes>>);

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum HttpError {
    /// The roots cannot be read.
    #[error("no certificate authorities: {0}; install ca-certificates, or name a file with them in SSL_CERT_FILE")]
    Roots(#[source] std::io::Error),
    /// Not a URL that may be asked.
    #[error("{0} is not an address that may be asked: it must be https://..., or http:// on this machine")]
    Insecure(String),
    /// Not a request; the URL or a token has odd characters.
    #[error("the request cannot be made: {0}")]
    Request(#[from] http::Error),
    /// No connection, or it broke.
    #[error("{host} cannot be reached: {cause}")]
    Connection {
        /// Who was asked.
        host: String,
        /// All that is known, to its root.
        cause: String,
    },
    /// The answer is too large or broke off.
    #[error("the answer of {host} cannot be read: {cause}")]
    Answer {
        /// Who was asked.
        host: String,
        /// What is wrong.
        cause: String,
    },
    /// No answer in time.
    #[error("{host} gave no answer within {} s: try again", TIMEOUT.as_secs())]
    Timeout {
        /// Who was asked.
        host: String,
    },
}

impl Http {
    /// A client that trusts the system's roots, or those of `SSL_CERT_FILE`. For an MCP server with https it speaks https
    /// alone, whatever that server's metadata names.
    ///
    /// # Errors
    /// When there are no roots.
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

    /// An answer as a whole.
    ///
    /// # Errors
    /// When it does not come within 30 s, or is larger than 1 MiB.
    pub async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<Response<Bytes>, HttpError> {
        let host = host(&request);
        let exchange = async {
            let (head, body) = self.open(request).await?.into_parts();
            let body = whole(body, &host, MAX_ANSWER).await?;
            Ok(Response::from_parts(head, body))
        };
        tokio::time::timeout(TIMEOUT, exchange).await.unwrap_or_else(|_| Err(HttpError::Timeout { host: host.clone() }))
    }

    /// The head of an answer.
    ///
    /// # Errors
    /// When it does not come within 30 s.
    pub async fn head_of(&self, request: Request<Full<Bytes>>) -> Result<Parts, HttpError> {
        let host = host(&request);
        let answer = tokio::time::timeout(TIMEOUT, self.open(request)).await;
        Ok(answer.map_err(|_| HttpError::Timeout { host })??.into_parts().0)
    }

    /// An answer whose body is still to come, for as long as that takes.
    ///
    /// # Errors
    /// When there is no connection.
    pub async fn open(&self, mut request: Request<Full<Bytes>>) -> Result<Response<Incoming>, HttpError> {
        let host = host(&request);
        request.headers_mut().insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
        self.0.request(request).await.map_err(|error| HttpError::Connection { host, cause: describe(&error) })
    }
}

/// The body of an answer that is not a stream.
///
/// # Errors
/// When it is larger than `limit` bytes or breaks off.
pub async fn whole(body: Incoming, host: &str, limit: usize) -> Result<Bytes, HttpError> {
    let answer = |error: Box<dyn std::error::Error + Send + Sync>| HttpError::Answer {
        host: host.to_owned(),
        cause: describe(&*error),
    };
    Ok(Limited::new(body, limit).collect().await.map_err(answer)?.to_bytes())
}

/// A URL that may be asked: https, or http where nobody is in between.
///
/// # Errors
/// For every other.
pub fn secure(text: &str) -> Result<Url, HttpError> {
    let insecure = || HttpError::Insecure(text.chars().take(200).collect());
    let url = Url::parse(text).map_err(|_| insecure())?;
    let secure = url.has_host() && (url.scheme() == "https" || (url.scheme() == "http" && is_loopback(&url)));
    // A name or password in it would go into messages and the store.
    if secure && url.username().is_empty() && url.password().is_none() { Ok(url) } else { Err(insecure()) }
}

/// `Authorization: Bearer ...`, kept out of debug output.
///
/// # Errors
/// When the token has characters that no header may have.
pub fn bearer(token: &str) -> Result<HeaderValue, http::Error> {
    let mut value = HeaderValue::try_from(format!("Bearer {token}"))?;
    value.set_sensitive(true);
    Ok(value)
}

fn host(request: &Request<Full<Bytes>>) -> String {
    request.uri().host().unwrap_or("the server").to_owned()
}

/// An error with those beneath it: "client error (Connect)" says nothing to anybody.
fn describe(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error_chain(error);
    if text.contains("UnknownIssuer") {
        text += "; if its certificate is of your own authority, name that in SSL_CERT_FILE";
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_allowed_for_loopback_only() {
        for good in
            ["https://mcp.example.com/mcp", "http://127.0.0.1:8080/mcp", "http://localhost/mcp", "http://[::1]/"]
        {
            assert!(secure(good).is_ok(), "{good}");
        }
        for bad in
            ["http://mcp.example.com/mcp", "file:///etc/passwd", "mcp.example.com", "https://a:b@mcp.example.com/"]
        {
            assert!(matches!(secure(bad), Err(HttpError::Insecure(_))), "{bad}");
        }
    }

    #[test]
    fn request_debug_output_hides_the_token() {
        let request = Request::get("https://mcp.example.com/").header(header::AUTHORIZATION, bearer("secret").unwrap());
        assert!(!format!("{:?}", request.body(()).unwrap()).contains("secret"));
    }
}
