use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State},
    response::{IntoResponse, Response},
};

use super::respond;
use crate::{oauth::metadata, proxy::authorization_server::AuthorizationServer};

/// `GET /.well-known/oauth-authorization-server` (RFC 8414), and under the name that OpenID Connect discovery gives it, for
/// clients that look only there.
pub async fn authorization_server(State(proxy): State<Arc<AuthorizationServer>>) -> Response {
    Json(metadata::authorization_server(&proxy.public_url, &proxy.config.clients)).into_response()
}

/// `GET /.well-known/oauth-protected-resource`: that of the first path.
pub async fn default_resource(State(proxy): State<Arc<AuthorizationServer>>) -> Response {
    let resource = proxy.resources.audience(proxy.resources.default_path());
    Json(metadata::protected_resource(&proxy.public_url, &resource)).into_response()
}

/// `GET /.well-known/oauth-protected-resource/PATH` (RFC 9728 §3.1), which names the resource as the client spells it.
pub async fn resource(State(proxy): State<Arc<AuthorizationServer>>, Path(path): Path<String>) -> Response {
    let path = format!("/{path}");
    if proxy.resources.path(&path).is_none() {
        return respond::not_found();
    }
    Json(metadata::protected_resource(&proxy.public_url, &proxy.public_url.join(&path))).into_response()
}

/// `GET /jwks`: the keys that access tokens verify with (RFC 7517).
pub async fn jwks(State(proxy): State<Arc<AuthorizationServer>>) -> Response {
    Json(proxy.secrets.load().signing.jwks()).into_response()
}
