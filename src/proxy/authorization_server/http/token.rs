use std::sync::Arc;

use axum::{
    Json,
    body::Bytes,
    extract::{State, rejection::BytesRejection},
    http::HeaderMap,
    response::{IntoResponse, Response},
};

use super::{
    client_request::{ClientIp, authenticate, error_response},
    respond::no_store,
};
use crate::{oauth::tokens::TokenRequest, proxy::authorization_server::AuthorizationServer};

/// `POST /token` (RFC 6749 §3.2).
pub async fn token(
    State(server): State<Arc<AuthorizationServer>>,
    ClientIp(client_ip): ClientIp,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let (client, parameters) = match authenticate(&server, client_ip, &headers, body) {
        Ok(authenticated) => authenticated,
        Err((error, response)) => {
            server.token_rejected(&error, client_ip);
            return *response;
        }
    };
    let get = |name: &str| parameters.get(name).map(str::to_owned);
    let request = TokenRequest {
        grant_type: get("grant_type"),
        code: get("code"),
        redirect_uri: get("redirect_uri"),
        code_verifier: get("code_verifier"),
        refresh_token: get("refresh_token"),
        resource: get("resource"),
    };
    match server.run(|server| async move { server.token(client, request).await }).await {
        Ok(response) => (no_store(), Json(response)).into_response(),
        Err(error) => error_response(&headers, error),
    }
}

#[cfg(test)]
mod tests;
