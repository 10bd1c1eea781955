//! The health port: `/healthz`, `/readyz`, `/status`, `/metrics`. The health of issuer and upstream does not count: restarting
//! or unrouting a proxy would not help them.

use std::sync::Arc;

use axum::{
    Json, Router, extract::State, http::StatusCode, http::header::CONTENT_TYPE, response::IntoResponse, routing::get,
};
use tokio_util::sync::CancellationToken;

use crate::{config::PodStatus, proxy::runtime::proxy::Proxy};

#[derive(Clone)]
struct Health {
    proxy: Arc<Proxy>,
    draining: CancellationToken,
}

/// `draining` makes `/readyz` fail.
pub fn router(proxy: Arc<Proxy>, draining: CancellationToken) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/status", get(status))
        .route("/metrics", get(metrics))
        .with_state(Health { proxy, draining })
}

async fn readyz(State(Health { proxy, draining }): State<Health>) -> (StatusCode, &'static str) {
    if draining.is_cancelled() {
        (StatusCode::SERVICE_UNAVAILABLE, "draining: waiting for the last requests\n")
    } else if !proxy.authorization_server.sessions.live().is_complete() {
        (StatusCode::SERVICE_UNAVAILABLE, "waiting for the first complete list of sessions from the session store\n")
    } else {
        (StatusCode::OK, "ready\n")
    }
}

/// Input of the operator's conditions.
async fn status(State(Health { proxy, .. }): State<Health>) -> Json<PodStatus> {
    Json(PodStatus { recheck: proxy.authorization_server.issuer.recheck_status() })
}

async fn metrics(State(Health { proxy, .. }): State<Health>) -> impl IntoResponse {
    match proxy.metrics_text() {
        Ok(text) => {
            let kind = [(CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")];
            (kind, text).into_response()
        }
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}
