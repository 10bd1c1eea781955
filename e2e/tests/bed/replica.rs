//! A third replica of a proxy, outside the cluster. Its connection to the API server can be disturbed.

use std::{convert::Infallible, fs, path::Path, process::Stdio, time::Duration};

use axum::{
    Router,
    body::Body,
    http::{Method, header::CONTENT_TYPE},
    response::IntoResponse,
};
use e2e::{
    environment::{Environment, NAMESPACE, credentials_name},
    forward::{free_port, operator_program},
    peers::{api_relay::ApiRelay, http},
};
use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::Api;
use reqwest::{Response, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    net::TcpListener,
    process::{Child, Command},
    sync::broadcast,
};

use crate::support::eventually;

/// A running replica. It is killed when dropped.
pub struct Replica {
    pub relay: ApiRelay,
    pub url: String,
    events: broadcast::Sender<&'static str>,
    origin: String,
    health: String,
    _process: Child,
    _folder: TempDir,
}

async fn write_secret(environment: &Environment, name: &str, folder: &Path) {
    let secrets: Api<Secret> = Api::namespaced(environment.cluster.client().await.unwrap(), NAMESPACE);
    fs::create_dir_all(folder).unwrap();
    for (key, value) in secrets.get(name).await.unwrap().data.unwrap_or_default() {
        fs::write(folder.join(key), value.0).unwrap();
    }
}

impl Replica {
    /// Starts a replica with the keys and the configuration of the proxy's pods, modified by `change`. Its upstream
    /// responds to GET with a stream ([`Self::send_event`]), and to everything else with 200.
    pub async fn start(environment: &Environment, proxy: &str, change: impl FnOnce(&mut Value)) -> Self {
        let upstream = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let upstream_url = format!("http://{}", upstream.local_addr().unwrap());
        let (events, _) = broadcast::channel(16);
        let event_source = events.clone();
        let respond = async move |method: Method| {
            if method != Method::GET {
                return "{}".into_response();
            }
            let events =
                stream::unfold(event_source.subscribe(), async |mut events| Some((events.recv().await.ok()?, events)));
            let events = Body::from_stream(events.map(Ok::<_, Infallible>));
            ([(CONTENT_TYPE, "text/event-stream")], events).into_response()
        };
        tokio::spawn(async { axum::serve(upstream, Router::new().fallback(respond)).await });
        let client = environment.cluster.client().await.unwrap();
        let relay = ApiRelay::up(client.clone()).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        relay.write_kubeconfig(&at("kubeconfig")).unwrap();
        write_secret(environment, &credentials_name(proxy), &at("credentials")).await;
        write_secret(environment, &format!("{proxy}-signing-keys"), &at("keys")).await;
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
        change(&mut configuration);
        fs::write(at("config.yaml"), serde_yaml::to_string(&configuration).unwrap()).unwrap();

        let log = fs::File::create(environment.run.log(&format!("replica-behind-relay-{proxy}"))).unwrap();
        let mut command = Command::new(operator_program().unwrap());
        command.arg("proxy").arg("--config").arg(at("config.yaml")).env("KUBECONFIG", at("kubeconfig"));
        command.stdout(log.try_clone().unwrap()).stderr(log).stdin(Stdio::null()).kill_on_drop(true);
        let process = command.spawn().unwrap();
        let (origin, health) = (format!("http://127.0.0.1:{listen}"), format!("http://127.0.0.1:{health}"));
        let url = format!("{origin}/mcp");
        let replica = Self { relay, url, events, origin, health, _process: process, _folder: folder };
        eventually("the replica is ready", || async { replica.is_ready().await }).await;
        replica
    }

    pub async fn is_ready(&self) -> bool {
        let response = http::client(None).unwrap().get(format!("{}/readyz", self.health)).send().await;
        response.is_ok_and(|response| response.status().is_success())
    }

    /// The status of an MCP request with a token.
    pub async fn status(&self, access: &str) -> StatusCode {
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": "ping"});
        let request = http::client(None).unwrap().post(&self.url).bearer_auth(access).json(&body);
        request.send().await.unwrap().status()
    }

    pub async fn listen(&self, access: &str) -> Response {
        let request = http::client(None).unwrap().get(&self.url).bearer_auth(access);
        let response = request.timeout(Duration::from_secs(120)).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        response
    }

    /// Sends an event in all open streams.
    pub fn send_event(&self, event: &'static str) {
        self.events.send(event).unwrap();
    }

    /// The number of sessions in its live set.
    pub async fn sessions(&self) -> usize {
        self.metric("mcp_oauth_proxy_sessions").await.parse().unwrap()
    }

    pub async fn metric(&self, name: &str) -> String {
        let response = http::client(None).unwrap().get(format!("{}/metrics", self.health)).send().await.unwrap();
        let text = response.text().await.unwrap();
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.unwrap().to_owned()
    }

    pub async fn refresh(&self, client_id: &str, refresh: &str) -> Response {
        let form = [("grant_type", "refresh_token"), ("refresh_token", refresh), ("client_id", client_id)];
        http::client(None).unwrap().post(format!("{}/token", self.origin)).form(&form).send().await.unwrap()
    }
}
