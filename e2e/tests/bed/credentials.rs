use e2e::environment::{NAMESPACE, credentials_name};
use mcp_oauth_operator::api::Bounded;

use crate::support::{Condition, environment, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn missing_secret_or_key_is_reported_and_recovers_when_it_appears() {
    let environment = environment();
    let name = "credentials";
    let edge = environment.edge(name).await.unwrap();
    let client = environment.cluster.client().await.unwrap();
    let kubectl = environment.cluster.kubectl_program();
    let condition = |kind: &str| Condition::get(&kubectl, name, kind);
    let mut spec = environment.spec(name, &edge).unwrap();
    spec.replicas = Bounded::of::<1>();
    environment.apply(&client, name, spec).await.unwrap();
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
    environment.apply_credentials(&client, name).await.unwrap();
    environment.wait_ready(name).unwrap();
}
