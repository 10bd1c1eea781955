use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use axum::Router;
use http::{Response, StatusCode, Uri, header};

use super::{error::Error, metrics::Metrics};
use crate::listener;

/// Answers the kubelet and Prometheus.
#[derive(Debug)]
pub(super) struct Health {
    pub(super) metrics: Arc<Metrics>,
    ready: AtomicBool,
}

impl Health {
    /// Alive, but not ready.
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics, ready: AtomicBool::new(false) }
    }

    /// All resources have been listed: ready from now on.
    pub(super) fn listed(&self) {
        if !self.ready.swap(true, Ordering::Relaxed) {
            tracing::info!("all resources are listed");
        }
    }

    /// Opens the port and serves it for as long as the process lives.
    pub(super) fn serve(self: Arc<Self>, address: SocketAddr) -> Result<(), Error> {
        let listener = listener::listen(address)
            .and_then(tokio::net::TcpListener::from_std)
            .map_err(|source| Error::Listen { address, source })?;
        let router = Router::new().fallback(async move |uri: Uri| self.answer(uri.path()));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(())
    }

    fn answer(&self, path: &str) -> Response<String> {
        let (status, kind, body) = match path {
            // Alive is whoever can answer. An API server that is away is no reason to be restarted.
            "/healthz" => (StatusCode::OK, "text/plain", "ok\n".to_owned()),
            "/readyz" if self.ready.load(Ordering::Relaxed) => (StatusCode::OK, "text/plain", "ok\n".to_owned()),
            "/readyz" => {
                (StatusCode::SERVICE_UNAVAILABLE, "text/plain", "the resources have not been listed yet\n".to_owned())
            }
            "/metrics" => {
                (StatusCode::OK, "application/openmetrics-text; version=1.0.0; charset=utf-8", self.metrics.encode())
            }
            _ => (StatusCode::NOT_FOUND, "text/plain", "not found\n".to_owned()),
        };
        let mut response = Response::new(body);
        *response.status_mut() = status;
        response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_requires_the_first_list_and_liveness_does_not() {
        let health = Health::new(Arc::default());
        assert_eq!(health.answer("/readyz").status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(health.answer("/healthz").status(), StatusCode::OK);
        health.listed();
        assert_eq!(health.answer("/readyz").status(), StatusCode::OK);
        assert_eq!(health.answer("/").status(), StatusCode::NOT_FOUND);
    }
}
