//! The HTTP client of `openidconnect`. It counts the issuer's responses.

use std::{future::Future, io, pin::Pin, sync::Arc, time::Duration};

use openidconnect::{AsyncHttpClient, HttpRequest, HttpResponse};

use crate::{
    api::proxy::IdentityProvider,
    http_client::{HttpClient, HttpError, Schemes, Settings, all_addresses},
    proxy::observability::metrics::{Counts, IssuerOutcome},
};

/// Creates the client for an issuer. `ca` holds the certificates of `caRef` (PEM).
pub fn http_client(config: &IdentityProvider, ca: Option<&str>) -> io::Result<HttpClient> {
    HttpClient::new(Settings {
        // Requests to an https issuer contain secrets.
        schemes: if config.issuer_url.is_https() { Schemes::Https { ca } } else { Schemes::HttpAndHttps { ca } },
        timeout: Duration::from_secs(10),
        // Key sets and token responses are a few KiB.
        max_body: 1024 * 1024,
        addresses: all_addresses,
        pooled: true,
    })
}

#[derive(Clone, Debug)]
pub(super) struct IssuerClient {
    pub(super) client: HttpClient,
    pub(super) responses: Arc<Counts<IssuerOutcome>>,
}

impl IssuerClient {
    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let response = self.client.send(request).await;
        self.responses.count(match &response {
            Ok(response) if response.status().is_success() => IssuerOutcome::Answered,
            Ok(response) if response.status().is_client_error() => IssuerOutcome::Refused,
            Ok(_) | Err(HttpError::Response { .. }) => IssuerOutcome::Failed,
            Err(HttpError::Request(_) | HttpError::Stopping) => IssuerOutcome::Unreachable,
            Err(HttpError::Timeout(_)) => IssuerOutcome::Timeout,
        });
        response.map(|response| response.map(|body| body.to_vec()))
    }
}

impl<'c> AsyncHttpClient<'c> for IssuerClient {
    type Error = HttpError;
    type Future = Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + Sync + 'c>>;

    fn call(&'c self, request: HttpRequest) -> Self::Future {
        // The library requires a future that is Sync. hyper's is not; a task's handle is.
        let client = self.clone();
        let task = tokio::spawn(async move { client.send(request).await });
        Box::pin(async move { task.await.unwrap_or(Err(HttpError::Stopping)) })
    }
}
