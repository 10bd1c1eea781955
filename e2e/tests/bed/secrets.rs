//! Operator and pods log no secret at trace level.

use std::process::Command;

use base64::{Engine, engine::general_purpose::STANDARD};
use e2e::{
    environment::{CLIENT_SECRET, ENCRYPTION_KEY, NAMESPACE},
    operator,
    peers::{browser::Browser, context_forge::MEMBERS},
    program,
};
use mcp_oauth_operator::api::Bounded;
use mcp_oauth_operator::{api::proxy::RecheckOnRefresh, crypto::SigningKeys};

use crate::support::{ScriptedClient, environment, sessions};

#[tokio::test(flavor = "multi_thread")]
async fn operator_and_pods_log_no_secret() {
    let environment = environment();
    let name = "no-secrets";
    let proxy = environment
        .deploy_proxy(name, |spec| {
            spec.replicas = Bounded::of::<1>();
            spec.identity_provider.recheck_on_refresh = RecheckOnRefresh::Enabled;
        })
        .await
        .unwrap();
    let client = ScriptedClient::register(&environment, &proxy).await.unwrap();
    let browser = Browser::start(&environment.run).await.unwrap();
    let code = client.code(&browser, MEMBERS[1]).await.unwrap();
    browser.close().await.unwrap();
    let pod = &crate::support::pods(&environment, name)[0];
    let first = client.redeem_at(&environment, pod, &code).await.unwrap();
    let second = client.refresh(&first.refresh).await.unwrap();
    let upstream = sessions(&environment, name).await.remove(0).spec.issuer_refresh_token.unwrap();

    let kubectl = environment.cluster.kubectl_program();
    let keys = "jsonpath={.data.keys\\.json}";
    let secret = format!("{name}-signing-keys");
    let keys = kubectl.output(&["--namespace", NAMESPACE, "get", "secret", &secret, "-o", keys]).unwrap();
    let signing = SigningKeys::parse(&STANDARD.decode(keys.trim()).unwrap()).unwrap().keys.remove(0).private_key;
    let mut secrets = vec![
        ("the client secret", CLIENT_SECRET.to_owned()),
        ("the client secret in base64", STANDARD.encode(CLIENT_SECRET)),
        ("the encryption key", ENCRYPTION_KEY.to_owned()),
        ("the encryption key in base64", STANDARD.encode(ENCRYPTION_KEY)),
        ("the signing keys in base64", keys.trim().to_owned()),
        ("a signing key", signing),
        ("a code", code),
        ("the sealed refresh token of the issuer", upstream),
    ];
    for tokens in [first, second] {
        secrets.extend([("an access token", tokens.access), ("a refresh token", tokens.refresh)]);
    }
    for response in environment.provider.token_responses().unwrap() {
        for member in ["access_token", "refresh_token", "id_token"] {
            secrets.extend(response[member].as_str().map(|token| ("a token of the issuer", token.to_owned())));
        }
    }
    // A trace log is long: kubectl shows only the part since the kubelet's last log rotation.
    let folder = environment.run.logs().join("pods");
    let all = format!("zcat --force '{}'/{}_*/operator/*", folder.display(), operator::NAMESPACE);
    let operator_log = program::output(Command::new("sh").args(["-c", &all])).unwrap();
    assert!(
        operator_log.contains("\"TRACE\"") && operator_log.contains(name),
        "the operator's log is not at trace level"
    );
    let deployment = format!("deployment/{name}");
    let pod_log = kubectl.output(&["--namespace", NAMESPACE, "logs", &deployment, "--tail=-1"]).unwrap();
    assert!(pod_log.contains("logged in"), "{pod_log}");
    for (log, component) in [(operator_log, "the operator"), (pod_log, "a pod")] {
        for (what, secret) in &secrets {
            assert!(!log.contains(secret.as_str()), "the log of {component} contains {what}");
        }
    }
}
