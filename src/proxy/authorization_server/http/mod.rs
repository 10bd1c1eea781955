//! The authorization server's endpoints: each parses a request, asks the core in `oauth`, does the I/O and answers.

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
#[cfg(test)]
mod seen;
#[cfg(test)]
pub(super) mod testing;
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

use self::limits::{Limits, limit_people, limit_programs};
#[cfg(feature = "fuzzing")]
pub use self::{
    client_request::{basic_credentials, parameters},
    cookies::Cookies,
};

use crate::proxy::{authorization_server::AuthorizationServer, cors::REQUEST_HEADERS};
use crate::{api::proxy::DynamicRegistration, oauth::OAuthError};

/// The largest request body that these endpoints read, in bytes.
pub const MAX_BODY: usize = 64 * 1024;

/// Runs a use case of the service on the control runtime, to its end: a client that disconnects does not cancel it, so a
/// token that the issuer has just given us is not lost.
async fn run<T, E, F>(
    server: &Arc<AuthorizationServer>,
    work: impl FnOnce(Arc<AuthorizationServer>) -> F,
) -> Result<T, E>
where
    T: Send + 'static,
    E: std::convert::From<OAuthError> + Send + 'static,
    F: Future<Output = Result<T, E>> + Send + 'static,
{
    let finished = server.control.spawn(work(server.clone())).await;
    finished.unwrap_or_else(|_| Err(OAuthError::temporarily_unavailable("this server is shutting down").into()))
}

/// All endpoints except the MCP ones.
pub fn router(proxy: Arc<AuthorizationServer>) -> Router {
    // Clients in browsers read these from anywhere; the pages for people are not among them.
    let cors = CorsLayer::new()
        .allow_origin(Any)
        .allow_methods([Method::GET, Method::POST])
        .allow_headers(REQUEST_HEADERS.map(HeaderName::from_static))
        .expose_headers([header::WWW_AUTHENTICATE]);
    let limits = (Arc::new(Limits::new(&proxy.config.trusted_proxies)), proxy.clone());
    let mut for_clients = Router::new().route("/token", post(token::token)).route("/revoke", post(revoke::revoke));
    if proxy.config.clients.dynamic_registration == DynamicRegistration::Enabled {
        for_clients = for_clients.route("/register", post(register::register));
    }
    let metadata = Router::new()
        .route("/.well-known/oauth-authorization-server", get(well_known::authorization_server))
        .route("/.well-known/openid-configuration", get(well_known::authorization_server))
        .route("/.well-known/oauth-protected-resource", get(well_known::default_resource))
        .route("/.well-known/oauth-protected-resource/{*path}", get(well_known::resource))
        .route("/jwks", get(well_known::jwks));
    let for_people = Router::new()
        .route("/authorize", get(authorize::authorize))
        .route("/consent", post(consent::consent))
        .route("/callback", get(callback::callback));
    // The limit within, so that a page of a client in a browser may read the refusal. The answer to other methods too: what is
    // set once CORS is around it would answer a preflight in its place.
    let for_programs = for_clients
        .route_layer(from_fn_with_state(limits.clone(), limit_programs))
        .merge(metadata)
        .method_not_allowed_fallback(async || respond::method_not_allowed());
    Router::new()
        .route("/", get(landing::landing))
        .merge(for_people.route_layer(from_fn_with_state(limits, limit_people)))
        .merge(for_programs.layer(cors))
        .fallback(async || respond::not_found())
        .method_not_allowed_fallback(async || respond::method_not_allowed())
        // Not the layer of tower-http, whose refusal is no JSON.
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(proxy)
}

#[cfg(test)]
mod tests {
    use axum::{body::Body, http::Request};
    use tower::ServiceExt;

    use super::{
        testing::{Bed, REFRESHES},
        *,
    };

    #[tokio::test]
    async fn cors_covers_program_endpoints_and_not_pages() {
        let bed = Bed::new(&REFRESHES).await;
        let preflight = async |path: &str| {
            let request = Request::options(path)
                .header("origin", "http://localhost:6274")
                .header("access-control-request-method", "POST")
                .header("access-control-request-headers", "mcp-protocol-version");
            router(bed.server.clone()).oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
        };
        let for_programs = [
            "/token",
            "/revoke",
            "/register",
            "/jwks",
            "/.well-known/oauth-authorization-server",
            "/.well-known/openid-configuration",
            "/.well-known/oauth-protected-resource",
            "/.well-known/oauth-protected-resource/mcp",
        ];
        for path in for_programs {
            let answer = preflight(path).await;
            assert!(answer.status().is_success(), "{path}: {}", answer.status());
            assert_eq!(answer.headers()["access-control-allow-origin"], "*", "{path}");
            let allowed = answer.headers()["access-control-allow-headers"].to_str().unwrap();
            assert!(
                REQUEST_HEADERS.iter().all(|name| allowed.split(',').any(|known| known == *name)),
                "{path}: {allowed}"
            );
            let answer = bed.get(path, &[("origin", "http://localhost:6274")]).await;
            assert_eq!(answer.headers()["access-control-allow-origin"], "*", "{path}");
            assert!(answer.headers()["access-control-expose-headers"].to_str().unwrap().contains("www-authenticate"));
        }
        for path in ["/", "/authorize", "/consent", "/callback"] {
            for answer in [preflight(path).await, bed.get(path, &[("origin", "https://claude.ai")]).await] {
                let names: Vec<_> = answer.headers().keys().map(HeaderName::as_str).collect();
                assert!(!names.iter().any(|name| name.starts_with("access-control-")), "{path}: {names:?}");
            }
        }
    }
}
