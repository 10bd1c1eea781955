//! Credentials from a 1Password item, with the stand-in for 1Password's operator.

use e2e::{
    peers::{browser::Browser, context_forge::MEMBERS, one_password::OnePassword},
    stage::{CLIENT_ID, CLIENT_SECRET, ENCRYPTION_KEY, NAMESPACE},
};
use mcp_oauth_operator::api::proxy::OnePasswordSource;

use crate::support::{Condition, Scripted, eventually, stage};

const ITEM: &str = "vaults/bed/items/proxy";

#[tokio::test(flavor = "multi_thread")]
async fn one_password_item_provides_credentials_and_is_deleted_with_its_resource() {
    let stage = stage();
    let name = "one-password";
    let kubectl = stage.cluster.kubectl_program();
    let edge = stage.edge(name).await.unwrap();
    let client = stage.cluster.client().await.unwrap();
    let mut spec = stage.spec(name, &edge);
    spec.replicas = 1;
    spec.credentials.secret_ref = None;
    spec.credentials.one_password = Some(OnePasswordSource { item_path: ITEM.to_owned() });

    // 1Password's operator is not installed yet.
    stage.apply(&client, name, spec).await.unwrap();
    eventually("the missing CRD is reported", || async {
        Condition::of(&kubectl, name, "CredentialsReady").reason == "OnePasswordCRDMissing"
    })
    .await;

    let stand_in = OnePassword::up(&stage.run, &stage.cluster).await.unwrap();
    let fields = [
        ("OAUTH_CLIENT_ID", CLIENT_ID),
        ("OAUTH_CLIENT_SECRET", CLIENT_SECRET),
        ("ENCRYPTION_KEY", ENCRYPTION_KEY),
        ("notesPlain", "not for the pods"),
    ];
    stand_in.put(ITEM, &fields).unwrap();
    stage.wait_ready(name).unwrap();
    let front = stage.routed(name, edge).await.unwrap();
    let browser = Browser::start(&stage.run).await.unwrap();
    let scripted = Scripted::register(&stage, &front).await.unwrap();
    scripted.login(&browser, MEMBERS[0]).await.unwrap();
    browser.close().await.unwrap();

    kubectl.output(&["--namespace", NAMESPACE, "delete", "mop", name]).unwrap();
    eventually("the item and its Secret are gone", || async {
        let left = ["--namespace", NAMESPACE, "get", "onepassworditems,secrets", "-o", "name"];
        !kubectl.output(&left).unwrap().lines().any(|object| object.ends_with(&format!("/{name}")))
    })
    .await;
}
