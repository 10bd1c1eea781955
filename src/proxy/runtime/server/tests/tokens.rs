//! Which tokens let a request through.

use std::pin::pin;

use futures::poll;

use super::*;

#[tokio::test]
async fn without_a_token_the_answer_says_where_to_log_in_and_the_upstream_is_not_asked() {
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
    assert_eq!(bed.upstream.asked(), 0);
}

#[tokio::test]
async fn a_token_for_another_resource_is_refused_also_when_it_is_cached() {
    let bed = Bed::new().await;
    assert_eq!(bed.call().await.status(), StatusCode::OK);
    let response = bed.send(bed.request("/servers/a1/mcp").body("{}").unwrap()).await;
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    let challenge = response.headers()[WWW_AUTHENTICATE].to_str().unwrap();
    assert!(challenge.ends_with(
        "/servers/a1/mcp\", scope=\"mcp\", error=\"invalid_token\", error_description=\"the access token is for another resource\""
    ));
    assert_eq!(bed.upstream.asked(), 1);
}

#[tokio::test]
async fn the_request_after_a_session_has_ended_is_refused() {
    let bed = Bed::new().await;
    assert_eq!(bed.call().await.status(), StatusCode::OK);
    bed.proxy.sessions.live().apply(SessionEvent::Ended(bed.session.id));
    assert_eq!(bed.call().await.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(bed.upstream.asked(), 1);
}

#[tokio::test]
async fn c6_a_token_that_differs_from_a_cached_one_in_its_last_byte_is_refused() {
    let bed = Bed::new().await;
    assert_eq!(bed.call().await.status(), StatusCode::OK);
    let mut token = bed.token().to_owned();
    let last = if token.pop() == Some('A') { 'Q' } else { 'A' };
    token.push(last);
    let forged = Request::post("/mcp").header("authorization", format!("Bearer {token}")).body("").unwrap();
    assert_eq!(bed.send(forged).await.status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_token_that_was_cached_is_worth_nothing_once_its_signing_key_is_gone() {
    let bed = Bed::new().await;
    let token = bed.request("/mcp").body("{}").unwrap();
    assert_eq!(bed.send(token.clone()).await.status(), StatusCode::OK);
    let other = SigningKeys::generate(Timestamp::UNIX_EPOCH).unwrap();
    std::fs::write(&bed.proxy.config.signing_keys, serde_json::to_string(&other).unwrap()).unwrap();
    bed.proxy.secrets.store(Arc::new(Secrets::load(&bed.proxy.config, EncryptionKey::Current).unwrap()));
    assert_eq!(bed.send(token).await.status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_session_that_was_only_looked_up_admits_but_is_not_cached() {
    let bed = Bed::with(LiveSet::default()).await;
    bed.proxy.sessions.live().apply(SessionEvent::All(vec![]));
    bed.proxy.store.create(&bed.session).await.unwrap();
    let (verified, metrics) = (VerifiedTokens::default(), bed.proxy.metrics.worker());
    verify(&bed.proxy.resource_server(), &verified, &metrics, bed.token(), "/mcp").await.unwrap();
    assert_eq!(verified.len(), 0);
    bed.proxy.sessions.live().apply(SessionEvent::Is(bed.session.clone()));
    verify(&bed.proxy.resource_server(), &verified, &metrics, bed.token(), "/mcp").await.unwrap();
    assert_eq!(verified.len(), 1);
}

#[tokio::test]
async fn an_address_that_cannot_be_put_in_a_header_reaches_no_upstream() {
    let bed = Bed::with(LiveSet::default()).await;
    let mut odd = bed.session.clone();
    odd.user.email = "ada@example.com\r\nx-forwarded-user: eve@example.com".to_owned();
    bed.proxy.sessions.live().apply(SessionEvent::All(vec![odd]));
    assert_eq!((bed.call().await.status(), bed.upstream.asked()), (StatusCode::UNAUTHORIZED, 0));
}

#[tokio::test]
async fn who_is_known_goes_before_who_had_to_be_verified() {
    let bed = Bed::new().await;
    let (verified, metrics) = (VerifiedTokens::default(), bed.proxy.metrics.worker());
    let server = bed.proxy.resource_server();
    verify(&server, &verified, &metrics, bed.token(), "/mcp").await.unwrap();
    let new = access_token(&bed.proxy, &bed.session, "https://mcp.example.com/mcp");
    let mut new = pin!(verify(&server, &verified, &metrics, &new, "/mcp"));
    assert!(poll!(new.as_mut()).is_pending());
    assert!(poll!(pin!(verify(&server, &verified, &metrics, bed.token(), "/mcp"))).is_ready());
    new.await.unwrap();
    assert_eq!(verified.len(), 2);
}

#[tokio::test]
async fn before_the_first_complete_list_a_valid_token_is_told_to_wait_and_the_pod_is_not_ready() {
    let bed = Bed::with(LiveSet::default()).await;
    let response = bed.call().await;
    assert_eq!(
        (response.status(), &response.headers()["retry-after"]),
        (StatusCode::SERVICE_UNAVAILABLE, &"1".parse().unwrap())
    );
    let ready = async |draining: bool| {
        let token = CancellationToken::new();
        if draining {
            token.cancel();
        }
        let request = Request::get("/readyz").body(axum::body::Body::empty()).unwrap();
        crate::proxy::runtime::health::router(bed.proxy.clone(), token).oneshot(request).await.unwrap().status()
    };
    assert_eq!(ready(false).await, StatusCode::SERVICE_UNAVAILABLE);
    bed.proxy.sessions.live().apply(SessionEvent::All(vec![bed.session.clone()]));
    assert_eq!(ready(false).await, StatusCode::OK);
    assert_eq!(ready(true).await, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(bed.call().await.status(), StatusCode::OK);
}

#[tokio::test]
async fn c10_two_authorization_headers_are_a_bad_request() {
    let bed = Bed::new().await;
    let response = bed.send(bed.request("/mcp").header("authorization", "Bearer x").body("").unwrap()).await;
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    assert_eq!(bed.upstream.asked(), 0);
}
