//! The proxy as a plain process with real peers: provider, TLS edge, Context Forge, browser, MCP clients.

#![expect(clippy::unwrap_used, reason = "tests")]

mod bed;
mod clients;
mod dedicated_proxy;
mod expiry;
mod hosted;
mod issuer_certificate;
mod login;
mod scripted;
mod secrets;
mod transparent;
mod trusted_proxies;

use e2e::peers::{
    browser::Browser,
    conformance,
    context_forge::TOOL,
    json_lines::User,
    mcp_remote::McpRemote,
    sdk::{Sdk, SdkVersion},
};
use futures::{StreamExt, stream};
use scripted::ScriptedClient;
use serde_json::json;

const ALICE: &str = "alice@example.com";

#[tokio::test]
async fn mcp_remote_logs_in_once_and_calls_a_tool() {
    let bed = bed::shared().await;
    let browser = Browser::start(&bed.run).await.unwrap();
    let alice = User { browser: &browser, email: ALICE };
    let installation = McpRemote::install(&bed.run, "once").await.unwrap();
    let mut first = installation.connect(&bed.url("/mcp"), Some(alice), &[]).await.unwrap();
    assert!(first.tools().await.unwrap().iter().any(|tool| tool == TOOL));
    assert_eq!(first.call(TOOL, json!({"message": "one"})).await.unwrap(), "Echo: one");
    assert_eq!(first.logins(), 1);
    drop(first);

    let mut second = installation.connect(&bed.url("/mcp"), None, &[]).await.unwrap();
    assert_eq!(second.call(TOOL, json!({"message": "two"})).await.unwrap(), "Echo: two");
    assert_eq!(second.logins(), 0);
}

#[tokio::test]
async fn python_sdk_logs_in_once_and_calls_a_tool() {
    let bed = bed::shared().await;
    let browser = Browser::start(&bed.run).await.unwrap();
    let carol = User { browser: &browser, email: "carol@example.com" };
    let installation = Sdk::install(&bed.run, SdkVersion::Python2, "once").await.unwrap();
    let url = bed.url(&bed.context_forge.path);
    let first = installation.call(&url, Some(carol), TOOL, &json!({"message": "one"})).await.unwrap();
    assert!(first.tools.iter().any(|tool| tool == TOOL));
    assert_eq!((first.text, first.error, first.logins), (vec!["Echo: one".to_owned()], false, 1));
    let second = installation.call(&url, None, TOOL, &json!({"message": "two"})).await.unwrap();
    assert_eq!((second.text, second.logins), (vec!["Echo: two".to_owned()], 0));
}

#[tokio::test]
async fn upstream_receives_the_account_and_no_client_identity_headers() {
    let bed = bed::shared().await;
    let browser = Browser::start(&bed.run).await.unwrap();
    let alice = User { browser: &browser, email: ALICE };
    let installation = McpRemote::install(&bed.run, "headers").await.unwrap();
    let forged = ["--header", "X-Forwarded-User: admin@example.com", "--header", "x_forwarded_user: admin@example.com"];
    let mark = [forged.as_slice(), &["--header", "x-mark: headers"]].concat();
    let mut connection = installation.connect(&bed.url("/mcp"), Some(alice), &mark).await.unwrap();
    connection.call(TOOL, json!({"message": "hello"})).await.unwrap();

    let requests = bed.tap.requests().unwrap();
    let ours: Vec<_> = requests.iter().filter(|request| request.header("x-mark") == ["headers"]).collect();
    assert!(ours.iter().any(|request| request.method == "POST"), "{requests:#?}");
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
    let bed = bed::shared().await;
    for (email, reason) in [("mallory@evil.example", "evil.example"), ("bob@example.com", "verified")] {
        let browser = Browser::start(&bed.run).await.unwrap();
        let final_page = browser.login(&bed.authorize_url().await, email).await.unwrap();
        assert!(final_page.consented && final_page.signed_in);
        assert_eq!(final_page.url.host_str(), Some("localhost"), "{final_page:?}");
        assert_eq!(final_page.status, 403, "{final_page:?}");
        assert!(final_page.text.contains(reason), "{final_page:?}");
    }
}

#[tokio::test]
async fn cancelled_consent_returns_access_denied() {
    let bed = bed::shared().await;
    let browser = Browser::start(&bed.run).await.unwrap();
    let final_page = browser.deny(&bed.authorize_url().await).await.unwrap();
    assert_eq!(final_page.parameter("error").as_deref(), Some("access_denied"), "{final_page:?}");
    assert_eq!(final_page.parameter("state").as_deref(), Some("the-state"));
}

#[tokio::test]
async fn parallel_logins_in_one_browser_both_succeed() {
    let bed = bed::shared().await;
    let client = ScriptedClient::new(&bed, "side by side");
    let redirect_uri = "http://localhost:9/callback";
    let registration =
        json!({"client_name": "side by side", "redirect_uris": [redirect_uri], "token_endpoint_auth_method": "none"});
    let tokens = client.register(&registration).await.log_in_concurrently(redirect_uri, 2).await;
    assert_eq!(bed.sessions_of("side by side"), 2);
    for tokens in &tokens {
        client.call(&tokens.access).await;
    }
}

#[tokio::test]
async fn authorization_conformance_suite_passes() {
    let bed = bed::shared().await;
    let browser = Browser::start(&bed.run).await.unwrap();
    let alice = User { browser: &browser, email: ALICE };
    let verdict = conformance::authorization(&bed.run, &bed.edge.url, &bed.url("/mcp"), alice).await.unwrap();
    verdict.check().unwrap();
}

#[tokio::test]
async fn registrations_and_authorizations_write_no_row() {
    let bed = bed::shared().await;
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
