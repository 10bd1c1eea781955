use std::{future::Future, io, pin::Pin, sync::Arc, time::Duration};

use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use openidconnect::{AsyncHttpClient, HttpRequest, HttpResponse};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};
use thiserror::Error;

use crate::{
    api::IssuerUrl,
    proxy::observability::metrics::{Counts, IssuerAnswer},
};

/// How long the issuer may take for one answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The largest answer that is read, in bytes: key sets and token answers are a few KiB.
const MAX_ANSWER: usize = 1024 * 1024;

/// Speaks to the issuer: no redirects are followed, answers are bounded in size and time.
#[derive(Clone, Debug)]
pub struct HttpClient {
    client: Client<HttpsConnector<HttpConnector>, Full<bytes::Bytes>>,
    asked: Arc<Counts<IssuerAnswer>>,
}

/// Why the issuer did not answer.
#[derive(Debug, Error)]
pub enum HttpError {
    /// No connection, or it broke.
    #[error("the request failed: {0}")]
    Request(#[from] hyper_util::client::legacy::Error),
    /// The answer is too large or broke off.
    #[error("the answer could not be read: {0}")]
    Answer(Box<dyn std::error::Error + Send + Sync>),
    /// No answer in time.
    #[error("no answer within {} s", TIMEOUT.as_secs())]
    Timeout,
    /// The task that asked is gone.
    #[error("this server is shutting down")]
    Stopping,
}

impl HttpClient {
    /// A client that trusts the system's roots, and those of `ca` (PEM) beside them. With an https issuer it speaks https
    /// alone, whatever the issuer's discovery document names: the client secret goes there.
    ///
    /// # Errors
    /// When the system has none, or `ca` holds something else than certificates.
    pub fn new(issuer: &IssuerUrl, ca: Option<&str>) -> io::Result<Self> {
        let builder = HttpsConnectorBuilder::new();
        let builder = match ca {
            None => builder.with_native_roots()?,
            Some(ca) => builder.with_tls_config(trusting(ca)?),
        };
        let builder =
            if issuer.as_str().starts_with("https:") { builder.https_only() } else { builder.https_or_http() };
        let connector = builder.enable_http1().build();
        Ok(Self { client: Client::builder(TokioExecutor::new()).build(connector), asked: Arc::default() })
    }

    /// Goes on counting what the issuer answers where another client has begun to.
    pub fn counting_with(self, asked: Arc<Counts<IssuerAnswer>>) -> Self {
        Self { asked, ..self }
    }

    /// What the issuer has answered.
    pub fn asked(&self) -> Arc<Counts<IssuerAnswer>> {
        self.asked.clone()
    }

    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let answered = self.try_send(request).await;
        self.asked.count(match &answered {
            Ok(answer) if answer.status().is_success() => IssuerAnswer::Answered,
            Ok(answer) if answer.status().is_client_error() => IssuerAnswer::Refused,
            Ok(_) | Err(HttpError::Answer(_)) => IssuerAnswer::Failed,
            Err(HttpError::Request(_) | HttpError::Stopping) => IssuerAnswer::Unreachable,
            Err(HttpError::Timeout) => IssuerAnswer::Timeout,
        });
        answered
    }

    async fn try_send(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let request = request.map(|body| Full::new(body.into()));
        let exchange = async {
            let (head, body) = self.client.request(request).await?.into_parts();
            let body = Limited::new(body, MAX_ANSWER).collect().await.map_err(HttpError::Answer)?;
            Ok(HttpResponse::from_parts(head, body.to_bytes().to_vec()))
        };
        tokio::time::timeout(TIMEOUT, exchange).await.unwrap_or(Err(HttpError::Timeout))
    }
}

/// The system's roots and these.
fn trusting(ca: &str) -> io::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let mut own = 0;
    for certificate in CertificateDer::pem_slice_iter(ca.as_bytes()) {
        let certificate =
            certificate.map_err(|_| io::Error::other("there is something else in it than certificates"))?;
        roots.add(certificate).map_err(|_| io::Error::other("one of its certificates cannot be a root"))?;
        own += 1;
    }
    if own == 0 {
        return Err(io::Error::other("there is no certificate in it; it must be PEM"));
    }
    Ok(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth())
}

impl<'c> AsyncHttpClient<'c> for HttpClient {
    type Error = HttpError;
    type Future = Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + Sync + 'c>>;

    fn call(&'c self, request: HttpRequest) -> Self::Future {
        // The library wants a future that is Sync, which hyper's is not; a task's handle is.
        let client = self.clone();
        let task = tokio::spawn(async move { client.send(request).await });
        Box::pin(async move { task.await.unwrap_or(Err(HttpError::Stopping)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_certificate_is_named() {
        for (ca, says) in [
            ("", "no certificate in it"),
            ("not PEM", "no certificate in it"),
            ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "cannot be a root"),
            ("-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n", "something else"),
        ] {
            let error = trusting(ca).unwrap_err().to_string();
            assert!(error.contains(says), "{ca}: {error}");
        }
    }
}
