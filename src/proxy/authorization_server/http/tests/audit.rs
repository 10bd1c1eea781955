//! Tests of the audit log and the counters of the endpoints.

use std::net::SocketAddr;

use axum::{body::Body, http::Request};
use jiff::SignedDuration;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::router;
use crate::{
    api::proxy::RecheckOnRefresh,
    config::ProxyConfig,
    testing::{
        Log,
        authorization_server::{Bed, REFRESHES},
    },
};

/// The audit lines of these events without timestamps.
fn audit(log: &Log, events: &[&str]) -> Vec<Value> {
    let of_audit = log.lines().into_iter().filter(|line| {
        line["target"] == "audit" && line["event"].as_str().is_some_and(|event| events.contains(&event))
    });
    of_audit
        .map(|mut line| {
            line.as_object_mut().unwrap().remove("timestamp").unwrap();
            line
        })
        .collect()
}

fn counted(bed: &Bed, line: &str) -> bool {
    bed.proxy.metrics_text().unwrap().lines().any(|known| known == format!("mcp_oauth_proxy_{line}"))
}

/// Makes 10.0.0.1 a trusted proxy.
fn trust_gateway(config: &mut ProxyConfig) {
    config.trusted_proxies = vec!["10.0.0.0/8".parse().unwrap()];
}

/// A refresh by a client with this IP, through the trusted proxy.
async fn refresh_from(bed: &Bed, address: &str, token: &Value) -> u16 {
    let (client, token) = (&bed.client_id, token.as_str().unwrap());
    let form = format!("grant_type=refresh_token&client_id={client}&refresh_token={token}");
    let mut request = Request::post("/token")
        .header("content-type", "application/x-www-form-urlencoded")
        .header("x-forwarded-for", address)
        .body(Body::from(form))
        .unwrap();
    request.extensions_mut().insert(SocketAddr::from(([10, 0, 0, 1], 1)));
    router(bed.server.clone()).oneshot(request).await.unwrap().status().as_u16()
}

#[tokio::test]
async fn issued_tokens_are_audited_without_the_tokens() {
    let bed = Bed::new(&REFRESHES).await;
    let (log, _listening) = Log::listen("trace");
    let (_, first) = bed.redeem().await;
    let (_, second) = bed.refresh(&first["refresh_token"]).await;
    bed.post_token(&[("grant_type", "refresh_token"), ("refresh_token", "nothing")]).await;
    bed.post_token(&[("grant_type", "password"), ("client_id", "nobody")]).await;
    let id = bed.session.id.to_string();
    let given = |grant: &str| {
        json!({"level": "INFO", "target": "audit", "message": "tokens issued", "event": "tokens", "grant": grant,
            "session": id, "user": "ada@example.com", "client": "An MCP client", "client_host": "localhost"})
    };
    assert_eq!(audit(&log, &["tokens"]), [given("authorization_code"), given("refresh_token")]);
    let refused = audit(&log, &["tokens_refused"]);
    assert_eq!((&refused[0]["reason"], &refused[0]["grant"]), (&json!("invalid_grant"), &json!("refresh_token")));
    assert_eq!(refused[0]["client_id_hash"], bed.session.client.id_hash);
    assert_eq!((&refused[1]["reason"], refused.len()), (&json!("invalid_client"), 2));
    for line in [
        "token_requests_total{grant_type=\"authorization_code\",outcome=\"ok\"} 1",
        "token_requests_total{grant_type=\"refresh_token\",outcome=\"ok\"} 1",
        "token_requests_total{grant_type=\"refresh_token\",outcome=\"invalid_grant\"} 1",
        "token_requests_total{grant_type=\"other\",outcome=\"invalid_client\"} 1",
    ] {
        assert!(counted(&bed, line), "{line}");
    }
    let text = log.text();
    for secret in [&first["access_token"], &first["refresh_token"], &second["refresh_token"], &json!(bed.code)] {
        assert!(!text.contains(secret.as_str().unwrap()));
    }
}

#[tokio::test]
async fn replay_is_audited_as_warning_with_client_ip_and_session() {
    let bed = Bed::with(&REFRESHES, trust_gateway).await;
    let (_, first) = bed.redeem().await;
    let (_, second) = bed.refresh(&first["refresh_token"]).await;
    bed.refresh(&second["refresh_token"]).await;
    bed.wait(SignedDuration::from_mins(2));
    let (log, _listening) = Log::listen("info");
    assert_eq!(refresh_from(&bed, "198.51.100.7", &first["refresh_token"]).await, 400);
    let replays = audit(&log, &["replay"]);
    assert_eq!(replays.len(), 1);
    assert_eq!((&replays[0]["level"], &replays[0]["from"]), (&json!("WARN"), &json!("198.51.100.7")));
    assert_eq!((&replays[0]["user"], &replays[0]["reason"]), (&json!("ada@example.com"), &json!("replay")));
    let refused = audit(&log, &["tokens_refused"]);
    assert_eq!(refused[0]["session"], bed.session.id.to_string(), "a refused token of ours names its session");
    assert!(counted(&bed, "ended_sessions_total{reason=\"replay\"} 1"));
}

#[tokio::test]
async fn session_ended_by_recheck_is_audited_with_client_ip() {
    let bed = Bed::with(&REFRESHES, |config| {
        trust_gateway(config);
        config.identity_provider.recheck_on_refresh = RecheckOnRefresh::Enabled;
    })
    .await;
    let (_, tokens) = bed.redeem().await;
    let (log, _listening) = Log::listen("info");
    assert_eq!(refresh_from(&bed, "198.51.100.7", &tokens["refresh_token"]).await, 400);
    let ended = audit(&log, &["session_end"]);
    assert_eq!((&ended[0]["reason"], &ended[0]["from"]), (&json!("issuer"), &json!("198.51.100.7")));
    assert_eq!((&ended[0]["user"], ended.len()), (&json!("ada@example.com"), 1));
}

#[tokio::test]
async fn logout_is_audited_once() {
    let bed = Bed::new(&REFRESHES).await;
    let (_, tokens) = bed.redeem().await;
    let (log, _listening) = Log::listen("info");
    for _ in 0..2 {
        bed.post("/revoke", &[("token", tokens["refresh_token"].as_str().unwrap())]).await;
    }
    bed.post("/revoke", &[]).await;
    let lines = audit(&log, &["revocation", "revocation_refused"]);
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert_eq!(
        (&lines[0]["user"], &lines[0]["session"]),
        (&json!("ada@example.com"), &json!(bed.session.id.to_string()))
    );
    assert_eq!(lines[1]["reason"], "invalid_request");
    for line in [
        "ended_sessions_total{reason=\"logged_out\"} 1",
        "revocations_total{outcome=\"ok\"} 2",
        "revocations_total{outcome=\"invalid_request\"} 1",
    ] {
        assert!(counted(&bed, line), "{line}");
    }
}

#[tokio::test]
async fn failed_registrations_consents_and_logins_are_counted_and_audited() {
    let bed = Bed::new(&REFRESHES).await;
    let (log, _listening) = Log::listen("info");
    for body in ["{\"redirect_uris\": [\"http://localhost/x\"]}", "{\"redirect_uris\": [\"https://evil.example\"]}"] {
        let request = Request::post("/register").body(Body::from(body)).unwrap();
        router(bed.server.clone()).oneshot(request).await.unwrap();
    }
    let refused = audit(&log, &["registration_refused"]);
    assert_eq!((refused.len(), &refused[0]["reason"]), (1, &json!("invalid_redirect_uri")));
    let foreign = Request::post("/consent").header("origin", "https://evil.example").body(Body::empty()).unwrap();
    router(bed.server.clone()).oneshot(foreign).await.unwrap();
    bed.get("/callback?code=stolen&state=somebody-elses", &[]).await;
    for line in [
        "registrations_total{outcome=\"ok\"} 1",
        "registrations_total{outcome=\"invalid_redirect_uri\"} 1",
        "consents_total{outcome=\"refused\"} 1",
        "logins_total{outcome=\"invalid_request\"} 1",
        "logins_total{outcome=\"ok\"} 0",
    ] {
        assert!(counted(&bed, line), "{line}");
    }
}
