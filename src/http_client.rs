//! The client for outgoing HTTP: a deadline, a limit on the size of a response, no redirects.

use std::{io, time::Duration};

use http::{Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};
use thiserror::Error;

/// The deadline of a request with its response.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Maximum bytes of a response body: key sets and token responses are a few KiB.
const MAX_BODY: usize = 1024 * 1024;

/// Clones share their connections.
#[derive(Clone, Debug)]
pub struct HttpClient {
    client: Client<HttpsConnector<HttpConnector>, Full<bytes::Bytes>>,
}

#[derive(Debug, Error)]
pub enum HttpError {
    #[error("the request failed: {0}")]
    Request(#[from] hyper_util::client::legacy::Error),
    /// The body is too large, or the connection failed.
    #[error("the response could not be read: {0}")]
    Response(Box<dyn std::error::Error + Send + Sync>),
    #[error("no response within {} s", TIMEOUT.as_secs())]
    Timeout,
    /// The runtime of the request is shutting down.
    #[error("this server is shutting down")]
    Stopping,
}

impl HttpClient {
    /// Trusts the system's roots and those of `ca` (PEM). With `https_only`, a URL with another scheme is an error: requests
    /// may contain secrets.
    pub fn new(https_only: bool, ca: Option<&str>) -> io::Result<Self> {
        let builder = HttpsConnectorBuilder::new();
        let builder = match ca {
            None => builder.with_native_roots()?,
            Some(ca) => builder.with_tls_config(tls_config(ca)?),
        };
        let builder = if https_only { builder.https_only() } else { builder.https_or_http() };
        let connector = builder.enable_http1().build();
        Ok(Self { client: Client::builder(TokioExecutor::new()).build(connector) })
    }

    /// Returns the whole response.
    pub async fn send(&self, request: Request<Vec<u8>>) -> Result<Response<Vec<u8>>, HttpError> {
        let request = request.map(|body| Full::new(body.into()));
        let exchange = async {
            let (head, body) = self.client.request(request).await?.into_parts();
            let body = Limited::new(body, MAX_BODY).collect().await.map_err(HttpError::Response)?;
            Ok(Response::from_parts(head, body.to_bytes().to_vec()))
        };
        tokio::time::timeout(TIMEOUT, exchange).await.unwrap_or(Err(HttpError::Timeout))
    }
}

fn tls_config(ca: &str) -> io::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca.as_bytes()) {
        let certificate =
            certificate.map_err(|_| io::Error::other("there is something else in it than certificates"))?;
        roots.add(certificate).map_err(|_| io::Error::other("one of its certificates cannot be a root"))?;
    }
    if roots.is_empty() {
        return Err(io::Error::other("there is no certificate in it; it must be PEM"));
    }
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    Ok(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_ca_is_explained() {
        for (ca, says) in [
            ("", "no certificate in it"),
            ("not PEM", "no certificate in it"),
            ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "cannot be a root"),
            ("-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n", "something else"),
        ] {
            let error = tls_config(ca).unwrap_err().to_string();
            assert!(error.contains(says), "{ca}: {error}");
        }
    }
}
