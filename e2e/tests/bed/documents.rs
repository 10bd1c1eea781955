//! Clients identified by a client ID metadata document, which the proxy fetches only from hosts with public addresses.

use std::fs;

use e2e::{
    forward::free_port,
    peers::{
        browser::Browser,
        claude_code::ClaudeCode,
        context_forge::MEMBERS,
        document_host::{CLAUDE_CODE, DocumentHost},
        edge::Edge,
        json_lines::User,
        standalone::{Proxy, ProxyOptions},
    },
};
use serde_json::Value;
use url::Url;

use crate::support::{client, environment};

const NAME: &str = "documents";

#[tokio::test(flavor = "multi_thread")]
async fn claude_code_logs_in_with_its_metadata_document() {
    let environment = environment();
    let documents = DocumentHost::up(&environment.run).await.unwrap();
    let listen = format!("127.0.0.1:{}", free_port().unwrap());
    let edge = Edge::up(&environment.run, NAME, free_port().unwrap(), &listen).await.unwrap();
    let (public_url, upstream) = (edge.url.as_str(), environment.tap.address.as_str());
    let options = ProxyOptions {
        public_url,
        provider: &environment.provider,
        upstream,
        recheck_on_refresh: false,
        documents: Some(&documents),
        settings: &[],
    };
    let proxy = Proxy::up(&environment.run, &format!("proxy-{NAME}"), &listen, options).await.unwrap();

    let claude = ClaudeCode::install(&environment.run, NAME).await.unwrap();
    claude.add(&format!("{}/mcp", edge.url)).await.unwrap();
    let browser = Browser::start(&environment.run).await.unwrap();
    assert_eq!(claude.log_in(User { browser: &browser, email: MEMBERS[0] }).await.unwrap(), 1);
    browser.close().await.unwrap();
    assert!(claude.is_connected().await.unwrap());
    assert_eq!(proxy.sessions_of("Claude Code").unwrap(), 1);
    claude.invalidate_access_token().unwrap();
    assert!(claude.is_connected().await.unwrap(), "a refresh needs no login");
    let requests = fs::read_to_string(environment.run.log(&format!("edge-{NAME}"))).unwrap();
    assert!(!requests.contains("POST /register"), "{requests}");
    let fetched = documents.requested_documents().unwrap();
    assert_eq!(fetched, ["claude.ai/oauth/claude-code-client-metadata"], "fetched once, and not for token requests");

    // Documents that do not contain their own URL, or are at a non-public address, are rejected.
    let http = client(&environment);
    let authorize = async |id: &str| {
        let parameters = [
            ("response_type", "code"),
            ("client_id", id),
            ("redirect_uri", "http://localhost:9/callback"),
            ("code_challenge", "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"),
            ("code_challenge_method", "S256"),
        ];
        let url = Url::parse_with_params(&format!("{}/authorize", edge.url), parameters).unwrap();
        let response = http.get(url).header("accept", "application/json").send().await.unwrap();
        let status = response.status().as_u16();
        let error = response.json::<Value>().await.unwrap_or_default();
        (status, error["error_description"].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(authorize(CLAUDE_CODE).await.0, 200, "the consent page");
    for (id, status, expected) in [
        ("https://claude.ai/moved", 400, "redirects are not followed"),
        ("https://claude.ai/not-itself", 400, "equal the document's URL"),
        ("https://claude.ai/large", 400, "larger than 5 KiB"),
        ("https://claude.ai/nothing", 400, "status 404"),
        ("https://www.cursor.com/private", 503, "cannot be reached"),
        ("https://nobody.example/client", 401, "not the host of a known MCP client"),
    ] {
        let (answered, description) = authorize(id).await;
        assert!(answered == status && description.contains(expected), "{id}: {answered} {description}");
    }
    let fetched = documents.requested_documents().unwrap();
    assert!(!fetched.iter().any(|document| document.starts_with("www.cursor.com")), "{fetched:?}");
}
