//! The issuer is queried at each refresh (`identityProvider.recheckOnRefresh`).

use e2e::{
    environment::{CLIENT_SECRET, NAMESPACE, credentials_name},
    peers::{
        browser::Browser,
        provider::{Client, account},
    },
};
use futures::future::join_all;
use mcp_oauth_operator::api::proxy::RecheckOnRefresh;
use serde_json::json;

use crate::support::{Condition, ScriptedClient, environment, eventually, sessions};

const DAVE: &str = "dave@example.com";

#[tokio::test(flavor = "multi_thread")]
async fn recheck_ends_sessions_of_removed_accounts_at_the_next_refresh() {
    let environment = environment();
    environment
        .provider
        .change(|registry| registry.accounts.push(account("100009", DAVE, true, "example.com")))
        .unwrap();
    let name = "recheck";
    let enable = |spec: &mut mcp_oauth_operator::api::McpOAuthProxySpec| {
        spec.identity_provider.recheck_on_refresh = RecheckOnRefresh::Enabled;
    };
    let proxy = environment.deploy_proxy(name, enable).await.unwrap();
    let client = ScriptedClient::register(&environment, &proxy).await.unwrap();
    let browser = Browser::start(&environment.run).await.unwrap();
    let mut tokens = client.login(&browser, DAVE).await.unwrap();
    let kubectl = environment.cluster.kubectl_program();
    eventually("the operator reports that the recheck works", || async {
        Condition::get(&kubectl, name, "RecheckWorks").status == "True"
    })
    .await;

    // The issuer treats a reused refresh token as stolen and ends the login. So twenty concurrent refreshes at two pods
    // can only all succeed if the issuer is queried once per generation.
    for _ in 0..3 {
        let responses = join_all((0..20).map(|_| client.refresh(&tokens.refresh))).await;
        let mut responses: Vec<_> = responses.into_iter().map(Result::unwrap).collect();
        tokens = responses.remove(0);
    }
    let [session] = &sessions(&environment, name).await[..] else { panic!("one login must create one session") };
    assert_eq!(session.spec.generation, 4);
    assert!(session.spec.issuer_refresh_token.as_ref().is_some_and(|token| token.len() > 40), "{session:?}");
    assert_eq!(session.spec.leased_until, None);

    // The rules are evaluated with the issuer's current claims.
    environment
        .provider
        .change(|registry| {
            let dave = registry.accounts.iter_mut().find(|account| account.email == DAVE).unwrap();
            dave.email_verified = false;
        })
        .unwrap();
    assert!(client.refresh(&tokens.refresh).await.unwrap_err().to_string().contains("invalid_grant"));
    eventually("the session is gone", || async { sessions(&environment, name).await.is_empty() }).await;
    let verify = |registry: &mut e2e::peers::provider::Registry| {
        registry.accounts.iter_mut().find(|account| account.email == DAVE).unwrap().email_verified = true;
    };
    environment.provider.change(verify).unwrap();

    let tokens = client.login(&browser, DAVE).await.unwrap();
    environment.provider.change(|registry| registry.accounts.retain(|account| account.email != DAVE)).unwrap();
    assert!(client.refresh(&tokens.refresh).await.unwrap_err().to_string().contains("invalid_grant"));
    eventually("the session is gone", || async { sessions(&environment, name).await.is_empty() }).await;
    browser.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn recheck_without_issuer_refresh_token_refuses_logins_and_sets_a_condition() {
    let environment = environment();
    let (name, id) = ("no-recheck", "gets-no-refresh-tokens");
    let edge = environment.edge(name).await.unwrap();
    let callback = format!("{}/callback", edge.url);
    let only_codes = Client {
        redirect_uris: vec![callback],
        grant_types: vec!["authorization_code".to_owned()],
        ..Client::new(id, CLIENT_SECRET)
    };
    environment.provider.change(|registry| registry.clients.push(only_codes)).unwrap();
    let client = environment.cluster.client().await.unwrap();
    environment.apply_credentials(&client, name).await.unwrap();
    let kubectl = environment.cluster.kubectl_program();
    let patch = json!({"stringData": {"OAUTH_CLIENT_ID": id}}).to_string();
    let secret = credentials_name(name);
    kubectl.output(&["--namespace", NAMESPACE, "patch", "secret", &secret, "--type=merge", "--patch", &patch]).unwrap();
    let mut spec = environment.spec(name, &edge).unwrap();
    spec.identity_provider.recheck_on_refresh = RecheckOnRefresh::Enabled;
    environment.apply(&client, name, spec).await.unwrap();
    environment.wait_ready(name).unwrap();
    let proxy = environment.wait_until_reachable(name, edge).await.unwrap();

    let client = ScriptedClient::register(&environment, &proxy).await.unwrap();
    let browser = Browser::start(&environment.run).await.unwrap();
    let final_page = browser.login(client.authorize_url().as_str(), "alice@example.com").await.unwrap();
    assert_eq!(final_page.status, 500, "{final_page:?}");
    browser.close().await.unwrap();
    assert!(sessions(&environment, name).await.is_empty());
    eventually("the condition reports the reason", || async {
        Condition::get(&kubectl, name, "RecheckWorks").reason == "NoRefreshToken"
    })
    .await;
    let condition = Condition::get(&kubectl, name, "RecheckWorks");
    assert!(condition.status == "False" && condition.message.contains("authorizeParameters"), "{condition:?}");
}
