use std::sync::Arc;

use axum::{Json, extract::State, response::IntoResponse};

use super::{
    client_request::{ClientRequest, ClientRequestError},
    respond::no_store,
};
use crate::{oauth::tokens::TokenRequest, proxy::authorization_server::AuthorizationServer};

/// `POST /token` (RFC 6749 §3.2).
pub async fn token(
    State(server): State<Arc<AuthorizationServer>>,
    request: ClientRequest,
) -> Result<impl IntoResponse, ClientRequestError> {
    let (client, parameters) =
        request.authenticate(&server).inspect_err(|error| server.token_rejected(&error.cause, request.ip))?;
    let get = |name: &str| parameters.get(name).map(str::to_owned);
    let token_request = TokenRequest {
        grant_type: get("grant_type"),
        code: get("code"),
        redirect_uri: get("redirect_uri"),
        code_verifier: get("code_verifier"),
        refresh_token: get("refresh_token"),
        resource: get("resource"),
    };
    let issued = server.run(|server| async move { server.token(client, token_request).await }).await;
    let response = issued.map_err(|error| request.error(error))?;
    Ok((no_store(), Json(response)))
}

#[cfg(test)]
mod tests;
