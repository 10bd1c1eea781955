//! Whether an MCP server answers through the proxy as it does without, in plain and over TLS: the conformance suite's scenarios
//! for servers, in both generations of the protocol.

use e2e::{
    forward::free_port,
    peers::{browser::Browser, conformance, edge::Edge, json_lines::Person, login::Login, scenarios},
};

use crate::{
    ALICE,
    bed::{self, Bed},
    own_proxy::OwnProxy,
};

/// What our server has not: tasks, an extension, and a tool with a schema of its own.
fn is_beyond(scenario: &str) -> bool {
    scenario.starts_with("tasks-") || scenario == "json-schema-2020-12"
}

#[tokio::test]
async fn server_conformance_scenarios_give_the_same_result_through_the_proxy() {
    let bed = bed::hold().await;
    let server = scenarios::up(&bed.run).await.unwrap();
    let tls = Edge::up(&bed.run, "scenarios", free_port().unwrap(), &server).await.unwrap();
    let direct = format!("http://{server}/mcp");
    let plain = logged_in(&bed, "plain", &server).await;
    let encrypted = logged_in(&bed, "encrypted", &tls.url).await;

    for (revision, least) in [("2025-11-25", 33), ("2026-07-28", 50)] {
        let direct = conformance::server(&bed.run, "direct", &direct, revision).await.unwrap();
        assert!(direct.len() >= least, "{}", direct.len());
        for (name, url) in [("plain", &plain), ("encrypted", &encrypted)] {
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

/// The address of a proxy of that name before `upstream`, as somebody who is logged in.
async fn logged_in(bed: &Bed, name: &str, upstream: &str) -> String {
    let proxy = OwnProxy::up(bed, &format!("transparent-{name}"), upstream).await;
    let browser = Browser::start(&bed.run).await.unwrap();
    let alice = Person { browser: &browser, email: ALICE };
    let computer = Login::install(&bed.run, &format!("transparent-{name}")).unwrap();
    let logged_in = computer.run(&proxy.url(), Some(alice), &[]).await.unwrap();
    assert!(logged_in.succeeded(), "{logged_in:?}");
    let login = computer.run(&proxy.url(), None, &["--print-token"]).await.unwrap();
    let hop = scenarios::with_token(&bed.run, name, proxy.address(), login.output.trim()).await.unwrap();
    format!("http://{hop}/mcp")
}
