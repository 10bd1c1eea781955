//! Rotation of signing and encryption keys.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD, prelude::BASE64_URL_SAFE_NO_PAD};
use e2e::{
    environment::{ENCRYPTION_KEY, Environment, NAMESPACE, credentials_name},
    peers::{browser::Browser, context_forge::MEMBERS, http, netns::run_in_netns},
};
use jiff::{SignedDuration, Timestamp};
use mcp_oauth_operator::crypto::{SIGNS_FOR, SigningKeys};
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::support::{ScriptedClient, Tokens, environment, eventually, eventually_within, pods};

const NAME: &str = "rotation";

fn read(environment: &Environment) -> SigningKeys {
    let secret = format!("{NAME}-signing-keys");
    let words = ["--namespace", NAMESPACE, "get", "secret", &secret, "-o", "jsonpath={.data.keys\\.json}"];
    let text = environment.cluster.kubectl_program().output(&words).unwrap();
    SigningKeys::parse(&STANDARD.decode(text.trim()).unwrap()).unwrap()
}

/// Replaces the keys, to simulate the passing of time.
fn write(environment: &Environment, keys: &SigningKeys) {
    let kubectl = environment.cluster.kubectl_program();
    let patch = json!({"stringData": {"keys.json": keys.to_json().unwrap()}}).to_string();
    let secret = format!("{NAME}-signing-keys");
    kubectl.output(&["--namespace", NAMESPACE, "patch", "secret", &secret, "--type=merge", "--patch", &patch]).unwrap();
}

/// The number of keys that a pod publishes.
async fn published(environment: &Environment, pod: &str) -> usize {
    let url = format!("http://{pod}:8080/jwks");
    let document = run_in_netns(&environment.run, move || async move {
        Ok(http::client(None)?.get(url).send().await?.json::<Value>().await?)
    });
    document.await.unwrap()["keys"].as_array().unwrap().len()
}

fn kid(token: &str) -> String {
    let header = BASE64_URL_SAFE_NO_PAD.decode(token.split('.').next().unwrap()).unwrap();
    serde_json::from_slice::<Value>(&header).unwrap()["kid"].as_str().unwrap().to_owned()
}

/// Asserts that every pod accepts all tokens.
async fn assert_every_pod_accepts(environment: &Environment, client: &ScriptedClient, tokens: &[&str]) {
    let pods = pods(environment, NAME);
    assert_eq!(pods.len(), 2);
    for (pod, token) in pods.iter().flat_map(|pod| tokens.iter().map(move |token| (pod, token))) {
        assert_eq!(client.call_pod(environment, pod, token).await, StatusCode::OK, "{pod} {}", kid(token));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn signing_key_rotation_rejects_no_token() {
    let environment = environment();
    let proxy = environment.deploy_proxy(NAME, |_| ()).await.unwrap();
    let client = ScriptedClient::register(&environment, &proxy).await.unwrap();
    let browser = Browser::start(&environment.run).await.unwrap();
    let first = client.login(&browser, MEMBERS[0]).await.unwrap();
    browser.close().await.unwrap();
    assert_every_pod_accepts(&environment, &client, &[&first.access]).await;
    let environment = &environment;

    let mut keys = read(environment);
    keys.keys[0].use_from = Timestamp::now() - SIGNS_FOR - SignedDuration::from_hours(1);
    write(environment, &keys);
    // A change triggers a reconcile before the next resync.
    let change = json!({"spec": {"sessions": {"maxPerUser": 19}}}).to_string();
    let kubectl = environment.cluster.kubectl_program();
    kubectl.output(&["--namespace", NAMESPACE, "patch", "mop", NAME, "--type=merge", "--patch", &change]).unwrap();
    eventually("the operator adds a key", || async { read(environment).keys.len() == 2 }).await;
    environment.wait_ready(NAME).unwrap();
    let mut keys = read(environment);
    assert!(
        keys.keys[1].use_from > Timestamp::now() + SignedDuration::from_mins(5),
        "a key is published before it signs"
    );
    eventually("the old pods are gone", || async { pods(environment, NAME).len() == 2 }).await;
    for pod in &pods(environment, NAME) {
        eventually("a pod publishes the new key", || async { published(environment, pod).await == 2 }).await;
    }
    let second = client.refresh(&first.refresh).await.unwrap();
    assert_eq!(kid(&second.access), keys.keys[0].kid, "the old key signs until useFrom of the new one");

    keys.keys[1].use_from = Timestamp::now();
    write(environment, &keys);
    // The pods load the keys at different times; meanwhile both keys sign.
    eventually("both pods sign with the new key", || async {
        assert_every_pod_accepts(environment, &client, &[&first.access, &second.access]).await;
        let mut signed = Vec::new();
        for pod in pods(environment, NAME) {
            signed.push(client.refresh_at(environment, &pod, &second.refresh).await.unwrap());
        }
        let tokens: Vec<&str> = signed.iter().map(|tokens| tokens.access.as_str()).collect();
        assert_every_pod_accepts(environment, &client, &tokens).await;
        tokens.iter().all(|token| kid(token) == keys.keys[1].kid)
    })
    .await;
    let newest = client.refresh(&second.refresh).await.unwrap();
    assert_every_pod_accepts(environment, &client, &[&first.access, &second.access, &newest.access]).await;
}

/// Refreshes at each pod in turn, and asserts that every pod accepts the tokens of the others.
async fn refresh_at_every_pod(
    environment: &Environment,
    proxy: &str,
    client: &ScriptedClient,
    mut tokens: Tokens,
) -> Tokens {
    for pod in &pods(environment, proxy) {
        tokens = client.refresh_at(environment, pod, &tokens.refresh).await.unwrap();
        for other in &pods(environment, proxy) {
            assert_eq!(client.call_pod(environment, other, &tokens.access).await, StatusCode::OK, "{other}");
        }
    }
    tokens
}

#[tokio::test(flavor = "multi_thread")]
async fn encryption_key_rotation_is_unnoticed_by_clients() {
    let (environment, name) = (&environment(), "encryption-key");
    let proxy = environment.deploy_proxy(name, |_| ()).await.unwrap();
    let (old, browser) =
        (ScriptedClient::register(environment, &proxy).await.unwrap(), Browser::start(&environment.run).await.unwrap());
    let mut tokens = old.login(&browser, MEMBERS[0]).await.unwrap();
    let pods_before = pods(environment, name);
    assert_eq!(pods_before.len(), 2);

    let kubectl = environment.cluster.kubectl_program();
    let secret = credentials_name(name);
    let change = |patch: &Value| {
        let patch = patch.to_string();
        let words = ["--namespace", NAMESPACE, "patch", "secret", &secret, "--type=merge", "--patch", &patch];
        kubectl.output(&words).unwrap();
    };
    // The number of matching lines in the logs of both pods.
    let log_count = |what: &str| {
        let selector = format!("app.kubernetes.io/name={name}");
        let words = ["--namespace", NAMESPACE, "logs", "--selector", &selector, "--tail=-1", "--prefix"];
        kubectl.output(&words).unwrap().lines().filter(|line| line.contains(what)).count()
    };
    let next = STANDARD.encode([7; 32]);
    change(&json!({"stringData": {"ENCRYPTION_KEY": next, "PREVIOUS_ENCRYPTION_KEY": ENCRYPTION_KEY}}));
    // The pods load it at different times.
    for (limit, what) in [(3, "reloaded credentials and keys"), (8, "is used for sealing")] {
        eventually_within(Duration::from_secs(limit * 60), what, || async { log_count(what) == 2 }).await;
        tokens = refresh_at_every_pod(environment, name, &old, tokens).await;
    }
    let new = ScriptedClient::register(environment, &proxy).await.unwrap();
    let others = new.login(&browser, MEMBERS[1]).await.unwrap();
    let others = refresh_at_every_pod(environment, name, &new, others).await;
    old.login(&browser, MEMBERS[0]).await.unwrap();
    browser.close().await.unwrap();

    // Without the previous key, values that it sealed are rejected and newer ones are not: the keys have really
    // changed.
    change(&json!({"data": {"PREVIOUS_ENCRYPTION_KEY": null}}));
    eventually("both pods reject the client of the previous key", || async {
        let mut refused = 0;
        for pod in &pods_before {
            refused += usize::from(old.refresh_at(environment, pod, &tokens.refresh).await.is_err());
        }
        refused == 2
    })
    .await;
    refresh_at_every_pod(environment, name, &new, others).await;
    assert_eq!(pods(environment, name), pods_before, "no pod was replaced");
}
