//! Clients that cannot run here, simulated by their known requests (docs/clients.md).

use std::net::{IpAddr, Ipv4Addr};

use e2e::{forward::free_port, peers::browser::Browser};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{bed, scripted::ScriptedClient};

const GRANTS: [&str; 2] = ["authorization_code", "refresh_token"];

#[tokio::test]
async fn claude_ai_connects_and_refreshes_concurrently_from_two_addresses() {
    let bed = bed::shared().await;
    let client = ScriptedClient::new(&bed, "python-httpx/0.28.1");
    let of_path = client.challenge(Method::HEAD).await;
    assert_eq!(client.challenge(Method::POST).await, of_path);
    assert_eq!(of_path, bed.url("/.well-known/oauth-protected-resource/mcp"));
    client.discover(&bed.url("/.well-known/oauth-protected-resource")).await;
    client.discover(&of_path).await;
    let callback = "https://claude.ai/api/mcp/auth_callback";
    let claude = client.register(&registration("Claude", "client_secret_post", &[callback])).await;
    assert_eq!(claude.response["client_secret_expires_at"], json!(0));
    let browser = Browser::start(&bed.run).await.unwrap();
    let first = claude.log_in(&browser, callback).await;
    client.call(&first.access).await;
    let generation = bed.generation_of("Claude");

    let from = |last| IpAddr::V4(Ipv4Addr::new(127, 0, 0, last));
    let (one, other) = tokio::join!(claude.refresh_from(from(1), &first), claude.refresh_from(from(2), &first));
    assert_eq!(bed.generation_of("Claude"), generation + 1, "both got the same generation");
    for tokens in [&one, &other] {
        client.call(&tokens.access).await;
    }
    // Each of Claude's servers continues with its own tokens.
    let one = claude.refresh(&one).await;
    let other = claude.refresh(&other).await;
    assert_eq!(bed.generation_of("Claude"), generation + 2);
    let one = claude.refresh(&one).await;
    client.call(&one.access).await;
    client.call(&other.access).await;
    browser.close().await.unwrap();
}

#[tokio::test]
async fn vs_code_redirects_to_any_loopback_port_and_to_its_web_page() {
    let bed = bed::shared().await;
    let client = ScriptedClient::new(&bed, "Visual-Studio-Code/1.107.0");
    let challenge = client.challenge(Method::POST).await;
    client.discover(&challenge).await;
    let callbacks = [
        "https://insiders.vscode.dev/redirect",
        "https://vscode.dev/redirect",
        "http://127.0.0.1/",
        "http://127.0.0.1:33418/",
    ];
    let mut registration = registration("Visual Studio Code", "none", &callbacks);
    registration["grant_types"] =
        json!(["authorization_code", "refresh_token", "urn:ietf:params:oauth:grant-type:device_code"]);
    registration["client_uri"] = json!("https://code.visualstudio.com");
    registration["application_type"] = json!("native");
    let code = client.register(&registration).await;
    let browser = Browser::start(&bed.run).await.unwrap();
    for callback in [format!("http://127.0.0.1:{}/", free_port().unwrap()), callbacks[1].to_owned()] {
        let tokens = code.log_in(&browser, &callback).await;
        client.call(&code.refresh(&tokens).await.access).await;
    }
    browser.close().await.unwrap();
}

#[tokio::test]
async fn cursor_registers_three_redirect_uris_and_uses_its_own_scheme() {
    let bed = bed::shared().await;
    let client = ScriptedClient::new(&bed, "Cursor/2.1");
    let challenge = client.challenge(Method::POST).await;
    client.discover(&challenge).await;
    let callbacks = [
        "cursor://anysphere.cursor-mcp/oauth/callback",
        "https://www.cursor.com/agents/mcp/oauth/callback",
        "http://localhost:8787/callback",
    ];
    let cursor = client.register(&registration("Cursor", "none", &callbacks)).await;
    let tokens = cursor.log_in_without_browser(callbacks[0]).await;
    client.call(&tokens.access).await;
    let browser = Browser::start(&bed.run).await.unwrap();
    let tokens = cursor.log_in(&browser, callbacks[1]).await;
    client.call(&cursor.refresh(&tokens).await.access).await;
    browser.close().await.unwrap();
}

#[tokio::test]
async fn chatgpt_redirects_to_its_connector_url() {
    let bed = bed::shared().await;
    let client = ScriptedClient::new(&bed, "openai-mcp/1.0.0");
    // ChatGPT requests the metadata before any 401.
    client.discover(&bed.url("/.well-known/oauth-protected-resource/mcp")).await;
    let callback = "https://chatgpt.com/connector/oauth/OUbdUMlL15Ct";
    let chatgpt = client.register(&registration("ChatGPT", "none", &[callback])).await;
    let browser = Browser::start(&bed.run).await.unwrap();
    let tokens = chatgpt.log_in(&browser, callback).await;
    client.call(&chatgpt.refresh(&tokens).await.access).await;
    browser.close().await.unwrap();
}

#[tokio::test]
async fn codex_uses_a_different_redirect_path_per_login() {
    let bed = bed::shared().await;
    let client = ScriptedClient::new(&bed, "codex-cli");
    let challenge = client.challenge(Method::POST).await;
    client.discover(&challenge).await;
    let browser = Browser::start(&bed.run).await.unwrap();
    // Codex registers a new path before each login.
    for path in ["callback/Zm9vYmFy", "callback/YmF6cXV4"] {
        let callback = format!("http://127.0.0.1:{}/{path}", free_port().unwrap());
        let codex = client.register(&registration("Codex", "none", &[&callback])).await;
        let tokens = codex.log_in(&browser, &callback).await;
        // Two Codex processes use the same token.
        let (one, other) = tokio::join!(codex.refresh(&tokens), codex.refresh(&tokens));
        client.call(&one.access).await;
        client.call(&other.access).await;
    }
    browser.close().await.unwrap();
}

#[tokio::test]
async fn opencode_logs_in_at_its_fixed_port() {
    let bed = bed::shared().await;
    let client = ScriptedClient::new(&bed, "opencode");
    let challenge = client.challenge(Method::POST).await;
    client.discover(&challenge).await;
    // OpenCode's port stays closed in this test, so that concurrent runs do not conflict.
    let callback = "http://127.0.0.1:19876/mcp/oauth/callback";
    let opencode = client.register(&registration("OpenCode", "none", &[callback])).await;
    let browser = Browser::start(&bed.run).await.unwrap();
    let tokens = opencode.log_in(&browser, callback).await;
    client.call(&opencode.refresh(&tokens).await.access).await;
    browser.close().await.unwrap();
}

/// A registration request of these clients.
fn registration(name: &str, method: &str, redirect_uris: &[&str]) -> Value {
    json!({
        "client_name": name,
        "redirect_uris": redirect_uris,
        "grant_types": GRANTS,
        "response_types": ["code"],
        "token_endpoint_auth_method": method,
        "scope": "mcp",
    })
}
