//! Verification of access tokens and sessions.

use super::*;

#[tokio::test]
async fn missing_token_gets_401_with_metadata_url() {
    let bed = Bed::new().await;
    for path in ["/mcp", "/servers/a1/mcp/"] {
        let response = bed.send(Request::post(path).body("{}").unwrap()).await;
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        let challenge = format!(
            "Bearer resource_metadata=\"https://mcp.example.com/.well-known/oauth-protected-resource{path}\", scope=\"mcp\""
        );
        assert_eq!(response.headers()[WWW_AUTHENTICATE], challenge);
        assert_eq!(
            response.headers()["access-control-expose-headers"],
            "WWW-Authenticate, Mcp-Session-Id, MCP-Protocol-Version"
        );
    }
    assert_eq!(bed.upstream.requests(), 0);
}

#[tokio::test]
async fn token_for_another_resource_is_refused_even_if_cached() {
    let bed = Bed::new().await;
    assert_eq!(bed.call().await.status(), StatusCode::OK);
    let response = bed.send(bed.request("/servers/a1/mcp").body("{}").unwrap()).await;
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    let challenge = response.headers()[WWW_AUTHENTICATE].to_str().unwrap();
    assert!(challenge.ends_with(
        "/servers/a1/mcp\", scope=\"mcp\", error=\"invalid_token\", error_description=\"the access token is for another resource\""
    ));
    assert_eq!(bed.upstream.requests(), 1);
}

#[tokio::test]
async fn ended_session_refuses_the_next_request() {
    let bed = Bed::new().await;
    assert_eq!(bed.call().await.status(), StatusCode::OK);
    bed.apply(SessionEvent::Ended(bed.session.id));
    assert_eq!(bed.call().await.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(bed.upstream.requests(), 1);
}

#[tokio::test]
async fn c6_token_differing_in_the_last_byte_from_a_cached_one_is_refused() {
    let bed = Bed::new().await;
    assert_eq!(bed.call().await.status(), StatusCode::OK);
    let mut token = bed.token().to_owned();
    let last = if token.pop() == Some('A') { 'Q' } else { 'A' };
    token.push(last);
    let forged = Request::post("/mcp").header("authorization", format!("Bearer {token}")).body("").unwrap();
    assert_eq!(bed.send(forged).await.status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn cached_token_is_refused_once_its_signing_key_is_removed() {
    let bed = Bed::new().await;
    let token = bed.request("/mcp").body("{}").unwrap();
    assert_eq!(bed.send(token.clone()).await.status(), StatusCode::OK);
    bed.replace_signing_keys();
    assert_eq!(bed.send(token).await.status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn email_unfit_for_a_header_is_refused() {
    let bed = Bed::builder().without_sessions().start().await;
    let mut odd = bed.session.clone();
    odd.user.email = "ada@example.com\r\nx-forwarded-user: eve@example.com".to_owned();
    bed.apply(SessionEvent::All(vec![odd]));
    assert_eq!((bed.call().await.status(), bed.upstream.requests()), (StatusCode::UNAUTHORIZED, 0));
}

#[tokio::test]
async fn incomplete_session_set_is_503_and_not_ready() {
    let bed = Bed::builder().without_sessions().start().await;
    let response = bed.call().await;
    assert_eq!(
        (response.status(), &response.headers()["retry-after"]),
        (StatusCode::SERVICE_UNAVAILABLE, &"1".parse().unwrap())
    );
    assert_eq!(bed.readyz(false).await, StatusCode::SERVICE_UNAVAILABLE);
    bed.apply(SessionEvent::All(vec![bed.session.clone()]));
    assert_eq!(bed.readyz(false).await, StatusCode::OK);
    assert_eq!(bed.readyz(true).await, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(bed.call().await.status(), StatusCode::OK);
}

#[tokio::test]
async fn c10_two_authorization_headers_are_400() {
    let bed = Bed::new().await;
    let response = bed.send(bed.request("/mcp").header("authorization", "Bearer x").body("").unwrap()).await;
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    assert_eq!(bed.upstream.requests(), 0);
}
