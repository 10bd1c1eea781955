use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State, rejection::PathRejection},
    response::{IntoResponse, Response},
};

use super::respond;
use crate::{
    oauth::metadata::{AuthorizationServerMetadata, ProtectedResourceMetadata},
    proxy::authorization_server::AuthorizationServer,
};

/// `GET /.well-known/oauth-authorization-server` (RFC 8414), also at the path of OpenID Connect discovery, the only one that
/// some clients use.
pub async fn authorization_server(State(server): State<Arc<AuthorizationServer>>) -> Json<AuthorizationServerMetadata> {
    Json(AuthorizationServerMetadata::new(&server.public_url, &server.config.clients))
}

/// `GET /.well-known/oauth-protected-resource`: the metadata of the default path.
pub async fn default_resource(State(server): State<Arc<AuthorizationServer>>) -> Json<ProtectedResourceMetadata> {
    let resource = server.resources.audience(server.resources.default_path());
    Json(ProtectedResourceMetadata::new(&server.public_url, resource))
}

/// `GET /.well-known/oauth-protected-resource/PATH` (RFC 9728 §3.1).
pub async fn resource(
    State(server): State<Arc<AuthorizationServer>>,
    path: Result<Path<String>, PathRejection>,
) -> Response {
    // The rejection is a path that is not UTF-8.
    let Ok(Path(path)) = path else { return respond::not_found() };
    let path = format!("/{path}");
    if server.resources.path(&path).is_none() {
        return respond::not_found();
    }
    Json(ProtectedResourceMetadata::new(&server.public_url, server.public_url.join(&path))).into_response()
}

/// `GET /jwks`: the keys of access tokens (RFC 7517).
pub async fn jwks(State(server): State<Arc<AuthorizationServer>>) -> Response {
    Json(server.secrets.load().signing.jwks()).into_response()
}
