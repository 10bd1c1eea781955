use e2e::stage::{NAMESPACE, credentials_name};

use crate::support::{Condition, eventually, stage};

#[tokio::test(flavor = "multi_thread")]
async fn missing_secret_or_key_is_reported_and_recovers_when_it_appears() {
    let stage = stage();
    let name = "credentials";
    let edge = stage.edge(name).await.unwrap();
    let client = stage.cluster.client().await.unwrap();
    let kubectl = stage.cluster.kubectl_program();
    let condition = |kind: &str| Condition::of(&kubectl, name, kind);
    let mut spec = stage.spec(name, &edge);
    spec.replicas = 1;
    stage.apply(&client, name, spec).await.unwrap();
    eventually("the condition names the missing Secret", || async {
        let ready = condition("CredentialsReady");
        ready.reason == "SecretNotFound" && ready.message.contains(&credentials_name(name))
    })
    .await;
    assert_eq!(condition("Ready").status, "False");

    let secret = credentials_name(name);
    let incomplete =
        ["--namespace", NAMESPACE, "create", "secret", "generic", &secret, "--from-literal=OAUTH_CLIENT_ID=x"];
    kubectl.output(&incomplete).unwrap();
    eventually("the condition names the missing key", || async {
        let ready = condition("CredentialsReady");
        ready.reason == "SecretKeyMissing" && ready.message.contains("OAUTH_CLIENT_SECRET")
    })
    .await;

    kubectl.output(&["--namespace", NAMESPACE, "delete", "secret", &secret]).unwrap();
    stage.apply_credentials(&client, name).await.unwrap();
    stage.wait_ready(name).unwrap();
}
