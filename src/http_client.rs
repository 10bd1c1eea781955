//! The client for outgoing HTTP, with a deadline and a size limit of responses. It follows no redirects.

use std::{error::Error, io, net::SocketAddr, time::Duration, vec};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
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
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};
use thiserror::Error;
use tower::{BoxError, util::MapResult};

/// Selects the addresses to connect to among those of a name.
pub type SelectAddresses = fn(io::Result<GaiAddrs>) -> Result<vec::IntoIter<SocketAddr>, BoxError>;

#[derive(Clone, Copy, Debug)]
pub struct Settings<'a> {
    pub schemes: Schemes<'a>,
    /// Deadline of a request with its response, the name lookup included.
    pub timeout: Duration,
    /// Maximum bytes of a response body.
    pub max_body: usize,
    pub addresses: SelectAddresses,
    /// Whether idle connections are kept.
    pub pooled: bool,
}

/// https trusts the system's root certificates and those of `ca` (PEM).
#[derive(Clone, Copy, Debug)]
pub enum Schemes<'a> {
    Http,
    Https { ca: Option<&'a str> },
    HttpAndHttps { ca: Option<&'a str> },
}

/// Clones share their connections.
#[derive(Clone, Debug)]
pub struct HttpClient {
    client: Client<HttpsConnector<HttpConnector<MapResult<GaiResolver, SelectAddresses>>>, Full<Bytes>>,
    timeout: Duration,
    max_body: usize,
}

#[derive(Debug, Error)]
pub enum HttpError {
    #[error("the request failed: {0}")]
    Request(#[from] hyper_util::client::legacy::Error),
    /// The body is too large, or the connection failed.
    #[error("the response with status {status} could not be read: {cause}")]
    Response { status: StatusCode, cause: Box<dyn Error + Send + Sync> },
    #[error("no response within {} s", .0.as_secs())]
    Timeout(Duration),
    /// The runtime of the request is shutting down.
    #[error("this server is shutting down")]
    Stopping,
}

impl HttpClient {
    pub fn new(settings: Settings<'_>) -> io::Result<Self> {
        let Settings { schemes, timeout, max_body, addresses, pooled } = settings;
        let mut tcp = HttpConnector::new_with_resolver(MapResult::new(GaiResolver::new(), addresses));
        tcp.enforce_http(false);
        let builder = HttpsConnectorBuilder::new();
        let builder = match schemes {
            Schemes::Http => builder.with_tls_config(trusting(RootCertStore::empty())),
            Schemes::Https { ca: None } | Schemes::HttpAndHttps { ca: None } => builder.with_native_roots()?,
            Schemes::Https { ca: Some(ca) } | Schemes::HttpAndHttps { ca: Some(ca) } => {
                builder.with_tls_config(trusting(roots(ca)?))
            }
        };
        let is_https_only = matches!(schemes, Schemes::Https { .. });
        let builder = if is_https_only { builder.https_only() } else { builder.https_or_http() };
        let mut client = Client::builder(TokioExecutor::new());
        if !pooled {
            client.pool_max_idle_per_host(0);
        }
        Ok(Self { client: client.build(builder.enable_http1().wrap_connector(tcp)), timeout, max_body })
    }

    /// Returns the whole response.
    pub async fn send(&self, request: Request<impl Into<Bytes>>) -> Result<Response<Bytes>, HttpError> {
        let exchange = async {
            let (head, body) = self.client.request(request.map(|body| Full::new(body.into()))).await?.into_parts();
            let body = Limited::new(body, self.max_body).collect().await;
            let body = body.map_err(|cause| HttpError::Response { status: head.status, cause })?;
            Ok(Response::from_parts(head, body.to_bytes()))
        };
        tokio::time::timeout(self.timeout, exchange).await.unwrap_or(Err(HttpError::Timeout(self.timeout)))
    }
}

pub fn all_addresses(found: io::Result<GaiAddrs>) -> Result<vec::IntoIter<SocketAddr>, BoxError> {
    Ok(found?.collect::<Vec<_>>().into_iter())
}

fn trusting(roots: RootCertStore) -> ClientConfig {
    ClientConfig::builder().with_root_certificates(roots).with_no_client_auth()
}

fn roots(ca: &str) -> io::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca.as_bytes()) {
        let certificate =
            certificate.map_err(|_| io::Error::other("the file contains something other than certificates"))?;
        roots
            .add(certificate)
            .map_err(|_| io::Error::other("one of the certificates cannot be used as a root certificate"))?;
    }
    if roots.is_empty() {
        return Err(io::Error::other("the file contains no certificate: it must be PEM"));
    }
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    #[tokio::test]
    async fn response_above_the_size_limit_is_an_error() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.read(&mut [0; 1024]).await.unwrap();
                stream.write_all(b"HTTP/1.1 503 \r\ncontent-length: 4\r\n\r\nbody").await.unwrap();
            }
        });
        let get = |max_body| {
            let (timeout, addresses) = (Duration::from_secs(10), all_addresses as SelectAddresses);
            let settings = Settings { schemes: Schemes::Http, timeout, max_body, addresses, pooled: false };
            let request = Request::get(&url).body(Bytes::new()).unwrap();
            async move { HttpClient::new(settings).unwrap().send(request).await }
        };
        assert_eq!(get(4).await.unwrap().into_body(), "body");
        let error = get(3).await.unwrap_err();
        assert!(matches!(error, HttpError::Response { status: StatusCode::SERVICE_UNAVAILABLE, .. }), "{error}");
    }

    #[test]
    fn invalid_ca_is_explained() {
        for (ca, says) in [
            ("", "contains no certificate"),
            ("not PEM", "contains no certificate"),
            ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "cannot be used as a root"),
            ("-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n", "something other"),
        ] {
            let error = roots(ca).unwrap_err().to_string();
            assert!(error.contains(says), "{ca}: {error}");
        }
    }
}
