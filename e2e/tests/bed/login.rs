use std::time::{Duration, Instant};

use e2e::{
    cluster::Kubectl,
    environment::NAMESPACE,
    peers::{
        browser::Browser,
        context_forge::{MEMBERS, TOOL},
        json_lines::User,
        mcp_remote::McpRemote,
        sdk::{Sdk, SdkVersion},
    },
};
use mcp_oauth_operator::api::Bounded;
use reqwest::StatusCode;
use serde_json::json;

use crate::support::{ScriptedClient, environment, sessions};

#[tokio::test(flavor = "multi_thread")]
async fn mcp_remote_keeps_its_login_across_pod_restarts() {
    let environment = environment();
    let proxy = environment.deploy_proxy("mcp-remote", |_| ()).await.unwrap();
    let browser = Browser::start(&environment.run).await.unwrap();
    let user = User { browser: &browser, email: MEMBERS[0] };
    let client = McpRemote::install(&environment.run, "restart").await.unwrap();

    let mut connection = client.connect(&proxy.url(), Some(user), &[]).await.unwrap();
    assert_eq!(connection.logins(), 1);
    let response = connection.call(TOOL, json!({"message": "before"})).await.unwrap();
    assert!(response.contains("before"), "{response}");
    drop(connection);

    let kubectl = environment.cluster.kubectl_program();
    let deployment = "deployment/mcp-remote";
    kubectl.output(&["--namespace", NAMESPACE, "rollout", "restart", deployment]).unwrap();
    kubectl.output(&["--namespace", NAMESPACE, "rollout", "status", deployment, "--timeout=120s"]).unwrap();
    let mut again = client.connect(&proxy.url(), None, &[]).await.unwrap();
    let response = again.call(TOOL, json!({"message": "after"})).await.unwrap();
    assert!(response.contains("after"), "{response}");
    assert_eq!(again.logins(), 0);
    drop(again);

    // The kill switch: the client has to log in again.
    let session = sessions(&environment, "mcp-remote").await.remove(0).metadata.name.unwrap();
    kubectl.output(&["--namespace", NAMESPACE, "delete", "mcpsession", &session]).unwrap();
    let mut third = client.connect(&proxy.url(), Some(user), &[]).await.unwrap();
    third.call(TOOL, json!({"message": "third"})).await.unwrap();
    assert_eq!(third.logins(), 1);
    drop(third);
    browser.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn python_sdk_logs_in_and_calls_a_tool() {
    let environment = environment();
    let proxy = environment.deploy_proxy("python-sdk", |spec| spec.replicas = Bounded::of::<1>()).await.unwrap();
    let browser = Browser::start(&environment.run).await.unwrap();
    let user = User { browser: &browser, email: MEMBERS[1] };
    let client = Sdk::install(&environment.run, SdkVersion::Python2, "login").await.unwrap();
    let called = client.call(&proxy.url(), Some(user), TOOL, &json!({"message": "hello"})).await.unwrap();
    assert!(!called.error && called.logins == 1, "{called:?}");
    assert!(called.text.iter().any(|text| text.contains("hello")), "{called:?}");
    browser.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn context_forge_receives_the_accounts_email_and_no_client_identity_headers() {
    let environment = environment();
    let proxy = environment.deploy_proxy("identity", |spec| spec.replicas = Bounded::of::<1>()).await.unwrap();
    let browser = Browser::start(&environment.run).await.unwrap();
    let client = ScriptedClient::register(&environment, &proxy).await.unwrap();
    let tokens = client.login(&browser, MEMBERS[0]).await.unwrap();
    let marker = "marker-of-the-identity-test";
    let response = client
        .call(
            &tokens.access,
            &[
                ("user-agent", marker),
                ("X-Forwarded-User", "admin@example.com"),
                ("x_forwarded_user", "admin@example.com"),
                ("X-Forwarded-Email", "admin@example.com"),
                ("Cookie", "jwt_token=x"),
            ],
        )
        .await;
    assert_eq!(response.status(), StatusCode::OK);
    let requests = environment.tap.requests().unwrap();
    let ours = requests.iter().find(|request| request.header("user-agent") == [marker]).unwrap();
    assert_eq!(ours.header("x-forwarded-user"), [MEMBERS[0]]);
    assert_eq!(ours.header("x-forwarded-email"), [MEMBERS[0]]);
    for absent in ["authorization", "cookie", "x_forwarded_user"] {
        assert_eq!(ours.header(absent), Vec::<&str>::new(), "{absent}");
    }
    browser.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn login_works_at_both_replicas_immediately() {
    let environment = environment();
    let proxy = environment.deploy_proxy("replicas", |spec| spec.replicas = Bounded::of::<2>()).await.unwrap();
    let kubectl = environment.cluster.kubectl_program();
    kubectl.output(&["--namespace", NAMESPACE, "rollout", "status", "deployment/replicas", "--timeout=120s"]).unwrap();
    let browser = Browser::start(&environment.run).await.unwrap();
    let client = ScriptedClient::register(&environment, &proxy).await.unwrap();
    let tokens = client.login(&browser, MEMBERS[0]).await.unwrap();
    let pods = pod_addresses(&kubectl, "replicas");
    assert_eq!(pods.len(), 2, "{pods:?}");
    for pod in &pods {
        assert_eq!(client.call_pod(&environment, pod, &tokens.access).await, StatusCode::OK, "{pod}");
    }

    // The kill switch works on every replica within a second, plus the time of `kubectl` and a call.
    let session = sessions(&environment, "replicas").await.remove(0).metadata.name.unwrap();
    kubectl.output(&["--namespace", NAMESPACE, "delete", "mcpsession", &session]).unwrap();
    let deleted = Instant::now();
    for pod in &pods {
        while client.call_pod(&environment, pod, &tokens.access).await != StatusCode::UNAUTHORIZED {
            assert!(deleted.elapsed() < Duration::from_secs(10), "{pod} still accepts the deleted session");
        }
    }
    browser.close().await.unwrap();
}

fn pod_addresses(kubectl: &Kubectl, proxy: &str) -> Vec<String> {
    let selector = format!("app.kubernetes.io/name={proxy}");
    let addresses = "jsonpath={.items[*].status.podIP}";
    let output =
        kubectl.output(&["--namespace", NAMESPACE, "get", "pods", "--selector", &selector, "-o", addresses]).unwrap();
    output.split_whitespace().map(str::to_owned).collect()
}
