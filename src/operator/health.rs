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

/// The HTTP endpoints for the kubelet and Prometheus.
#[derive(Debug)]
pub(super) struct Health {
    pub(super) metrics: Arc<Metrics>,
    ready: AtomicBool,
}

impl Health {
    /// Starts alive and not ready.
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics, ready: AtomicBool::new(false) }
    }

    /// Marks the operator as ready: the initial list of all resources is complete.
    pub(super) fn set_ready(&self) {
        if !self.ready.swap(true, Ordering::Relaxed) {
            tracing::info!("all resources are listed");
        }
    }

    /// Opens the port and serves it until the process ends.
    pub(super) fn serve(self: Arc<Self>, address: SocketAddr) -> Result<(), Error> {
        let listener = listener::listen(address)
            .and_then(tokio::net::TcpListener::from_std)
            .map_err(|source| Error::Listen { address, source })?;
        let router = Router::new().fallback(async move |uri: Uri| self.respond(uri.path()));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(())
    }

    fn respond(&self, path: &str) -> Response<String> {
        let (status, kind, body) = match path {
            // Liveness needs only a response: a restart does not help when the API server is down.
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
        assert_eq!(health.respond("/readyz").status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(health.respond("/healthz").status(), StatusCode::OK);
        health.set_ready();
        assert_eq!(health.respond("/readyz").status(), StatusCode::OK);
        assert_eq!(health.respond("/").status(), StatusCode::NOT_FOUND);
    }
}
