//! Whether an MCP server answers through the proxy as it does without: the conformance suite's scenarios for servers, in both
//! generations of the protocol.

use e2e::peers::{browser::Browser, conformance, json_lines::Person, login::Login, scenarios};

use crate::{ALICE, bed, own_proxy::OwnProxy};

/// What our server has not: tasks, an extension, and a tool with a schema of its own.
fn is_beyond(scenario: &str) -> bool {
    scenario.starts_with("tasks-") || scenario == "json-schema-2020-12"
}

#[tokio::test]
async fn each_conformance_scenario_of_a_server_ends_the_same_through_the_proxy() {
    let bed = bed::hold().await;
    let server = scenarios::up(&bed.run).await.unwrap();
    let proxy = OwnProxy::up(&bed, "transparent", &server).await;
    let browser = Browser::start(&bed.run).await.unwrap();
    let alice = Person { browser: &browser, email: ALICE };
    let computer = Login::install(&bed.run, "transparent").unwrap();
    let logged_in = computer.run(&proxy.url(), Some(alice), &[]).await.unwrap();
    assert!(logged_in.succeeded(), "{logged_in:?}");
    let login = computer.run(&proxy.url(), None, &["--print-token"]).await.unwrap();
    let hop = scenarios::with_token(&bed.run, proxy.address(), login.output.trim()).await.unwrap();

    for (revision, least) in [("2025-11-25", 33), ("2026-07-28", 50)] {
        let (direct, through) = (format!("http://{server}/mcp"), format!("http://{hop}/mcp"));
        let direct = conformance::server(&bed.run, "direct", &direct, revision).await.unwrap();
        let through = conformance::server(&bed.run, "through", &through, revision).await.unwrap();
        assert!(direct.len() >= least, "{}", direct.len());
        for (scenario, checks) in &direct {
            assert_eq!(through.get(scenario), Some(checks), "{revision} {scenario}");
            let failed = checks.iter().any(|(_, status)| status == "FAILURE");
            assert!(!failed || is_beyond(scenario), "{revision} {scenario}: {checks:?}");
        }
        assert_eq!(direct.len(), through.len());
    }
}
