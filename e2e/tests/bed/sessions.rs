use e2e::{
    environment::NAMESPACE,
    peers::{browser::Browser, context_forge::MEMBERS},
};
use futures::future::join_all;
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use mcp_oauth_operator::api::Bounded;
use mcp_oauth_operator::api::McpOAuthSession;
use reqwest::StatusCode;
use serde_json::json;

use crate::support::{ScriptedClient, environment, eventually, pods, sessions};

#[tokio::test(flavor = "multi_thread")]
async fn edited_or_forged_session_counts_as_ended() {
    let environment = environment();
    let proxy = environment.deploy_proxy("forged", |spec| spec.replicas = Bounded::of::<1>()).await.unwrap();
    let browser = Browser::start(&environment.run).await.unwrap();
    let client = ScriptedClient::register(&environment, &proxy).await.unwrap();
    let api: Api<McpOAuthSession> = Api::namespaced(environment.cluster.client().await.unwrap(), NAMESPACE);
    let status = |access: String| {
        let client = &client;
        async move { client.call(&access, &[]).await.status() }
    };

    // The session's user is immutable.
    let tokens = client.login(&browser, MEMBERS[0]).await.unwrap();
    let object = sessions(&environment, "forged").await.remove(0);
    let name = object.metadata.name.clone().unwrap();
    let email = json!({"spec": {"user": {"email": MEMBERS[1]}}});
    let refused = api.patch(&name, &PatchParams::default(), &Patch::Merge(&email)).await.unwrap_err().to_string();
    assert!(refused.contains("delete the session, and the user logs in again"), "{refused}");
    assert_eq!(status(tokens.access.clone()).await, StatusCode::OK);

    let tokens = client.refresh(&tokens.refresh).await.unwrap();
    assert_eq!(status(tokens.access.clone()).await, StatusCode::OK);

    // Editing other fields ends the session.
    let later = json!({"spec": {"expiresAt": "2099-01-01T00:00:00Z"}});
    api.patch(&name, &PatchParams::default(), &Patch::Merge(&later)).await.unwrap();
    eventually("the edited session is rejected", || async {
        status(tokens.access.clone()).await == StatusCode::UNAUTHORIZED
    })
    .await;
    assert!(client.refresh(&tokens.refresh).await.is_err());

    // `kubectl replace --force`: deletes the session and recreates it with another user's e-mail address.
    api.delete(&name, &DeleteParams::default()).await.unwrap();
    let tokens = client.login(&browser, MEMBERS[0]).await.unwrap();
    let mut forged = sessions(&environment, "forged").await.remove(0);
    let name = forged.metadata.name.clone().unwrap();
    api.delete(&name, &DeleteParams::default()).await.unwrap();
    forged.spec.user.email = MEMBERS[1].to_owned();
    forged.metadata.resource_version = None;
    forged.metadata.uid = None;
    api.create(&PostParams::default(), &forged).await.unwrap();
    // New pods have only seen the forged object.
    let kubectl = environment.cluster.kubectl_program();
    kubectl.output(&["--namespace", NAMESPACE, "rollout", "restart", "deployment/forged"]).unwrap();
    kubectl.output(&["--namespace", NAMESPACE, "rollout", "status", "deployment/forged", "--timeout=120s"]).unwrap();
    eventually("the forged session is rejected", || async {
        status(tokens.access.clone()).await == StatusCode::UNAUTHORIZED
    })
    .await;
    assert!(client.refresh(&tokens.refresh).await.is_err());
    browser.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a11_concurrent_redemptions_at_two_pods_yield_one_success_and_replay_ends_the_session() {
    let environment = environment();
    let name = "race";
    let proxy = environment.deploy_proxy(name, |_| ()).await.unwrap();
    let client = ScriptedClient::register(&environment, &proxy).await.unwrap();
    let browser = Browser::start(&environment.run).await.unwrap();
    let code = client.code(&browser, MEMBERS[0]).await.unwrap();
    browser.close().await.unwrap();
    let pods = pods(&environment, name);
    assert_eq!(pods.len(), 2);
    let redeeming = (0..50).map(|number| client.redeem_at(&environment, &pods[number % 2], &code));
    let (won, lost): (Vec<_>, Vec<_>) = join_all(redeeming).await.into_iter().partition(Result::is_ok);
    assert_eq!(won.len(), 1);
    for error in lost {
        let error = error.unwrap_err().to_string();
        assert!(error.contains("400") && error.contains("invalid_grant"), "{error}");
    }
    let winner = won.into_iter().next().unwrap().unwrap();
    for pod in &pods {
        assert_eq!(client.call_pod(&environment, pod, &winner.access).await, StatusCode::OK);
    }
    let winner = client.refresh_at(&environment, &pods[1], &winner.refresh).await.unwrap();

    // The replay of the code with the right verifier ends the session, also within the minute in which the code is
    // valid.
    let stolen = || async {
        client.redeem_at(&environment, &pods[0], &code).await.is_err() && sessions(&environment, name).await.is_empty()
    };
    eventually("the session of a replayed code is gone", stolen).await;
    assert!(client.refresh(&winner.refresh).await.is_err());
}
