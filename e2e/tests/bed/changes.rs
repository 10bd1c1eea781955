//! Reactions of operator and pods to changes: of the resource, of its Secret, and of objects with the names of
//! children.

use e2e::{
    cluster::Kubectl,
    environment::{CLIENT_SECRET, NAMESPACE, credentials_name},
    peers::{browser::Browser, context_forge::MEMBERS},
};
use mcp_oauth_operator::api::Bounded;
use serde_json::{Value, json};

use crate::support::{Condition, ScriptedClient, environment, eventually};

fn namespaced(kubectl: &Kubectl, arguments: &[&str]) -> String {
    kubectl.output(&[&["--namespace", NAMESPACE], arguments].concat()).unwrap()
}

fn patch(kubectl: &Kubectl, object: &str, patch: &Value) {
    namespaced(kubectl, &["patch", object, "--type=merge", "--patch", &patch.to_string()]);
}

fn pods(kubectl: &Kubectl, proxy: &str) -> Vec<(String, u64)> {
    let selector = format!("app.kubernetes.io/name={proxy}");
    let list: Value =
        serde_json::from_str(&namespaced(kubectl, &["get", "pods", "--selector", &selector, "-o", "json"])).unwrap();
    let pods = list["items"].as_array().unwrap().iter();
    pods.map(|pod| {
        let restarts = pod["status"]["containerStatuses"][0]["restartCount"].as_u64().unwrap_or_default();
        (pod["metadata"]["uid"].as_str().unwrap().to_owned(), restarts)
    })
    .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_object_with_a_childs_name_is_kept_and_reported() {
    let environment = environment();
    let name = "conflict";
    let kubectl = environment.cluster.kubectl_program();
    let edge = environment.edge(name).await.unwrap();
    let client = environment.cluster.client().await.unwrap();
    namespaced(&kubectl, &["create", "configmap", name, "--from-literal=theirs=yes"]);
    environment.apply_credentials(&client, name).await.unwrap();
    let mut spec = environment.spec(name, &edge).unwrap();
    spec.replicas = Bounded::of::<1>();
    environment.apply(&client, name, spec).await.unwrap();
    eventually("the conflict is reported", || async {
        let ready = Condition::get(&kubectl, name, "Ready");
        ready.reason == "NameConflict" && ready.message.contains("ConfigMap conflict")
    })
    .await;
    assert_eq!(Condition::get(&kubectl, name, "Stalled").status, "True");
    let theirs = namespaced(&kubectl, &["get", "configmap", name, "-o", "jsonpath={.data}"]);
    assert_eq!(theirs, r#"{"theirs":"yes"}"#);
    assert_eq!(pods(&kubectl, name), []);

    namespaced(&kubectl, &["delete", "configmap", name]);
    environment.wait_ready(name).unwrap();
    assert_eq!(Condition::get(&kubectl, name, "Stalled").status, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_resource_replaces_pods_and_wrong_image_can_be_corrected() {
    let environment = environment();
    let name = "changes";
    let kubectl = environment.cluster.kubectl_program();
    let proxy = environment.deploy_proxy(name, |spec| spec.replicas = Bounded::of::<1>()).await.unwrap();
    let before = pods(&kubectl, name);

    // Not Ready until a pod with the current spec is ready; the old pod continues to serve.
    let resource = format!("mop/{name}");
    patch(&kubectl, &resource, &json!({"spec": {"image": "localhost/nowhere:1"}}));
    eventually("the resource with a missing image is not Ready", || async {
        let ready = Condition::get(&kubectl, name, "Ready");
        ready.status == "False" && ["RollingOut", "RolloutStuck"].contains(&ready.reason.as_str())
    })
    .await;
    assert_eq!(Condition::get(&kubectl, name, "Available").status, "True");

    // Corrected, with different access rules: a user who could log in before cannot any more.
    let corrected = json!({"spec": {"image": null, "access": {"domains": null, "emails": ["carol@example.com"]}}});
    patch(&kubectl, &resource, &corrected);
    eventually("the pods are replaced", || async {
        let now = pods(&kubectl, name);
        now.len() == 1 && now[0].0 != before[0].0 && Condition::get(&kubectl, name, "Ready").status == "True"
    })
    .await;
    let browser = Browser::start(&environment.run).await.unwrap();
    let client = ScriptedClient::register(&environment, &proxy).await.unwrap();
    let final_page = browser.login(client.authorize_url().as_str(), "alice@example.com").await.unwrap();
    assert_eq!(final_page.status, 403, "{final_page:?}");
    browser.close().await.unwrap();
    let browser = Browser::start(&environment.run).await.unwrap();
    client.login(&browser, MEMBERS[1]).await.unwrap();
    browser.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_secret_is_reloaded_by_running_pods() {
    let environment = environment();
    let name = "reload";
    let kubectl = environment.cluster.kubectl_program();
    let proxy = environment.deploy_proxy(name, |spec| spec.replicas = Bounded::of::<1>()).await.unwrap();
    let before = pods(&kubectl, name);
    let browser = Browser::start(&environment.run).await.unwrap();
    let client = ScriptedClient::register(&environment, &proxy).await.unwrap();

    // A client secret that the issuer rejects: logins fail as soon as the pods have loaded it.
    let secret = format!("secret/{}", credentials_name(name));
    patch(&kubectl, &secret, &json!({"stringData": {"OAUTH_CLIENT_SECRET": "not-the-issuers"}}));
    eventually("the pods use the changed secret", || async {
        let final_page = browser.login(client.authorize_url().as_str(), MEMBERS[0]).await.unwrap();
        final_page.status == 500 && final_page.text.contains("rejects this server")
    })
    .await;
    patch(&kubectl, &secret, &json!({"stringData": {"OAUTH_CLIENT_SECRET": CLIENT_SECRET}}));
    eventually("the pods use the restored secret", || async { client.login(&browser, MEMBERS[0]).await.is_ok() }).await;
    assert_eq!(pods(&kubectl, name), before, "no pod was replaced or restarted");
    browser.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn deleted_or_edited_child_is_restored() {
    let environment = environment();
    let name = "repaired";
    let kubectl = environment.cluster.kubectl_program();
    environment.deploy_proxy(name, |spec| spec.replicas = Bounded::of::<1>()).await.unwrap();
    let config = || namespaced(&kubectl, &["get", "configmap", name, "--ignore-not-found", "-o", "jsonpath={.data}"]);
    let before = config();
    patch(&kubectl, &format!("configmap/{name}"), &json!({"data": {"config.yaml": "edited"}}));
    eventually("the edited ConfigMap is restored", || async { config() == before }).await;
    for child in ["configmap", "service", "rolebinding", "serviceaccount"] {
        namespaced(&kubectl, &["delete", child, name]);
        eventually(&format!("the deleted {child} is recreated"), || async {
            !namespaced(&kubectl, &["get", child, name, "--ignore-not-found", "-o", "name"]).is_empty()
        })
        .await;
    }
}
