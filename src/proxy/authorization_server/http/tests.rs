mod audit;

use axum::{
    body::Body,
    http::{Request, StatusCode},
};
use tower::ServiceExt;

use super::*;
use crate::testing::authorization_server::{Bed, REFRESHES};

#[tokio::test]
async fn metadata_of_an_unknown_path_is_404() {
    let bed = Bed::new(&REFRESHES).await;
    for path in ["other", "%ff"] {
        let response = bed.get(&format!("/.well-known/oauth-protected-resource/{path}"), &[]).await;
        assert_eq!(response.status(), StatusCode::NOT_FOUND, "{path}");
    }
}

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
    let programs = [
        "/token",
        "/revoke",
        "/register",
        "/jwks",
        "/.well-known/oauth-authorization-server",
        "/.well-known/openid-configuration",
        "/.well-known/oauth-protected-resource",
        "/.well-known/oauth-protected-resource/mcp",
    ];
    for path in programs {
        let response = preflight(path).await;
        assert!(response.status().is_success(), "{path}: {}", response.status());
        assert_eq!(response.headers()["access-control-allow-origin"], "*", "{path}");
        let allowed = response.headers()["access-control-allow-headers"].to_str().unwrap();
        assert!(REQUEST_HEADERS.iter().all(|name| allowed.split(',').any(|known| known == *name)), "{path}: {allowed}");
        let response = bed.get(path, &[("origin", "http://localhost:6274")]).await;
        assert_eq!(response.headers()["access-control-allow-origin"], "*", "{path}");
        assert!(response.headers()["access-control-expose-headers"].to_str().unwrap().contains("www-authenticate"));
    }
    for path in ["/", "/authorize", "/consent", "/callback"] {
        for response in [preflight(path).await, bed.get(path, &[("origin", "https://claude.ai")]).await] {
            let names: Vec<_> = response.headers().keys().map(HeaderName::as_str).collect();
            assert!(!names.iter().any(|name| name.starts_with("access-control-")), "{path}: {names:?}");
        }
    }
}
