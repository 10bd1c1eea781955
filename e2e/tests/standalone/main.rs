//! The proxy as a plain process with real peers: provider, TLS edge, Context Forge, browser, MCP clients.

#![expect(clippy::unwrap_used, reason = "tests")]

mod aging;
mod bed;
mod clients;
mod hosted;
mod issuer_certificate;
mod login;
mod own_proxy;
mod scripted;
mod secrets;
mod transparent;
mod trusted_proxies;

use e2e::peers::{
    browser::Browser,
    conformance,
    context_forge::TOOL,
    json_lines::Person,
    mcp_remote::McpRemote,
    sdk::{Kind, Sdk},
};
use futures::{StreamExt, stream};
use scripted::Scripted;
use serde_json::json;

const ALICE: &str = "alice@example.com";

#[tokio::test]
async fn mcp_remote_logs_in_once_and_calls_a_tool() {
    let bed = bed::hold().await;
    let browser = Browser::start(&bed.run).await.unwrap();
    let alice = Person { browser: &browser, email: ALICE };
    let computer = McpRemote::install(&bed.run, "once").await.unwrap();
    let mut first = computer.connect(&bed.url("/mcp"), Some(alice), &[]).await.unwrap();
    assert!(first.tools().await.unwrap().iter().any(|tool| tool == TOOL));
    assert_eq!(first.call(TOOL, json!({"message": "one"})).await.unwrap(), "Echo: one");
    assert_eq!(first.logins(), 1);
    drop(first);

    let mut second = computer.connect(&bed.url("/mcp"), None, &[]).await.unwrap();
    assert_eq!(second.call(TOOL, json!({"message": "two"})).await.unwrap(), "Echo: two");
    assert_eq!(second.logins(), 0);
}

#[tokio::test]
async fn python_sdk_logs_in_once_and_calls_a_tool() {
    let bed = bed::hold().await;
    let browser = Browser::start(&bed.run).await.unwrap();
    let carol = Person { browser: &browser, email: "carol@example.com" };
    let computer = Sdk::install(&bed.run, Kind::Python2, "once").await.unwrap();
    let url = bed.url(&bed.context_forge.path);
    let first = computer.call(&url, Some(carol), TOOL, &json!({"message": "one"})).await.unwrap();
    assert!(first.tools.iter().any(|tool| tool == TOOL));
    assert_eq!((first.text, first.error, first.logins), (vec!["Echo: one".to_owned()], false, 1));
    let second = computer.call(&url, None, TOOL, &json!({"message": "two"})).await.unwrap();
    assert_eq!((second.text, second.logins), (vec!["Echo: two".to_owned()], 0));
}

#[tokio::test]
async fn upstream_receives_the_account_and_no_client_identity_headers() {
    let bed = bed::hold().await;
    let browser = Browser::start(&bed.run).await.unwrap();
    let alice = Person { browser: &browser, email: ALICE };
    let computer = McpRemote::install(&bed.run, "headers").await.unwrap();
    let forged = ["--header", "X-Forwarded-User: admin@example.com", "--header", "x_forwarded_user: admin@example.com"];
    let mark = [forged.as_slice(), &["--header", "x-mark: headers"]].concat();
    let mut connection = computer.connect(&bed.url("/mcp"), Some(alice), &mark).await.unwrap();
    connection.call(TOOL, json!({"message": "hello"})).await.unwrap();

    let arrived = bed.tap.arrived().unwrap();
    let ours: Vec<_> = arrived.iter().filter(|request| request.header("x-mark") == ["headers"]).collect();
    assert!(ours.iter().any(|request| request.method == "POST"), "{arrived:#?}");
    for request in ours {
        assert_eq!(request.header("x-forwarded-user"), [ALICE]);
        assert_eq!(request.header("x-forwarded-email"), [ALICE]);
        assert_eq!(request.header("x_forwarded_user"), [""; 0]);
        assert_eq!(request.header("authorization"), [""; 0]);
        assert_eq!(request.header("cookie"), [""; 0]);
    }
}

#[tokio::test]
async fn refused_accounts_get_an_explanation() {
    let bed = bed::hold().await;
    for (email, reason) in [("mallory@evil.example", "evil.example"), ("bob@example.com", "verified")] {
        let browser = Browser::start(&bed.run).await.unwrap();
        let landing = browser.login(&bed.authorize_url().await, email).await.unwrap();
        assert!(landing.consented && landing.signed_in);
        assert_eq!(landing.url.host_str(), Some("localhost"), "{landing:?}");
        assert_eq!(landing.status, 403, "{landing:?}");
        assert!(landing.text.contains(reason), "{landing:?}");
    }
}

#[tokio::test]
async fn cancelled_consent_returns_access_denied() {
    let bed = bed::hold().await;
    let browser = Browser::start(&bed.run).await.unwrap();
    let landing = browser.refuse(&bed.authorize_url().await).await.unwrap();
    assert_eq!(landing.parameter("error").as_deref(), Some("access_denied"), "{landing:?}");
    assert_eq!(landing.parameter("state").as_deref(), Some("the-state"));
}

#[tokio::test]
async fn parallel_logins_in_one_browser_both_succeed() {
    let bed = bed::hold().await;
    let client = Scripted::new(&bed, "side by side");
    let redirect_uri = "http://localhost:9/callback";
    let wish =
        json!({"client_name": "side by side", "redirect_uris": [redirect_uri], "token_endpoint_auth_method": "none"});
    let tokens = client.register(&wish).await.log_in_side_by_side(redirect_uri, 2).await;
    assert_eq!(bed.sessions_of("side by side"), 2);
    for tokens in &tokens {
        client.call(&tokens.access).await;
    }
}

#[tokio::test]
async fn authorization_conformance_suite_passes() {
    let bed = bed::hold().await;
    let browser = Browser::start(&bed.run).await.unwrap();
    let alice = Person { browser: &browser, email: ALICE };
    let verdict = conformance::authorization(&bed.run, &bed.edge.url, &bed.url("/mcp"), alice).await.unwrap();
    verdict.check().unwrap();
}

#[tokio::test]
async fn registrations_and_authorizations_write_no_row() {
    let bed = bed::hold().await;
    let urls = stream::iter(0..500).map(|_| bed.authorize_url()).buffer_unordered(8);
    let http = bed.client();
    let statuses: Vec<_> = urls
        .map(|url| {
            let http = http.clone();
            async move { http.get(url).send().await.unwrap().status() }
        })
        .buffer_unordered(8)
        .collect()
        .await;
    assert!(statuses.len() == 500 && statuses.iter().all(|status| *status == 200));
    assert_eq!(bed.sessions_of("e2e"), 0);
}
