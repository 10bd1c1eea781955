//! The HTTP client of `openidconnect`. It counts the issuer's responses.

use std::{future::Future, pin::Pin, sync::Arc};

use openidconnect::{AsyncHttpClient, HttpRequest, HttpResponse};

use crate::{
    http_client::{HttpClient, HttpError},
    proxy::observability::metrics::{Counts, IssuerOutcome},
};

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
        // The library requires a future that is Sync. hyper's is not; a task's handle is.
        let client = self.clone();
        let task = tokio::spawn(async move { client.send(request).await });
        Box::pin(async move { task.await.unwrap_or(Err(HttpError::Stopping)) })
    }
}
