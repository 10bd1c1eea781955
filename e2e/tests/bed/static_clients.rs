//! Static clients, and the Secret with such a client's secret.

use e2e::{
    environment::NAMESPACE,
    peers::{browser::Browser, context_forge::MEMBERS},
};
use mcp_oauth_operator::api::{Bounded, proxy::RedirectPolicy};
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::support::{Condition, REDIRECT_URI, ScriptedClient, environment, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn static_client_logs_in_with_its_secret_and_missing_secret_is_reported() {
    let environment = environment();
    let name = "static-client";
    let kubectl = environment.cluster.kubectl_program();
    let edge = environment.edge(name).await.unwrap();
    let api = environment.cluster.client().await.unwrap();
    environment.apply_credentials(&api, name).await.unwrap();
    let mut spec = environment.spec(name, &edge).unwrap();
    spec.replicas = Bounded::of::<1>();
    spec.clients.redirects.policy = RedirectPolicy::Known;
    let client = json!({
        "clientID": "chat",
        "secretRef": {"name": "chat-client", "key": "secret"},
        "redirectURIs": [REDIRECT_URI],
    });
    spec.clients.static_clients = vec![serde_json::from_value(client).unwrap()];
    environment.apply(&api, name, spec).await.unwrap();
    eventually("the missing Secret is reported", || async {
        let condition = Condition::get(&kubectl, name, "CredentialsReady");
        condition.reason == "ClientSecretMissing" && condition.message.contains("chat-client")
    })
    .await;
    let literal = "--from-literal=secret=open sesame";
    kubectl.output(&["--namespace", NAMESPACE, "create", "secret", "generic", "chat-client", literal]).unwrap();
    environment.wait_ready(name).unwrap();
    let proxy = environment.wait_until_reachable(name, edge).await.unwrap();

    let client = ScriptedClient::listed(&environment, &proxy, "chat");
    let browser = Browser::start(&environment.run).await.unwrap();
    let code = client.code(&browser, MEMBERS[0]).await.unwrap();
    browser.close().await.unwrap();
    let redeem = async |secret: Option<&str>| {
        let form = [("grant_type", "authorization_code"), ("code", &code), ("code_verifier", &client.verifier)];
        let request = client.http.post(format!("{}/token", client.origin));
        let request = match secret {
            Some(secret) => request.basic_auth("chat", Some(secret)).form(&form),
            None => request.form(&[&form[..], &[("client_id", &client.client_id)]].concat()),
        };
        let response = request.send().await.unwrap();
        (response.status(), response.json::<Value>().await.unwrap())
    };
    for wrong in [Some("open"), Some("chat"), None] {
        let (status, body) = redeem(wrong).await;
        assert_eq!((status, body["error"].as_str()), (StatusCode::UNAUTHORIZED, Some("invalid_client")), "{wrong:?}");
    }
    let (status, tokens) = redeem(Some("open sesame")).await;
    assert_eq!(status, StatusCode::OK, "{tokens}");
    let access = tokens["access_token"].as_str().unwrap();
    assert_eq!(client.call(access, &[]).await.status(), StatusCode::OK);
}
