use std::sync::Arc;

use axum::{
    Json,
    body::Bytes,
    extract::{State, rejection::BytesRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
};

use super::{
    client_request::ClientIp,
    respond::{no_store, unreadable},
};
use crate::proxy::authorization_server::AuthorizationServer;

/// `POST /register` (RFC 7591).
pub async fn register(
    State(server): State<Arc<AuthorizationServer>>,
    ClientIp(client_ip): ClientIp,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    match body.map(|body| server.register(&body, client_ip)) {
        Ok(Ok(response)) => (StatusCode::CREATED, no_store(), Json(response)).into_response(),
        Ok(Err(error)) => error.into_response(),
        Err(rejection) => {
            server.registration_rejected();
            unreadable(&rejection)
        }
    }
}
