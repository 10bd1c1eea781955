//! An MCP server behaves the same through the proxy as without it, in plain HTTP, over TLS, and behind a gateway that
//! speaks HTTP/2 to the proxy: the conformance suite's server scenarios in both generations of the protocol.

use std::process::Command;

use e2e::{
    forward::free_port,
    peers::{browser::Browser, conformance, edge::Edge, gateway, json_lines::User, login::Login, scenarios},
    program,
};

use crate::{
    ALICE,
    bed::{self, Bed},
    dedicated_proxy::DedicatedProxy,
};

/// Scenarios for features that our server lacks: tasks, an extension, and a tool with its own schema.
fn is_beyond(scenario: &str) -> bool {
    scenario.starts_with("tasks-") || scenario == "json-schema-2020-12"
}

#[tokio::test]
async fn server_conformance_scenarios_give_the_same_result_through_the_proxy() {
    let bed = bed::shared().await;
    let server = scenarios::up(&bed.run).await.unwrap();
    let tls = Edge::up(&bed.run, "scenarios", free_port().unwrap(), &server).await.unwrap();
    let direct = format!("http://{server}/mcp");
    let (proxy, token) = logged_in(&bed, "plain", &server).await;
    let plain = with_token(&bed, "plain", proxy.address(), &token).await;
    let gateway = gateway::http2(&bed.run, "conformance", proxy.address()).await.unwrap();
    let http2 = with_token(&bed, "http2", &gateway, &token).await;
    let (proxy, token) = logged_in(&bed, "encrypted", &tls.url).await;
    let encrypted = with_token(&bed, "encrypted", proxy.address(), &token).await;

    for (revision, least) in [("2025-11-25", 33), ("2026-07-28", 50)] {
        let direct = conformance::server(&bed.run, "direct", &direct, revision).await.unwrap();
        assert!(direct.len() >= least, "{}", direct.len());
        for (name, url) in [("plain", &plain), ("http2", &http2), ("encrypted", &encrypted)] {
            let through = conformance::server(&bed.run, name, url, revision).await.unwrap();
            for (scenario, checks) in &direct {
                assert_eq!(through.get(scenario), Some(checks), "{revision} {name} {scenario}");
                let failed = checks.iter().any(|(_, status)| status == "FAILURE");
                assert!(!failed || is_beyond(scenario), "{revision} {scenario}: {checks:?}");
            }
            assert_eq!(direct.len(), through.len());
        }
    }
}

#[tokio::test]
async fn curl_speaks_http2_to_the_proxy() {
    let bed = bed::shared().await;
    let server = scenarios::up(&bed.run).await.unwrap();
    let (proxy, token) = logged_in(&bed, "curl", &server).await;
    let initialize = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"curl","version":"1"}}}"#;
    let call = |authorization: &str| {
        let mut curl = Command::new(program::find("curl", "curl").unwrap());
        curl.args(["--silent", "--show-error", "--include", "--max-time", "30", "--http2-prior-knowledge"]);
        curl.args(["--header", "content-type: application/json"]);
        curl.args(["--header", "accept: application/json, text/event-stream", "--header", authorization]);
        curl.args(["--data", initialize]).arg(format!("http://{}/mcp", proxy.address()));
        program::output(&mut curl).unwrap()
    };
    let response = call(&format!("authorization: Bearer {token}"));
    assert!(response.starts_with("HTTP/2 200 ") && response.contains(r#""serverInfo""#), "{response}");
    let refused = call("authorization: Bearer x");
    assert!(refused.starts_with("HTTP/2 401 ") && refused.contains("\nwww-authenticate: Bearer "), "{refused}");
}

/// A proxy with this name in front of `upstream`, and the access token of a user.
async fn logged_in(bed: &Bed, name: &str, upstream: &str) -> (DedicatedProxy, String) {
    let proxy = DedicatedProxy::up(bed, &format!("transparent-{name}"), upstream).await;
    let browser = Browser::start(&bed.run).await.unwrap();
    let alice = User { browser: &browser, email: ALICE };
    let installation = Login::install(&bed.run, &format!("transparent-{name}")).unwrap();
    let logged_in = installation.run(&proxy.url(), Some(alice), &[]).await.unwrap();
    assert!(logged_in.succeeded(), "{logged_in:?}");
    let login = installation.run(&proxy.url(), None, &["--print-token"]).await.unwrap();
    (proxy, login.output.trim().to_owned())
}

/// The MCP URL of the proxy at `target` for clients without a token.
async fn with_token(bed: &Bed, name: &str, target: &str, token: &str) -> String {
    format!("http://{}/mcp", scenarios::with_token(&bed.run, name, target, token).await.unwrap())
}
