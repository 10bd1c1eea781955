//! A replica whose watch of the sessions is disturbed on its way (`e2e/src/peers/api_relay.rs`): it neither lets an ended
//! session through for long, nor refuses a live one. It is a third replica beside the two pods, outside of the cluster.

use std::{
    fs,
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use axum::Router;
use e2e::{
    forward::{free_port, this_program},
    peers::{
        api_relay::{ApiRelay, Watches},
        browser::Browser,
        context_forge::MEMBERS,
        http,
    },
    stage::{NAMESPACE, Stage, credentials_name},
};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{Api, api::DeleteParams};
use mcp_oauth_operator::api::McpOAuthSession;
use reqwest::StatusCode;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    net::TcpListener,
    process::{Child, Command},
};

use crate::support::{Scripted, eventually, sessions, stage};

/// An ended session may be let through for this long while the API server can be asked (architecture.md).
const BOUND: Duration = Duration::from_secs(15);

/// What looking costs, on a machine that is busy.
const SLACK: Duration = Duration::from_secs(2);

/// The replica. It ends with this.
struct Replica {
    relay: ApiRelay,
    url: String,
    health: String,
    _process: Child,
    _folder: TempDir,
}

async fn secret(stage: &Stage, name: &str, folder: &Path) {
    let secrets: Api<Secret> = Api::namespaced(stage.cluster.client().await.unwrap(), NAMESPACE);
    fs::create_dir_all(folder).unwrap();
    for (key, value) in secrets.get(name).await.unwrap().data.unwrap_or_default() {
        fs::write(folder.join(key), value.0).unwrap();
    }
}

impl Replica {
    /// Starts it with the configuration and the keys of the proxy's pods. Its upstream answers everything with 200.
    async fn start(stage: &Stage, proxy: &str) -> Self {
        let upstream = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let upstream_url = format!("http://{}", upstream.local_addr().unwrap());
        tokio::spawn(async { axum::serve(upstream, Router::new().fallback(async || "{}")).await });
        let client = stage.cluster.client().await.unwrap();
        let relay = ApiRelay::up(client.clone()).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        relay.write_kubeconfig(&at("kubeconfig")).unwrap();
        secret(stage, &credentials_name(proxy), &at("credentials")).await;
        secret(stage, &format!("{proxy}-signing-keys"), &at("keys")).await;
        let maps: Api<ConfigMap> = Api::namespaced(client, NAMESPACE);
        let data = maps.get(proxy).await.unwrap().data.unwrap();
        let mut configuration: Value = serde_yaml::from_str(&data["config.yaml"]).unwrap();
        let (listen, health) = (free_port().unwrap(), free_port().unwrap());
        configuration["listen"] = json!(format!("127.0.0.1:{listen}"));
        configuration["healthListen"] = json!(format!("127.0.0.1:{health}"));
        configuration["credentials"]["directory"] = json!(at("credentials"));
        let keys = configuration["signingKeys"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
        configuration["signingKeys"] = json!(at("keys").join(keys));
        configuration["upstream"]["url"] = json!(upstream_url);
        fs::write(at("config.yaml"), serde_yaml::to_string(&configuration).unwrap()).unwrap();

        let log = fs::File::create(stage.run.log("replica-behind-relay")).unwrap();
        let mut command = Command::new(this_program().unwrap().with_file_name("mcp-oauth-operator"));
        command.arg("proxy").arg("--config").arg(at("config.yaml")).env("KUBECONFIG", at("kubeconfig"));
        command.stdout(log.try_clone().unwrap()).stderr(log).stdin(Stdio::null()).kill_on_drop(true);
        let process = command.spawn().unwrap();
        let url = format!("http://127.0.0.1:{listen}/mcp");
        let replica =
            Self { relay, url, health: format!("http://127.0.0.1:{health}"), _process: process, _folder: folder };
        eventually("the replica is ready", || async { replica.is_ready().await }).await;
        replica
    }

    async fn is_ready(&self) -> bool {
        let asked = http::client(None).unwrap().get(format!("{}/readyz", self.health)).send().await;
        asked.is_ok_and(|answer| answer.status().is_success())
    }

    async fn status(&self, access: &str) -> StatusCode {
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": "ping"});
        let request = http::client(None).unwrap().post(&self.url).bearer_auth(access).json(&body);
        request.send().await.unwrap().status()
    }
}

/// Deletes the session, and measures how long its token is let through. A session that lives on is answered all the while.
async fn end(stage: &Stage, replica: &Replica, ended: (&str, &str), living: &str) -> Duration {
    let api: Api<McpOAuthSession> = Api::namespaced(stage.cluster.client().await.unwrap(), NAMESPACE);
    let (name, access) = ended;
    assert_eq!(replica.status(access).await, StatusCode::OK);
    api.delete(name, &DeleteParams::default()).await.unwrap();
    let deleted = Instant::now();
    loop {
        assert_eq!(replica.status(living).await, StatusCode::OK, "a session that lives");
        let status = replica.status(access).await;
        if status == StatusCode::UNAUTHORIZED || deleted.elapsed() > BOUND * 2 {
            return deleted.elapsed();
        }
        assert_eq!(status, StatusCode::OK);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disturbed_watch_lets_no_ended_session_through_for_long_and_refuses_no_live_one() {
    let stage = stage();
    let name = "watched";
    let front = stage.front(name, |_| ()).await.unwrap();
    let replica = Replica::start(&stage, name).await;
    let browser = Browser::start(&stage.run).await.unwrap();
    let client = Scripted::register(&stage, &front).await.unwrap();
    let living = client.login(&browser, MEMBERS[0]).await.unwrap();
    let mut known: Vec<String> = names(&stage, name).await;

    for watches in [
        Watches::Pass,
        Watches::Hold,
        Watches::Cut,
        Watches::Expire,
        Watches::Delay(Duration::from_secs(8)),
        Watches::Delay(Duration::from_secs(40)),
    ] {
        // A login that was finished at a pod while this replica's watch said nothing of it.
        replica.relay.set(watches);
        let tokens = client.login(&browser, MEMBERS[0]).await.unwrap();
        assert_eq!(replica.status(&tokens.access).await, StatusCode::OK, "{watches:?}: a new session");
        let all = names(&stage, name).await;
        let new = all.iter().find(|name| !known.contains(name)).unwrap().clone();
        known = all;

        // Let through by the watch, so that only the watch can end it.
        replica.relay.set(Watches::Pass);
        eventually("the watch shows the new session", || async { replica.sessions().await == known.len() }).await;
        replica.relay.set(watches);
        let passed = end(&stage, &replica, (&new, &tokens.access), &living.access).await;
        eprintln!("{watches:?}: an ended session was let through for {} ms", passed.as_millis());
        assert!(passed <= BOUND + SLACK, "{watches:?}: {passed:?}");
        known.retain(|name| *name != new);
        replica.relay.set(Watches::Pass);
    }
    browser.close().await.unwrap();
}

async fn names(stage: &Stage, proxy: &str) -> Vec<String> {
    sessions(stage, proxy).await.into_iter().filter_map(|session| session.metadata.name).collect()
}

impl Replica {
    /// How many sessions its watch has shown, as its metrics say.
    async fn sessions(&self) -> usize {
        let asked = http::client(None).unwrap().get(format!("{}/metrics", self.health)).send().await.unwrap();
        let text = asked.text().await.unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("mcp_oauth_proxy_sessions "));
        line.and_then(|count| count.parse().ok()).unwrap()
    }
}
