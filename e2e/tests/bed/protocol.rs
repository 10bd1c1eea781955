use e2e::peers::{browser::Browser, conformance, context_forge::MEMBERS, json_lines::Person};
use mcp_oauth_operator::api::Bounded;

use crate::support::stage;

#[tokio::test(flavor = "multi_thread")]
async fn authorization_conformance_scenarios_pass() {
    let stage = stage();
    let front = stage.front("conformance", |spec| spec.replicas = Bounded::of::<1>()).await.unwrap();
    let browser = Browser::start(&stage.run).await.unwrap();
    let person = Person { browser: &browser, email: MEMBERS[0] };
    let verdict = conformance::authorization(&stage.run, &front.edge.url, &front.url(), person).await.unwrap();
    verdict.check().unwrap();
    browser.close().await.unwrap();
}
