use axum::{body::Body, http::Request};
use jiff::SignedDuration;
use tower::ServiceExt;

use super::super::router;
use super::*;
use crate::{
    api::SessionPhase,
    proxy::{authorization_server::AuthorizationServer, runtime::proxy::access_rules},
    testing::authorization_server::{Bed, REFRESHES, error},
};
use base64::Engine;
use jiff::Timestamp;

#[tokio::test]
async fn code_is_redeemed_and_refresh_rotates_tokens() {
    let bed = Bed::new(&REFRESHES).await;
    let (status, first) = bed.redeem().await;
    assert_eq!((status, &first["token_type"], &first["expires_in"]), (200, &"Bearer".into(), &3600.into()));
    let active = bed.stored().await.unwrap();
    assert_eq!((active.phase, active.generation), (SessionPhase::Active, 1));

    bed.wait(SignedDuration::from_hours(1));
    let (status, second) = bed.refresh(&first["refresh_token"]).await;
    assert_eq!(status, 200);
    assert_ne!(second["access_token"], first["access_token"]);
    assert_eq!(bed.stored().await.unwrap().generation, 2);

    // A retry after a lost response gets the same generation, which rotates on its next use.
    let (status, again) = bed.refresh(&first["refresh_token"]).await;
    assert_eq!((status, bed.stored().await.unwrap().generation), (200, 2));
    assert_eq!(bed.refresh(&again["refresh_token"]).await.0, 200);
    assert_eq!(bed.stored().await.unwrap().generation, 3);

    // After the grace period the first token counts as stolen.
    bed.wait(SignedDuration::from_mins(2));
    assert_eq!(error(&bed.refresh(&first["refresh_token"]).await), (400, "invalid_grant"));
    assert!(bed.stored().await.is_none());
    assert_eq!(error(&bed.refresh(&second["refresh_token"]).await), (400, "invalid_grant"));
}

#[tokio::test]
async fn a11_concurrent_redemptions_yield_exactly_one_success() {
    let bed = Bed::new(&REFRESHES).await;
    let responses = futures::future::join_all((0..50).map(|_| bed.redeem())).await;
    let (won, lost): (Vec<_>, Vec<_>) = responses.iter().partition(|(status, _)| *status == 200);
    assert_eq!(won.len(), 1);
    assert!(lost.iter().all(|response| error(response) == (400, "invalid_grant")));
    assert_eq!(bed.refresh(&won[0].1["refresh_token"]).await.0, 200);
}

#[tokio::test]
async fn a11_late_code_replay_with_verifier_ends_the_session() {
    let bed = Bed::new(&REFRESHES).await;
    assert_eq!(bed.redeem().await.0, 200);
    bed.wait(SignedDuration::from_secs(11));
    let without = bed.post_token(&[("grant_type", "authorization_code"), ("code", &bed.code)]).await;
    assert_eq!(error(&without), (400, "invalid_grant"));
    assert!(bed.stored().await.is_some());
    assert_eq!(error(&bed.redeem().await), (400, "invalid_grant"));
    assert!(bed.stored().await.is_none());
}

#[tokio::test]
async fn concurrent_refreshes_get_the_same_generation() {
    let bed = Bed::new(&REFRESHES).await;
    let (_, first) = bed.redeem().await;
    let responses = futures::future::join_all((0..20).map(|_| bed.refresh(&first["refresh_token"]))).await;
    assert!(responses.iter().all(|(status, _)| *status == 200), "{responses:?}");
    assert_eq!(bed.stored().await.unwrap().generation, 2);
}

#[tokio::test]
async fn session_without_refresh_token_ends_with_its_access_token() {
    let bed = Bed::new(&["authorization_code"]).await;
    let (status, tokens) = bed.redeem().await;
    assert_eq!((status, tokens.get("refresh_token")), (200, None));
    assert_eq!(bed.stored().await.unwrap().expires_at, bed.session.created_at + SignedDuration::from_hours(1));
}

#[tokio::test]
async fn refresh_token_of_another_client_is_rejected() {
    let bed = Bed::new(&REFRESHES).await;
    let (_, tokens) = bed.redeem().await;
    let refresh_token = tokens["refresh_token"].as_str().unwrap();
    let id = bed.register_another();
    let response =
        bed.post_token(&[("grant_type", "refresh_token"), ("refresh_token", refresh_token), ("client_id", &id)]).await;
    assert_eq!(error(&response), (400, "invalid_grant"));
    assert_eq!(bed.refresh(&tokens["refresh_token"]).await.0, 200);
}

#[tokio::test]
async fn invalid_token_requests_get_rfc_error_codes() {
    let bed = Bed::new(&REFRESHES).await;
    for (parameters, expected) in [
        (vec![("grant_type", "password")], (400, "unsupported_grant_type")),
        (vec![], (400, "invalid_request")),
        (vec![("grant_type", "authorization_code")], (400, "invalid_request")),
        (vec![("grant_type", "refresh_token"), ("refresh_token", "forged")], (400, "invalid_grant")),
        (vec![("client_id", "unknown"), ("grant_type", "refresh_token")], (401, "invalid_client")),
        (vec![("grant_type", "refresh_token"), ("resource", "https://evil.example")], (400, "invalid_target")),
    ] {
        assert_eq!(error(&bed.post_token(&parameters).await), expected, "{parameters:?}");
    }
    let too_large = "x".repeat(70_000);
    assert_eq!(error(&bed.post_token(&[("grant_type", &too_large)]).await), (413, "invalid_request"));
    let request = Request::get("/token").body(Body::empty()).unwrap();
    let response = router(bed.server.clone()).oneshot(request).await.unwrap();
    assert_eq!(
        (response.status().as_u16(), &response.headers()["content-type"]),
        (405, &"application/json".parse().unwrap())
    );
    let request = Request::post("/token")
        .header("content-type", "application/x-www-form-urlencoded")
        .header("authorization", "Basic dW5rbm93bjp4")
        .body(Body::from("grant_type=refresh_token"))
        .unwrap();
    let response = router(bed.server.clone()).oneshot(request).await.unwrap();
    assert!(response.headers()["www-authenticate"].to_str().unwrap().starts_with("Basic"));
}

#[tokio::test]
async fn refresh_ends_sessions_that_the_rules_no_longer_allow() {
    let mut bed = Bed::new(&REFRESHES).await;
    let (_, tokens) = bed.redeem().await;
    let mut server = AuthorizationServer::clone(&bed.server);
    server.config.access.domains = vec!["another.example".parse().unwrap()];
    server.rules = Arc::new(access_rules(&server.config, Timestamp::MAX));
    bed.server = Arc::new(server);
    assert_eq!(error(&bed.refresh(&tokens["refresh_token"]).await), (400, "invalid_grant"));
    assert!(bed.stored().await.is_none());
}

#[tokio::test]
async fn refresh_scope_is_narrowed_and_never_rejected() {
    let bed = Bed::new(&REFRESHES).await;
    let (_, first) = bed.redeem().await;
    for scope in ["mcp", "openid email profile", "offline_access", "mcp admin"] {
        let refresh_token = first["refresh_token"].as_str().unwrap();
        let response = bed
            .post_token(&[("grant_type", "refresh_token"), ("refresh_token", refresh_token), ("scope", scope)])
            .await;
        assert_eq!((response.0, &response.1["scope"]), (200, &"mcp".into()), "{scope}");
    }
}

#[tokio::test]
async fn invalid_basic_credentials_get_www_authenticate() {
    let bed = Bed::new(&REFRESHES).await;
    // Form-encoded (RFC 6749 §2.3.1).
    let credentials = base64::engine::general_purpose::STANDARD.encode("unknown%20client:secret");
    let post = async |authorization: Option<&str>| {
        let mut request = Request::post("/token").header("content-type", "application/x-www-form-urlencoded");
        if let Some(authorization) = authorization {
            request = request.header("authorization", authorization);
        }
        let body = Body::from("grant_type=refresh_token&refresh_token=x&client_id=unknown client");
        router(bed.server.clone()).oneshot(request.body(body).unwrap()).await.unwrap()
    };
    for authorization in [format!("Basic {credentials}"), format!("basic {credentials}"), "Bearer x".to_owned()] {
        let refused = post(Some(&authorization)).await;
        assert_eq!(refused.status(), 401);
        assert_eq!(refused.headers()["www-authenticate"], "Basic realm=\"token\"", "{authorization}");
    }
    let refused = post(None).await;
    assert_eq!((refused.status().as_u16(), refused.headers().get("www-authenticate")), (401, None));
}

#[tokio::test]
async fn documented_client_redeems_without_secret_and_without_fetch() {
    let bed = Bed::new(&REFRESHES).await;
    // A fetch would fail with another error: there is no document at this URL.
    let document = "https://claude.ai/nothing-is-here";
    let stolen = bed
        .post_token(&[
            ("grant_type", "authorization_code"),
            ("code", &bed.code),
            ("code_verifier", "x"),
            ("client_id", document),
        ])
        .await;
    assert_eq!(error(&stolen), (400, "invalid_grant"));
    let elsewhere = [("grant_type", "refresh_token"), ("refresh_token", "x"), ("client_id", "https://evil.example/c")];
    assert_eq!(error(&bed.post_token(&elsewhere).await), (401, "invalid_client"));
}

#[tokio::test]
async fn c17_stolen_database_allows_neither_login_nor_refresh() {
    let bed = Bed::new(&REFRESHES).await;
    let (_, first) = bed.redeem().await;
    let (status, second) = bed.refresh(&first["refresh_token"]).await;
    assert_eq!(status, 200, "{second}");
    let mut stolen = Vec::new();
    for file in ["sessions.db", "sessions.db-wal"] {
        stolen.extend(std::fs::read(bed.directory().join(file)).unwrap_or_default());
    }
    let has = |text: &str| stolen.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(has(&bed.session.id.to_string()), "the search covers the session's record");
    for tokens in [&first, &second] {
        for name in ["access_token", "refresh_token"] {
            let token = tokens[name].as_str().unwrap();
            // Nor a part of it, which could be used like the whole.
            assert!(!token.split('.').any(has), "{name}");
        }
    }
    assert!(!has(&bed.code) && !has(&bed.client_id));
}
