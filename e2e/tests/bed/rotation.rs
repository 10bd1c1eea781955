//! Rotation of signing and encryption keys.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD, prelude::BASE64_URL_SAFE_NO_PAD};
use e2e::{
    peers::{browser::Browser, context_forge::MEMBERS, http, inside::inside},
    stage::{ENCRYPTION_KEY, NAMESPACE, Stage, credentials_name},
};
use jiff::{SignedDuration, Timestamp};
use mcp_oauth_operator::crypto::{SIGNS_FOR, SigningKeys};
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::support::{Scripted, Tokens, eventually, eventually_within, pods, stage};

const NAME: &str = "rotation";

fn read(stage: &Stage) -> SigningKeys {
    let secret = format!("{NAME}-signing-keys");
    let words = ["--namespace", NAMESPACE, "get", "secret", &secret, "-o", "jsonpath={.data.keys\\.json}"];
    let text = stage.cluster.kubectl_program().output(&words).unwrap();
    SigningKeys::parse(&STANDARD.decode(text.trim()).unwrap()).unwrap()
}

/// Replaces the keys, to simulate the passing of time.
fn write(stage: &Stage, keys: &SigningKeys) {
    let kubectl = stage.cluster.kubectl_program();
    let patch = json!({"stringData": {"keys.json": keys.to_json().unwrap()}}).to_string();
    let secret = format!("{NAME}-signing-keys");
    kubectl.output(&["--namespace", NAMESPACE, "patch", "secret", &secret, "--type=merge", "--patch", &patch]).unwrap();
}

/// The number of keys that a pod publishes.
async fn published(stage: &Stage, pod: &str) -> usize {
    let url = format!("http://{pod}:8080/jwks");
    let asked =
        inside(
            &stage.run,
            move || async move { Ok(http::client(None)?.get(url).send().await?.json::<Value>().await?) },
        );
    asked.await.unwrap()["keys"].as_array().unwrap().len()
}

fn kid(token: &str) -> String {
    let header = BASE64_URL_SAFE_NO_PAD.decode(token.split('.').next().unwrap()).unwrap();
    serde_json::from_slice::<Value>(&header).unwrap()["kid"].as_str().unwrap().to_owned()
}

/// Asserts that every pod accepts all tokens.
async fn every_pod_takes(stage: &Stage, client: &Scripted, tokens: &[&str]) {
    let pods = pods(stage, NAME);
    assert_eq!(pods.len(), 2);
    for (pod, token) in pods.iter().flat_map(|pod| tokens.iter().map(move |token| (pod, token))) {
        assert_eq!(client.call_pod(stage, pod, token).await, StatusCode::OK, "{pod} {}", kid(token));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn signing_key_rotation_refuses_no_token() {
    let stage = stage();
    let front = stage.front(NAME, |_| ()).await.unwrap();
    let client = Scripted::register(&stage, &front).await.unwrap();
    let browser = Browser::start(&stage.run).await.unwrap();
    let first = client.login(&browser, MEMBERS[0]).await.unwrap();
    browser.close().await.unwrap();
    every_pod_takes(&stage, &client, &[&first.access]).await;
    let stage = &stage;

    let mut keys = read(stage);
    keys.keys[0].use_from = Timestamp::now() - SIGNS_FOR - SignedDuration::from_hours(1);
    write(stage, &keys);
    // A change triggers a reconcile before the next resync.
    let change = json!({"spec": {"sessions": {"maxPerUser": 19}}}).to_string();
    let kubectl = stage.cluster.kubectl_program();
    kubectl.output(&["--namespace", NAMESPACE, "patch", "mop", NAME, "--type=merge", "--patch", &change]).unwrap();
    eventually("the operator adds a key", || async { read(stage).keys.len() == 2 }).await;
    stage.wait_ready(NAME).unwrap();
    let mut keys = read(stage);
    assert!(keys.keys[1].use_from > Timestamp::now() + SignedDuration::from_mins(5), "a key is published before it signs");
    eventually("the old pods are gone", || async { pods(stage, NAME).len() == 2 }).await;
    for pod in &pods(stage, NAME) {
        eventually("a pod publishes the new key", || async { published(stage, pod).await == 2 }).await;
    }
    let second = client.refresh(&first.refresh).await.unwrap();
    assert_eq!(kid(&second.access), keys.keys[0].kid, "the old key signs until useFrom of the new one");

    keys.keys[1].use_from = Timestamp::now();
    write(stage, &keys);
    // The pods load the keys at different times; meanwhile both keys sign.
    eventually("both pods sign with the new key", || async {
        every_pod_takes(stage, &client, &[&first.access, &second.access]).await;
        let mut signed = Vec::new();
        for pod in pods(stage, NAME) {
            signed.push(client.refresh_at(stage, &pod, &second.refresh).await.unwrap());
        }
        let tokens: Vec<&str> = signed.iter().map(|tokens| tokens.access.as_str()).collect();
        every_pod_takes(stage, &client, &tokens).await;
        tokens.iter().all(|token| kid(token) == keys.keys[1].kid)
    })
    .await;
    let newest = client.refresh(&second.refresh).await.unwrap();
    every_pod_takes(stage, &client, &[&first.access, &second.access, &newest.access]).await;
}

/// Refreshes at each pod in turn, and asserts that every pod accepts the tokens of the others.
async fn refreshed_everywhere(stage: &Stage, proxy: &str, client: &Scripted, mut tokens: Tokens) -> Tokens {
    for pod in &pods(stage, proxy) {
        tokens = client.refresh_at(stage, pod, &tokens.refresh).await.unwrap();
        for other in &pods(stage, proxy) {
            assert_eq!(client.call_pod(stage, other, &tokens.access).await, StatusCode::OK, "{other}");
        }
    }
    tokens
}

#[tokio::test(flavor = "multi_thread")]
async fn encryption_key_rotation_is_unnoticed_by_clients() {
    let (stage, name) = (&stage(), "encryption-key");
    let front = stage.front(name, |_| ()).await.unwrap();
    let (old, browser) = (Scripted::register(stage, &front).await.unwrap(), Browser::start(&stage.run).await.unwrap());
    let mut tokens = old.login(&browser, MEMBERS[0]).await.unwrap();
    let ran = pods(stage, name);
    assert_eq!(ran.len(), 2);

    let kubectl = stage.cluster.kubectl_program();
    let secret = credentials_name(name);
    let change = |patch: &Value| {
        let patch = patch.to_string();
        let words = ["--namespace", NAMESPACE, "patch", "secret", &secret, "--type=merge", "--patch", &patch];
        kubectl.output(&words).unwrap();
    };
    // The number of matching lines in the logs of both pods.
    let said = |what: &str| {
        let selector = format!("app.kubernetes.io/name={name}");
        let words = ["--namespace", NAMESPACE, "logs", "--selector", &selector, "--tail=-1", "--prefix"];
        kubectl.output(&words).unwrap().lines().filter(|line| line.contains(what)).count()
    };
    let next = STANDARD.encode([7; 32]);
    change(&json!({"stringData": {"ENCRYPTION_KEY": next, "PREVIOUS_ENCRYPTION_KEY": ENCRYPTION_KEY}}));
    // The pods load it at different times.
    for (limit, what) in [(3, "changed credentials or keys are now used"), (8, "now seals new values")] {
        eventually_within(Duration::from_secs(limit * 60), what, || async { said(what) == 2 }).await;
        tokens = refreshed_everywhere(stage, name, &old, tokens).await;
    }
    let new = Scripted::register(stage, &front).await.unwrap();
    let others = new.login(&browser, MEMBERS[1]).await.unwrap();
    let others = refreshed_everywhere(stage, name, &new, others).await;
    old.login(&browser, MEMBERS[0]).await.unwrap();
    browser.close().await.unwrap();

    // Without the previous key, values that it sealed are rejected and newer ones are not: the keys have really
    // changed.
    change(&json!({"data": {"PREVIOUS_ENCRYPTION_KEY": null}}));
    eventually("both pods reject the client of the previous key", || async {
        let mut refused = 0;
        for pod in &ran {
            refused += usize::from(old.refresh_at(stage, pod, &tokens.refresh).await.is_err());
        }
        refused == 2
    })
    .await;
    refreshed_everywhere(stage, name, &new, others).await;
    assert_eq!(pods(stage, name), ran, "no pod was replaced");
}
