//! Access rules, and the end of sessions when the rules change.

use e2e::{
    environment::NAMESPACE,
    peers::{browser::Browser, context_forge::MEMBERS},
};
use mcp_oauth_operator::api::Bounded;
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::support::{ScriptedClient, environment, eventually, sessions};

#[tokio::test(flavor = "multi_thread")]
async fn issuer_group_allows_its_members_only() {
    let environment = environment();
    let proxy = environment
        .deploy_proxy("groups", |spec| {
            spec.replicas = Bounded::of::<1>();
            spec.identity_provider.groups_claim = Some("groups".to_owned());
            spec.access.domains.clear();
            spec.access.groups = vec!["gateway-users".to_owned()];
        })
        .await
        .unwrap();
    let client = ScriptedClient::register(&environment, &proxy).await.unwrap();
    let browser = Browser::start(&environment.run).await.unwrap();
    let tokens = client.login(&browser, MEMBERS[0]).await.unwrap();
    browser.close().await.unwrap();
    assert_eq!(client.call(&tokens.access, &[]).await.status(), StatusCode::OK);
    // The session stores the groups, and a refresh evaluates the rules with them.
    assert!(sessions(&environment, "groups").await[0].spec.claims.groups.contains(&"gateway-users".to_owned()));
    client.refresh(&tokens.refresh).await.unwrap();

    let browser = Browser::start(&environment.run).await.unwrap();
    let final_page = browser.login(client.authorize_url().as_str(), MEMBERS[1]).await.unwrap();
    assert_eq!(final_page.status, 403, "{final_page:?}");
    browser.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn session_caps_and_changed_rules_end_only_affected_sessions() {
    let environment = environment();
    let name = "rules";
    let proxy = environment
        .deploy_proxy(name, |spec| {
            spec.replicas = Bounded::of::<1>();
            spec.sessions.max_per_user = Bounded::of::<2>();
        })
        .await
        .unwrap();
    let kubectl = environment.cluster.kubectl_program();
    let patch = |patch: &Value| {
        let patch = patch.to_string();
        kubectl.output(&["--namespace", NAMESPACE, "patch", "mop", name, "--type=merge", "--patch", &patch]).unwrap();
    };
    let client = ScriptedClient::register(&environment, &proxy).await.unwrap();
    let status = |access: String| {
        let client = &client;
        async move { client.call(&access, &[]).await.status() }
    };

    // The first of three logins of one user ends.
    let browser = Browser::start(&environment.run).await.unwrap();
    let mut alice = Vec::new();
    for _ in 0..3 {
        alice.push(client.login(&browser, MEMBERS[0]).await.unwrap());
        // The last refresh, which decides which session ends, has a resolution of one second.
        let before = jiff::Timestamp::now().as_second();
        eventually("the next second", || async { jiff::Timestamp::now().as_second() > before }).await;
    }
    browser.close().await.unwrap();
    let browser = Browser::start(&environment.run).await.unwrap();
    let carol = client.login(&browser, MEMBERS[1]).await.unwrap();
    browser.close().await.unwrap();
    eventually("the first of three sessions ends", || async {
        status(alice[0].access.clone()).await == StatusCode::UNAUTHORIZED
    })
    .await;
    assert_eq!(status(alice[1].access.clone()).await, StatusCode::OK);
    assert_eq!(status(alice[2].access.clone()).await, StatusCode::OK);

    // Deleting a user's sessions, as in docs/access.md, logs out only that user.
    let selector = format!("spec.proxy={name},spec.user.email={}", MEMBERS[1]);
    kubectl.output(&["--namespace", NAMESPACE, "delete", "mcpsessions", "--field-selector", &selector]).unwrap();
    eventually("the deleted session is rejected", || async {
        status(carol.access.clone()).await == StatusCode::UNAUTHORIZED
    })
    .await;
    assert_eq!(status(alice[2].access.clone()).await, StatusCode::OK);
    let browser = Browser::start(&environment.run).await.unwrap();
    let carol = client.login(&browser, MEMBERS[1]).await.unwrap();
    browser.close().await.unwrap();

    // Blocking a user ends only that user's sessions.
    patch(&json!({"spec": {"access": {"blocked": [MEMBERS[0]]}}}));
    eventually("all sessions of the blocked user are gone", || async {
        sessions(&environment, name).await.iter().all(|session| session.spec.user.email == MEMBERS[1])
    })
    .await;
    assert_eq!(sessions(&environment, name).await.len(), 1);
    assert!(client.refresh(&alice[2].refresh).await.is_err());
    eventually("the other user's calls succeed", || async { status(carol.access.clone()).await == StatusCode::OK })
        .await;

    // Mass logout.
    patch(&json!({"spec": {"sessions": {"notBefore": jiff::Timestamp::now().to_string()}}}));
    eventually("every session is gone", || async { sessions(&environment, name).await.is_empty() }).await;
    assert!(client.refresh(&carol.refresh).await.is_err());
}
