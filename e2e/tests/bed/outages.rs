//! Clients with valid tokens do not notice restarts and outages.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use e2e::{
    environment::{Environment, NAMESPACE},
    peers::{browser::Browser, context_forge::MEMBERS, http, netns::run_in_netns, tap::STREAM_QUERY},
};
use jiff::Timestamp;
use mcp_oauth_operator::api::Bounded;
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::{
    replica::Replica,
    support::{ScriptedClient, client, environment, eventually, pods},
};

/// The number of concurrent callers, each with its own keep-alive connection.
const CALLERS: usize = 8;

/// A client that calls sequentially until it is stopped.
#[derive(Clone)]
struct Caller {
    http: Client,
    url: String,
    access: String,
    load: Arc<Load>,
}

#[derive(Default)]
struct Load {
    stop: AtomicBool,
    succeeded: AtomicUsize,
}

impl Caller {
    /// Returns the failures of all calls without status 200.
    async fn call(self) -> Vec<String> {
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}});
        let mut failed = Vec::new();
        while !self.load.stop.load(Ordering::SeqCst) {
            let request = self.http.post(&self.url).bearer_auth(&self.access).json(&body);
            let response = request.header("accept", "application/json, text/event-stream").send().await;
            let result = match response {
                Ok(response) => {
                    let status = response.status();
                    response.bytes().await.map(|_| status)
                }
                Err(error) => Err(error),
            };
            match result {
                Ok(StatusCode::OK) => drop(self.load.succeeded.fetch_add(1, Ordering::SeqCst)),
                Ok(status) => failed.push(status.to_string()),
                Err(error) => failed.push(format!("{error:?}")),
            }
        }
        failed
    }
}

/// The number of concurrent streams.
const STREAMS: usize = 200;

/// Reads a stream until it ends. Returns the error if it did not end normally.
async fn listen(http: Client, url: String, access: String, open: Arc<AtomicUsize>) -> Option<String> {
    let response = http.get(&url).bearer_auth(&access).header("accept", "text/event-stream");
    let response = response.timeout(Duration::from_secs(600)).send().await;
    let mut stream = match response {
        Ok(response) if response.status() == StatusCode::OK => response,
        other => return Some(format!("{other:?}")),
    };
    open.fetch_add(1, Ordering::SeqCst);
    loop {
        match stream.chunk().await {
            Ok(Some(_)) => (),
            Ok(None) => return None,
            Err(error) => return Some(format!("{error:?}")),
        }
    }
}

/// Starts callers in the current network namespace.
fn start_callers(http: &Client, url: &str, access: &str, load: &Arc<Load>) -> JoinSet<Vec<String>> {
    let caller = Caller { http: http.clone(), url: url.to_owned(), access: access.to_owned(), load: load.clone() };
    (0..CALLERS).map(|_| caller.clone().call()).collect()
}

/// Stops the load after 20 more successful calls and returns all failures.
async fn end(callers: JoinSet<Vec<String>>, load: &Load) -> Vec<String> {
    let succeeded = load.succeeded.load(Ordering::SeqCst);
    eventually("calls succeed", || async { load.succeeded.load(Ordering::SeqCst) >= succeeded + 20 }).await;
    load.stop.store(true, Ordering::SeqCst);
    callers.join_all().await.concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn rolling_restart_fails_no_call() {
    let environment = environment();
    let name = "restarted";
    let streams = i64::try_from(STREAMS).unwrap().try_into().unwrap();
    let proxy = environment.deploy_proxy(name, |spec| spec.upstream.limits.streams_per_user = streams).await.unwrap();
    let browser = Browser::start(&environment.run).await.unwrap();
    let scripted = ScriptedClient::register(&environment, &proxy).await.unwrap();
    let tokens = scripted.login(&browser, MEMBERS[0]).await.unwrap();
    browser.close().await.unwrap();
    let kubectl = environment.cluster.kubectl_program();
    let namespaced = |words: &[&str]| kubectl.output(&[&["--namespace", NAMESPACE], words].concat()).unwrap();
    let before = pods(&environment, name);
    assert_eq!(before.len(), 2);

    // Through the edge, which opens a connection per request, and to the Service over keep-alive connections.
    let load = Arc::new(Load::default());
    let callers = start_callers(&client(&environment), &proxy.url(), &tokens.access, &load);
    let service = namespaced(&["get", "service", name, "-o", "jsonpath={.spec.clusterIP}"]);
    let (url, access, service_load) = (format!("http://{service}:8080/mcp"), tokens.access.clone(), load.clone());
    let (run, shared_load) = (environment.run.clone(), load.clone());
    let service_callers = tokio::spawn(async move {
        run_in_netns(&run, move || async move {
            let callers = start_callers(&http::client(None)?, &url, &access, &service_load);
            Ok(callers.join_all().await.concat())
        })
        .await
    });
    eventually("calls succeed", || async { shared_load.succeeded.load(Ordering::SeqCst) > 20 }).await;

    let open = Arc::new(AtomicUsize::default());
    let http = client(&environment);
    let url = format!("{}?{STREAM_QUERY}", proxy.url());
    let streams: JoinSet<Option<String>> =
        (0..STREAMS).map(|_| listen(http.clone(), url.clone(), tokens.access.clone(), open.clone())).collect();
    eventually("the streams are open", || async { open.load(Ordering::SeqCst) == STREAMS }).await;

    namespaced(&["rollout", "restart", &format!("deployment/{name}")]);
    namespaced(&["rollout", "status", &format!("deployment/{name}"), "--timeout=150s"]);
    eventually("the old pods are gone", || async {
        let now = pods(&environment, name);
        now.len() == 2 && now.iter().all(|pod| !before.contains(pod))
    })
    .await;
    let mut failed = end(callers, &load).await;
    failed.extend(service_callers.await.unwrap().unwrap());
    let succeeded = load.succeeded.load(Ordering::SeqCst);
    eprintln!("{succeeded} calls succeeded during the restart of the replicas, {} failed", failed.len());
    failed.extend(streams.join_all().await.into_iter().flatten());
    assert_eq!(failed, Vec::<String>::new());
}

/// Configures an unreachable issuer.
fn set_unreachable_issuer(configuration: &mut Value) {
    configuration["identityProvider"]["issuerURL"] = json!("http://127.0.0.1:9");
}

/// The time since the replica's last contact with the API server.
async fn time_since_contact(replica: &Replica) -> Duration {
    let contact = replica.metric("mcp_oauth_proxy_session_watch_contact_timestamp_seconds").await;
    let contact: i64 = contact.parse().unwrap();
    Duration::from_secs(u64::try_from(Timestamp::now().as_second() - contact).unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_continue_without_issuer_and_api_server_and_refreshes_get_503() {
    let environment: Environment = environment();
    let name = "cut-off";
    let proxy = environment.deploy_proxy(name, |spec| spec.replicas = Bounded::of::<1>()).await.unwrap();
    let browser = Browser::start(&environment.run).await.unwrap();
    let scripted = ScriptedClient::register(&environment, &proxy).await.unwrap();
    let tokens = scripted.login(&browser, MEMBERS[0]).await.unwrap();
    browser.close().await.unwrap();
    let replica = Replica::start(&environment, name, set_unreachable_issuer).await;
    let load = Arc::new(Load::default());
    let callers = start_callers(&http::client(None).unwrap(), &replica.url, &tokens.access, &load);
    eventually("calls succeed", || async { load.succeeded.load(Ordering::SeqCst) > 20 }).await;

    replica.relay.stop();
    // Longer than the timeout after which the watch is restarted.
    eventually("the API server has not responded for 30 s", || async {
        time_since_contact(&replica).await > Duration::from_secs(30)
    })
    .await;
    let unavailable = replica.refresh(&scripted.client_id, &tokens.refresh).await;
    assert_eq!(unavailable.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(unavailable.headers().contains_key("retry-after"));
    assert!(replica.is_ready().await, "the replica stays ready, because a restart would not help");

    replica.relay.resume();
    eventually("the replica is connected to the API server again", || async {
        time_since_contact(&replica).await < Duration::from_secs(15)
    })
    .await;
    let refreshed = replica.refresh(&scripted.client_id, &tokens.refresh).await;
    assert_eq!(refreshed.status(), StatusCode::OK, "the failed attempt did not consume the refresh token");
    let failed = end(callers, &load).await;
    let succeeded = load.succeeded.load(Ordering::SeqCst);
    eprintln!("{succeeded} calls succeeded without issuer and API server, {} failed", failed.len());
    assert_eq!(failed, Vec::<String>::new());
}
