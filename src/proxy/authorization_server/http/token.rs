use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};

use super::{
    client_request::{ClientRequest, Rejected},
    respond::no_store,
    run,
};
use crate::proxy::authorization_server::{AuthorizationServer, TokenRequest};

/// `POST /token` (RFC 6749 §3.2).
pub async fn token(
    State(server): State<Arc<AuthorizationServer>>,
    request: Result<ClientRequest, Rejected>,
) -> Response {
    let request = match request {
        Ok(request) => request,
        Err(rejected) => {
            server.token_rejected(&rejected.error, rejected.from);
            return rejected.into_response();
        }
    };
    let get = |name: &str| request.get(name).map(str::to_owned);
    let parsed = TokenRequest {
        client_id: request.client_id.clone(),
        grant_type: get("grant_type"),
        code: get("code"),
        redirect_uri: get("redirect_uri"),
        code_verifier: get("code_verifier"),
        refresh_token: get("refresh_token"),
        resource: get("resource"),
        secrets: request.secrets.clone(),
        client_ip: request.from,
    };
    match run(&server, |server| async move { server.token(parsed).await }).await {
        Ok(response) => (no_store(), Json(response)).into_response(),
        Err(error) => request.refuse(&error),
    }
}

#[cfg(test)]
mod tests;
