//! The HTTP client as `openidconnect` takes it, with a count of what the issuer answered.

use std::{future::Future, pin::Pin, sync::Arc};

use openidconnect::{AsyncHttpClient, HttpRequest, HttpResponse};

use crate::{
    http_client::{HttpClient, HttpError},
    proxy::observability::metrics::{Counts, IssuerOutcome},
};

/// Sends requests to the issuer.
#[derive(Clone, Debug)]
pub(super) struct IssuerClient {
    client: HttpClient,
    responses: Arc<Counts<IssuerOutcome>>,
}

impl IssuerClient {
    /// Sends with `client` and counts in `responses`.
    pub(super) fn new(client: HttpClient, responses: Arc<Counts<IssuerOutcome>>) -> Self {
        Self { client, responses }
    }

    /// The counts.
    pub(super) fn responses(&self) -> Arc<Counts<IssuerOutcome>> {
        self.responses.clone()
    }

    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let response = self.client.send(request).await;
        self.responses.count(match &response {
            Ok(response) if response.status().is_success() => IssuerOutcome::Answered,
            Ok(response) if response.status().is_client_error() => IssuerOutcome::Refused,
            Ok(_) | Err(HttpError::Response(_)) => IssuerOutcome::Failed,
            Err(HttpError::Request(_) | HttpError::Stopping) => IssuerOutcome::Unreachable,
            Err(HttpError::Timeout) => IssuerOutcome::Timeout,
        });
        response
    }
}

impl<'c> AsyncHttpClient<'c> for IssuerClient {
    type Error = HttpError;
    type Future = Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + Sync + 'c>>;

    fn call(&'c self, request: HttpRequest) -> Self::Future {
        // The library wants a future that is Sync, which hyper's is not; a task's handle is.
        let client = self.clone();
        let task = tokio::spawn(async move { client.send(request).await });
        Box::pin(async move { task.await.unwrap_or(Err(HttpError::Stopping)) })
    }
}
