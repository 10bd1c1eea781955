//! Credentials from a 1Password item, with the stand-in for 1Password's operator.

use e2e::{
    environment::{CLIENT_ID, CLIENT_SECRET, ENCRYPTION_KEY, NAMESPACE},
    peers::{browser::Browser, context_forge::MEMBERS, one_password::OnePassword},
};
use mcp_oauth_operator::api::Bounded;
use mcp_oauth_operator::api::proxy::OnePasswordSource;

use crate::support::{Condition, ScriptedClient, environment, eventually};

const ITEM: &str = "vaults/bed/items/proxy";

#[tokio::test(flavor = "multi_thread")]
async fn one_password_item_provides_credentials_and_is_deleted_with_its_resource() {
    let environment = environment();
    let name = "one-password";
    let kubectl = environment.cluster.kubectl_program();
    let edge = environment.edge(name).await.unwrap();
    let client = environment.cluster.client().await.unwrap();
    let mut spec = environment.spec(name, &edge).unwrap();
    spec.replicas = Bounded::of::<1>();
    spec.credentials.secret_ref = None;
    spec.credentials.one_password = Some(OnePasswordSource { item_path: ITEM.parse().unwrap() });

    // 1Password's operator is not installed yet.
    environment.apply(&client, name, spec).await.unwrap();
    eventually("the missing CRD is reported", || async {
        Condition::get(&kubectl, name, "CredentialsReady").reason == "OnePasswordCRDMissing"
    })
    .await;

    let stand_in = OnePassword::up(&environment.run, &environment.cluster).await.unwrap();
    let fields = [
        ("OAUTH_CLIENT_ID", CLIENT_ID),
        ("OAUTH_CLIENT_SECRET", CLIENT_SECRET),
        ("ENCRYPTION_KEY", ENCRYPTION_KEY),
        ("notesPlain", "not for the pods"),
    ];
    stand_in.put(ITEM, &fields).unwrap();
    environment.wait_ready(name).unwrap();
    let proxy = environment.wait_until_reachable(name, edge).await.unwrap();
    let browser = Browser::start(&environment.run).await.unwrap();
    let scripted = ScriptedClient::register(&environment, &proxy).await.unwrap();
    scripted.login(&browser, MEMBERS[0]).await.unwrap();
    browser.close().await.unwrap();

    kubectl.output(&["--namespace", NAMESPACE, "delete", "mop", name]).unwrap();
    eventually("the item and its Secret are gone", || async {
        let left = ["--namespace", NAMESPACE, "get", "onepassworditems,secrets", "-o", "name"];
        !kubectl.output(&left).unwrap().lines().any(|object| object.ends_with(&format!("/{name}")))
    })
    .await;
}
