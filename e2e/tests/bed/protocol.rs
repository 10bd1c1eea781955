use e2e::peers::{browser::Browser, conformance, context_forge::MEMBERS, json_lines::User};
use mcp_oauth_operator::api::Bounded;

use crate::support::environment;

#[tokio::test(flavor = "multi_thread")]
async fn authorization_conformance_scenarios_pass() {
    let environment = environment();
    let proxy = environment.deploy_proxy("conformance", |spec| spec.replicas = Bounded::of::<1>()).await.unwrap();
    let browser = Browser::start(&environment.run).await.unwrap();
    let user = User { browser: &browser, email: MEMBERS[0] };
    let verdict = conformance::authorization(&environment.run, &proxy.edge.url, &proxy.url(), user).await.unwrap();
    verdict.check().unwrap();
    browser.close().await.unwrap();
}
