use std::sync::Arc;

use axum::{
    Json,
    body::Bytes,
    extract::{State, rejection::BytesRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
};

use super::{
    client_request::From,
    respond::{no_store, unreadable},
};
use crate::{
    oauth::{ErrorCode, client::Client},
    proxy::{
        authorization_server::AuthorizationServer,
        observability::{audit, metrics::OAuthOutcome},
    },
};

/// `POST /register` (RFC 7591). Nothing is stored.
pub async fn register(
    State(proxy): State<Arc<AuthorizationServer>>,
    From(from): From,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let body = match body {
        Ok(body) => body,
        Err(rejection) => {
            proxy.metrics.registrations.count(OAuthOutcome(Some(ErrorCode::InvalidRequest)));
            return unreadable(&rejection);
        }
    };
    let keyring = proxy.secrets.load().keyring.clone();
    let answer = Client::register(&body, &proxy.config.clients.redirects, proxy.now()).and_then(|client| {
        let id = client.id(&keyring)?;
        Ok(client.answer(&id, &keyring))
    });
    proxy.metrics.registrations.count(OAuthOutcome::of(&answer));
    match answer {
        Ok(answer) => (StatusCode::CREATED, no_store(), Json(answer)).into_response(),
        Err(error) => {
            audit::registration_refused(&error, from);
            error.into_response()
        }
    }
}
