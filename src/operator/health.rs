use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use http::{Request, Response, StatusCode, header};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;

use super::{error::Error, metrics::Metrics};

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
            tracing::info!("all resources have been listed");
        }
    }

    /// Opens the port and serves it for as long as the process lives.
    pub(super) async fn serve(self: Arc<Self>, address: SocketAddr) -> Result<(), Error> {
        let listener = TcpListener::bind(address).await.map_err(|source| Error::Listen { address, source })?;
        tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else {
                    // Out of file descriptors, most likely: the probes will tell.
                    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                    continue;
                };
                let health = self.clone();
                tokio::spawn(async move {
                    let service = service_fn(move |request: Request<Incoming>| {
                        let answer = health.answer(request.uri().path());
                        async move { Ok::<_, Infallible>(answer) }
                    });
                    let connection =
                        http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service);
                    if let Err(error) = connection.await {
                        tracing::debug!(%error, "a health connection broke");
                    }
                });
            }
        });
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
    fn ready_follows_the_first_list_and_alive_does_not() {
        let health = Health::new(Arc::default());
        assert_eq!(health.answer("/readyz").status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(health.answer("/healthz").status(), StatusCode::OK);
        health.listed();
        assert_eq!(health.answer("/readyz").status(), StatusCode::OK);
        assert_eq!(health.answer("/").status(), StatusCode::NOT_FOUND);
    }
}
