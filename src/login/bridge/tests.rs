//! The bridge between a scripted client and a scripted server.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use openidconnect::{AccessToken, RefreshToken};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    net::TcpListener,
    sync::{Barrier, Notify, mpsc},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use url::Url;

use super::super::{
    account::{Account, LoginOptions, Prompt},
    store::Store,
    tokens::{Login, Tokens},
};

/// Deadline of expected messages, generous for a busy machine.
const LIMIT: std::time::Duration = std::time::Duration::from_secs(30);

/// An MCP server with one session at a time. It is its own authorization server.
struct Server {
    sessions: AtomicU32,
    /// The requests in order: method, session, version.
    requests: Mutex<Vec<String>>,
    pinged: Notify,
    /// Two pings of a lost session get 404 only after both have arrived.
    lost: Barrier,
}

impl Server {
    fn new() -> Self {
        Self { sessions: AtomicU32::new(0), requests: Mutex::default(), pinged: Notify::new(), lost: Barrier::new(2) }
    }

    fn session(&self) -> String {
        format!("session-{}", self.sessions.load(Ordering::SeqCst))
    }
}

async fn handle(State(server): State<Arc<Server>>, http_method: Method, headers: HeaderMap, body: Bytes) -> Response {
    let header_text = |name: &str| headers.get(name).map_or("-", |value| value.to_str().unwrap()).to_owned();
    if header_text("content-type").contains("form") {
        let valid = String::from_utf8_lossy(&body).contains("refresh_token=good");
        let tokens = json!({"access_token": "fresh", "token_type": "Bearer", "expires_in": 600});
        let error = json!({"error": "invalid_grant"});
        return if valid {
            axum::Json(tokens).into_response()
        } else {
            (StatusCode::BAD_REQUEST, axum::Json(error)).into_response()
        };
    }
    let message: Value = serde_json::from_slice(&body).unwrap_or_default();
    let method = message["method"].as_str().unwrap_or(http_method.as_str()).to_owned();
    server.requests.lock().unwrap().push(format!(
        "{method} {} {}",
        header_text("mcp-session-id"),
        header_text("mcp-protocol-version")
    ));
    if header_text("authorization") != "Bearer fresh" {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let stream =
        |events: String| ([(header::CONTENT_TYPE, "text/event-stream; charset=utf-8")], events).into_response();
    let result = |result: Value| json!({"jsonrpc": "2.0", "id": message["id"], "result": result});
    if method == "initialize" {
        server.sessions.fetch_add(1, Ordering::SeqCst);
        let result = result(json!({"protocolVersion": "2025-11-25", "capabilities": {}}));
        return ([("mcp-session-id", server.session())], axum::Json(result)).into_response();
    }
    if header_text("mcp-session-id") != server.session() {
        if method == "ping" {
            server.lost.wait().await;
        }
        return StatusCode::NOT_FOUND.into_response();
    }
    match method.as_str() {
        "ping" => {
            server.pinged.notify_one();
            axum::Json(result(json!({}))).into_response()
        }
        // Responds only after a ping has arrived.
        "slow" => {
            server.pinged.notified().await;
            stream(format!("id: 9\ndata: {}\n\n", result(json!("slow"))))
        }
        // The stream closes before the response, which follows when it is resumed.
        "polled" => stream("id: 7\nretry: 1\ndata:\n\n".to_owned()),
        "GET" if header_text("last-event-id") == "7" => stream("data: {\"id\":4,\"result\":\"polled\"}\n\n".to_owned()),
        "GET" => stream("data: {\"method\":\"notifications/tools/list_changed\"}\n\n".to_owned()),
        "broken" => stream("data: {\"method\":\"notifications/progress\"}\n\n".to_owned()),
        "html" => "<html>".into_response(),
        "refused" => {
            let error =
                json!({"jsonrpc": "2.0", "id": null, "error": {"code": -32600, "message": "server error text"}});
            (StatusCode::BAD_REQUEST, axum::Json(error)).into_response()
        }
        "down" => (StatusCode::BAD_GATEWAY, "bad gateway").into_response(),
        // Notifications, and a request without a response.
        _ => StatusCode::ACCEPTED.into_response(),
    }
}

struct Bed {
    server: Arc<Server>,
    input: Option<mpsc::Sender<String>>,
    output: mpsc::Receiver<String>,
    bridge: JoinHandle<()>,
    _directory: TempDir,
}

impl Bed {
    /// A bridge with these stored tokens.
    async fn start(access: &str, refresh: &str) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let server = Arc::new(Server::new());
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        let url: Url = format!("http://{}/mcp", listener.local_addr().unwrap()).parse().unwrap();
        let router = Router::new().fallback(handle).with_state(server.clone());
        tokio::spawn(axum::serve(listener, router).into_future());
        Self::start_at(server, url, access, refresh).await
    }

    async fn start_at(server: Arc<Server>, url: Url, access: &str, refresh: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::new(directory.path().to_owned(), &url);
        let login = Login {
            url: url.clone(),
            issuer: url.to_string(),
            token_endpoint: url.clone(),
            resource: url.to_string(),
            client_id: "client".to_owned(),
            tokens: Some(Tokens {
                access_token: AccessToken::new(access.to_owned()),
                expires_at: None,
                refresh_token: Some(RefreshToken::new(refresh.to_owned())),
            }),
        };
        store.write(&store.lock().await.unwrap(), &login).unwrap();
        let options = LoginOptions { client_id: None, port: None, open_browser: false, accept_paste: false };
        let account = Account::new(url, directory.path().to_owned(), options).unwrap();
        let ((input, lines), (sender, output)) = (mpsc::channel(64), mpsc::channel(64));
        let bridge = tokio::spawn(super::serve(account, Prompt::Never, lines, sender, CancellationToken::new()));
        Self { server, input: Some(input), output, bridge, _directory: directory }
    }

    async fn send(&self, message: Value) {
        self.input.as_ref().unwrap().send(message.to_string()).await.unwrap();
    }

    async fn request(&self, id: u32, method: &str) {
        self.send(json!({"jsonrpc": "2.0", "id": id, "method": method})).await;
    }

    async fn initialize(&mut self) {
        self.request(1, "initialize").await;
        self.send(json!({"jsonrpc": "2.0", "method": "notifications/initialized"})).await;
        assert_eq!(self.response(1).await["result"]["protocolVersion"], "2025-11-25");
    }

    async fn next_message(&mut self) -> Value {
        serde_json::from_str(&timeout(LIMIT, self.output.recv()).await.unwrap().unwrap()).unwrap()
    }

    /// The next response, which must have this id.
    async fn response(&mut self, id: u32) -> Value {
        let response = self.next_response().await;
        assert_eq!(response["id"], id, "{response}");
        response
    }

    async fn next_response(&mut self) -> Value {
        loop {
            let message = self.next_message().await;
            if message.get("method").is_none() {
                return message;
            }
        }
    }

    async fn next_result_id(&mut self) -> u64 {
        let response = self.next_response().await;
        assert!(response.get("result").is_some(), "{response}");
        response["id"].as_u64().unwrap()
    }

    async fn close(&mut self) {
        self.input = None;
        timeout(LIMIT, &mut self.bridge).await.unwrap().unwrap();
    }

    fn requests(&self, method: &str) -> Vec<String> {
        self.server.requests.lock().unwrap().iter().filter(|request| request.starts_with(method)).cloned().collect()
    }
}

#[tokio::test]
async fn initialize_is_sent_alone_and_slow_calls_do_not_block_others() {
    let mut bed = Bed::start("fresh", "good").await;
    bed.request(1, "initialize").await;
    bed.send(json!({"jsonrpc": "2.0", "method": "notifications/initialized"})).await;
    bed.request(2, "slow").await;
    bed.request(3, "ping").await;
    for id in [1, 3, 2] {
        bed.response(id).await;
    }
    let requests = bed.server.requests.lock().unwrap().clone();
    assert_eq!(requests[..2], ["initialize - -", "notifications/initialized session-1 2025-11-25"]);
    assert_eq!(bed.requests("slow"), ["slow session-1 2025-11-25"]);
}

#[tokio::test]
async fn server_messages_are_passed_on_and_session_is_deleted_at_end_of_input() {
    let mut bed = Bed::start("fresh", "good").await;
    bed.initialize().await;
    assert_eq!(bed.next_message().await["method"], "notifications/tools/list_changed");
    bed.close().await;
    assert_eq!(bed.requests("DELETE"), ["DELETE session-1 2025-11-25"]);
}

#[tokio::test]
async fn requests_in_flight_at_end_of_input_get_responses() {
    let mut bed = Bed::start("fresh", "good").await;
    bed.request(1, "initialize").await;
    bed.request(2, "ping").await;
    bed.input = None;
    bed.response(1).await;
    bed.response(2).await;
    bed.close().await;
}

#[tokio::test]
async fn lost_session_is_reinitialized_once() {
    let mut bed = Bed::start("fresh", "good").await;
    bed.initialize().await;
    // The standalone stream opens after the handshake.
    assert_eq!(bed.next_message().await["method"], "notifications/tools/list_changed");
    bed.server.sessions.store(100, Ordering::SeqCst);
    bed.request(2, "ping").await;
    bed.request(3, "ping").await;
    let mut ids = [bed.next_result_id().await, bed.next_result_id().await];
    ids.sort_unstable();
    assert_eq!(ids, [2, 3]);
    assert_eq!(bed.requests("initialize").len(), 2);
    assert_eq!(
        bed.requests("notifications/initialized").last().unwrap(),
        "notifications/initialized session-101 2025-11-25"
    );
    bed.close().await;
    assert_eq!(bed.requests("DELETE"), ["DELETE session-101 2025-11-25"]);
}

#[tokio::test]
async fn stream_without_response_is_resumed() {
    let mut bed = Bed::start("fresh", "good").await;
    bed.initialize().await;
    bed.request(4, "polled").await;
    assert_eq!(bed.response(4).await["result"], "polled");
}

#[tokio::test]
async fn rejected_token_is_refreshed_once_then_error_names_the_command() {
    let mut bed = Bed::start("stale", "good").await;
    bed.initialize().await;
    assert_eq!(bed.requests("initialize").len(), 2);

    let mut bed = Bed::start("stale", "gone").await;
    bed.request(1, "initialize").await;
    let error = bed.response(1).await["error"]["message"].as_str().unwrap().to_owned();
    assert!(error.contains("run `mcp-oauth-operator login http://127.0.0.1:"), "{error}");
}

#[tokio::test]
async fn failures_become_json_rpc_errors() {
    let mut bed = Bed::start("fresh", "good").await;
    bed.initialize().await;
    for (id, (method, text)) in [
        ("html", "not a JSON-RPC message"),
        ("nothing", "sent no response"),
        ("broken", "incomplete"),
        ("refused", "server error text"),
        ("down", "502 Bad Gateway: bad gateway"),
    ]
    .into_iter()
    .enumerate()
    {
        let id = u32::try_from(id).unwrap() + 10;
        bed.request(id, method).await;
        let error = bed.response(id).await["error"]["message"].as_str().unwrap().to_owned();
        assert!(error.contains(text), "{method}: {error}");
    }
    bed.input.as_ref().unwrap().send("not JSON".to_owned()).await.unwrap();
    assert_eq!(bed.next_response().await["error"]["code"], -32700);

    // Nothing listens on port 9.
    let mut bed = Bed::start_at(bed.server.clone(), "http://127.0.0.1:9/mcp".parse().unwrap(), "fresh", "good").await;
    bed.request(1, "initialize").await;
    let error = bed.response(1).await["error"]["message"].as_str().unwrap().to_owned();
    assert!(error.contains("127.0.0.1 cannot be reached"), "{error}");
}
