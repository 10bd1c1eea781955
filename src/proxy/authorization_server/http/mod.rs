//! The HTTP endpoints of the authorization server, one handler per file.

mod authorize;
mod callback;
mod client_request;
mod consent;
mod cookies;
mod landing;
mod limits;
mod pages;
mod register;
mod respond;
mod revoke;
mod token;
mod well_known;

use std::sync::Arc;

use axum::{
    Router,
    extract::DefaultBodyLimit,
    http::{HeaderName, Method, header},
    middleware::from_fn_with_state,
    routing::{get, post},
};
use tower_http::cors::{Any, CorsLayer};

use self::limits::{RateLimit, RateLimits, rate_limit};
#[cfg(feature = "fuzzing")]
pub use self::{
    client_request::{basic_credentials, parameters},
    cookies::Cookies,
};

use crate::api::proxy::DynamicRegistration;
use crate::proxy::{authorization_server::AuthorizationServer, cors::REQUEST_HEADERS};

/// The largest request body in bytes.
pub const MAX_BODY: usize = 64 * 1024;

/// All endpoints except the MCP ones.
pub fn router(server: Arc<AuthorizationServer>) -> Router {
    // For clients in browsers, of any origin. The pages have no CORS headers.
    let cors = CorsLayer::new()
        .allow_origin(Any)
        .allow_methods([Method::GET, Method::POST])
        .allow_headers(REQUEST_HEADERS.map(HeaderName::from_static))
        .expose_headers([header::WWW_AUTHENTICATE]);
    let limits = Arc::new(RateLimits::new(&server.config.trusted_proxies));
    let limit =
        |pages| from_fn_with_state(RateLimit { limits: limits.clone(), server: server.clone(), pages }, rate_limit);
    let mut programs = Router::new().route("/token", post(token::token)).route("/revoke", post(revoke::revoke));
    if server.config.clients.dynamic_registration == DynamicRegistration::Enabled {
        programs = programs.route("/register", post(register::register));
    }
    let metadata = Router::new()
        .route("/.well-known/oauth-authorization-server", get(well_known::authorization_server))
        .route("/.well-known/openid-configuration", get(well_known::authorization_server))
        .route("/.well-known/oauth-protected-resource", get(well_known::default_resource))
        .route("/.well-known/oauth-protected-resource/{*path}", get(well_known::resource))
        .route("/jwks", get(well_known::jwks));
    let pages = Router::new()
        .route("/authorize", get(authorize::authorize))
        .route("/consent", post(consent::consent))
        .route("/callback", get(callback::callback));
    // Inside CORS, so that a browser client can read a 429. The fallback must be set before CORS too: otherwise it would
    // respond to preflight requests.
    let programs = programs
        .route_layer(limit(false))
        .merge(metadata)
        .method_not_allowed_fallback(async || respond::method_not_allowed());
    Router::new()
        .route("/", get(landing::landing))
        .merge(pages.route_layer(limit(true)))
        .merge(programs.layer(cors))
        .fallback(async || respond::not_found())
        .method_not_allowed_fallback(async || respond::method_not_allowed())
        // Not the layer of tower-http, whose response is not JSON.
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(server)
}

#[cfg(test)]
mod tests;
