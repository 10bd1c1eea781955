//! The issuer is queried at each refresh (`identityProvider.recheckOnRefresh`).

use e2e::{
    peers::{
        browser::Browser,
        provider::{Client, account},
    },
    stage::{CLIENT_SECRET, NAMESPACE, credentials_name},
};
use futures::future::join_all;
use mcp_oauth_operator::api::proxy::RecheckOnRefresh;
use serde_json::json;

use crate::support::{Condition, Scripted, eventually, sessions, stage};

const DAVE: &str = "dave@example.com";

#[tokio::test(flavor = "multi_thread")]
async fn recheck_ends_sessions_of_removed_accounts_at_the_next_refresh() {
    let stage = stage();
    stage.provider.change(|registry| registry.accounts.push(account("100009", DAVE, true, "example.com"))).unwrap();
    let name = "recheck";
    let enable = |spec: &mut mcp_oauth_operator::api::McpOAuthProxySpec| {
        spec.identity_provider.recheck_on_refresh = RecheckOnRefresh::Enabled;
    };
    let front = stage.front(name, enable).await.unwrap();
    let client = Scripted::register(&stage, &front).await.unwrap();
    let browser = Browser::start(&stage.run).await.unwrap();
    let mut tokens = client.login(&browser, DAVE).await.unwrap();
    let kubectl = stage.cluster.kubectl_program();
    eventually("the operator reports that the recheck works", || async {
        Condition::of(&kubectl, name, "RecheckWorks").status == "True"
    })
    .await;

    // The issuer treats a reused refresh token as stolen and ends the login. So twenty concurrent refreshes at two pods
    // can only all succeed if the issuer is queried once per generation.
    for _ in 0..3 {
        let answers = join_all((0..20).map(|_| client.refresh(&tokens.refresh))).await;
        let mut answers: Vec<_> = answers.into_iter().map(Result::unwrap).collect();
        tokens = answers.remove(0);
    }
    let [session] = &sessions(&stage, name).await[..] else { panic!("one login must create one session") };
    assert_eq!(session.spec.rotation, 4);
    assert!(session.spec.upstream_token.as_ref().is_some_and(|token| token.len() > 40), "{session:?}");
    assert_eq!(session.spec.leased_until, None);

    // The rules are evaluated with the issuer's current claims.
    stage
        .provider
        .change(|registry| {
            let dave = registry.accounts.iter_mut().find(|account| account.email == DAVE).unwrap();
            dave.email_verified = false;
        })
        .unwrap();
    assert!(client.refresh(&tokens.refresh).await.unwrap_err().to_string().contains("invalid_grant"));
    eventually("the session is gone", || async { sessions(&stage, name).await.is_empty() }).await;
    let verify = |registry: &mut e2e::peers::provider::Registry| {
        registry.accounts.iter_mut().find(|account| account.email == DAVE).unwrap().email_verified = true;
    };
    stage.provider.change(verify).unwrap();

    let tokens = client.login(&browser, DAVE).await.unwrap();
    stage.provider.change(|registry| registry.accounts.retain(|account| account.email != DAVE)).unwrap();
    assert!(client.refresh(&tokens.refresh).await.unwrap_err().to_string().contains("invalid_grant"));
    eventually("the session is gone", || async { sessions(&stage, name).await.is_empty() }).await;
    browser.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn recheck_without_issuer_refresh_token_refuses_logins_and_sets_a_condition() {
    let stage = stage();
    let (name, id) = ("no-recheck", "gets-no-refresh-tokens");
    let edge = stage.edge(name).await.unwrap();
    let callback = format!("{}/callback", edge.url);
    let only_codes = Client {
        redirect_uris: vec![callback],
        grant_types: vec!["authorization_code".to_owned()],
        ..Client::new(id, CLIENT_SECRET)
    };
    stage.provider.change(|registry| registry.clients.push(only_codes)).unwrap();
    let client = stage.cluster.client().await.unwrap();
    stage.apply_credentials(&client, name).await.unwrap();
    let kubectl = stage.cluster.kubectl_program();
    let patch = json!({"stringData": {"OAUTH_CLIENT_ID": id}}).to_string();
    let secret = credentials_name(name);
    kubectl.output(&["--namespace", NAMESPACE, "patch", "secret", &secret, "--type=merge", "--patch", &patch]).unwrap();
    let mut spec = stage.spec(name, &edge);
    spec.identity_provider.recheck_on_refresh = RecheckOnRefresh::Enabled;
    stage.apply(&client, name, spec).await.unwrap();
    stage.wait_ready(name).unwrap();
    let front = stage.routed(name, edge).await.unwrap();

    let client = Scripted::register(&stage, &front).await.unwrap();
    let browser = Browser::start(&stage.run).await.unwrap();
    let landing = browser.login(client.authorize_url().as_str(), "alice@example.com").await.unwrap();
    assert_eq!(landing.status, 500, "{landing:?}");
    browser.close().await.unwrap();
    assert!(sessions(&stage, name).await.is_empty());
    eventually("the condition reports the reason", || async {
        Condition::of(&kubectl, name, "RecheckWorks").reason == "NoRefreshToken"
    })
    .await;
    let condition = Condition::of(&kubectl, name, "RecheckWorks");
    assert!(condition.status == "False" && condition.message.contains("authorizeParameters"), "{condition:?}");
}
