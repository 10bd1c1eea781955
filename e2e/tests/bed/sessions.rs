use e2e::{
    peers::{browser::Browser, context_forge::MEMBERS},
    stage::NAMESPACE,
};
use futures::future::join_all;
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use mcp_oauth_operator::api::McpOAuthSession;
use reqwest::StatusCode;
use serde_json::json;

use crate::support::{Scripted, eventually, pods, sessions, stage};

#[tokio::test(flavor = "multi_thread")]
async fn edited_or_forged_session_counts_as_ended() {
    let stage = stage();
    let front = stage.front("forged", |spec| spec.replicas = 1).await.unwrap();
    let browser = Browser::start(&stage.run).await.unwrap();
    let client = Scripted::register(&stage, &front).await.unwrap();
    let api: Api<McpOAuthSession> = Api::namespaced(stage.cluster.client().await.unwrap(), NAMESPACE);
    let status = |access: String| {
        let client = &client;
        async move { client.call(&access, &[]).await.status() }
    };

    // The session's user is immutable.
    let tokens = client.login(&browser, MEMBERS[0]).await.unwrap();
    let object = sessions(&stage, "forged").await.remove(0);
    let name = object.metadata.name.clone().unwrap();
    let email = json!({"spec": {"user": {"email": MEMBERS[1]}}});
    let refused = api.patch(&name, &PatchParams::default(), &Patch::Merge(&email)).await.unwrap_err().to_string();
    assert!(refused.contains("delete the session, and the person logs in again"), "{refused}");
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
    let mut forged = sessions(&stage, "forged").await.remove(0);
    let name = forged.metadata.name.clone().unwrap();
    api.delete(&name, &DeleteParams::default()).await.unwrap();
    forged.spec.user.email = MEMBERS[1].to_owned();
    forged.metadata.resource_version = None;
    forged.metadata.uid = None;
    api.create(&PostParams::default(), &forged).await.unwrap();
    // New pods have only seen the forged object.
    let kubectl = stage.cluster.kubectl_program();
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
    let stage = stage();
    let name = "race";
    let front = stage.front(name, |_| ()).await.unwrap();
    let client = Scripted::register(&stage, &front).await.unwrap();
    let browser = Browser::start(&stage.run).await.unwrap();
    let code = client.code(&browser, MEMBERS[0]).await.unwrap();
    browser.close().await.unwrap();
    let pods = pods(&stage, name);
    assert_eq!(pods.len(), 2);
    let redeeming = (0..50).map(|number| client.redeem_at(&stage, &pods[number % 2], &code));
    let (won, lost): (Vec<_>, Vec<_>) = join_all(redeeming).await.into_iter().partition(Result::is_ok);
    assert_eq!(won.len(), 1);
    for error in lost {
        let error = error.unwrap_err().to_string();
        assert!(error.contains("400") && error.contains("invalid_grant"), "{error}");
    }
    let winner = won.into_iter().next().unwrap().unwrap();
    for pod in &pods {
        assert_eq!(client.call_pod(&stage, pod, &winner.access).await, StatusCode::OK);
    }
    let winner = client.refresh_at(&stage, &pods[1], &winner.refresh).await.unwrap();

    // The replay of the code with the right verifier ends the session, also within the minute in which the code is
    // valid.
    let stolen = || async {
        client.redeem_at(&stage, &pods[0], &code).await.is_err() && sessions(&stage, name).await.is_empty()
    };
    eventually("the session of a replayed code is gone", stolen).await;
    assert!(client.refresh(&winner.refresh).await.is_err());
}
