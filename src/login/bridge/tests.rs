//! The bridge between a program that is played here, and a server that is played here too.

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
    account::{Account, Asks, Otherwise},
    store::{Login, Store},
    tokens::Tokens,
};

/// For what must come, on a busy machine.
const LIMIT: std::time::Duration = std::time::Duration::from_secs(30);

/// A server that has one session at a time.
struct Server {
    sessions: AtomicU32,
    /// What it was asked, in order: method, session, version.
    seen: Mutex<Vec<String>>,
    pinged: Notify,
    /// Two pings of a session that is lost: neither is told before the other has come.
    lost: Barrier,
}

impl Server {
    fn new() -> Self {
        Self { sessions: AtomicU32::new(0), seen: Mutex::default(), pinged: Notify::new(), lost: Barrier::new(2) }
    }

    fn session(&self) -> String {
        format!("session-{}", self.sessions.load(Ordering::SeqCst))
    }
}

async fn answer(State(server): State<Arc<Server>>, method: Method, headers: HeaderMap, body: Bytes) -> Response {
    let of = |name: &str| headers.get(name).map_or("-", |value| value.to_str().unwrap()).to_owned();
    if of("content-type").contains("form") {
        let known = String::from_utf8_lossy(&body).contains("refresh_token=good");
        let tokens = json!({"access_token": "fresh", "token_type": "Bearer", "expires_in": 600});
        let error = json!({"error": "invalid_grant"});
        return if known {
            axum::Json(tokens).into_response()
        } else {
            (StatusCode::BAD_REQUEST, axum::Json(error)).into_response()
        };
    }
    let message: Value = serde_json::from_slice(&body).unwrap_or_default();
    let what = message["method"].as_str().unwrap_or(method.as_str()).to_owned();
    server.seen.lock().unwrap().push(format!("{what} {} {}", of("mcp-session-id"), of("mcp-protocol-version")));
    if of("authorization") != "Bearer fresh" {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let stream =
        |events: String| ([(header::CONTENT_TYPE, "text/event-stream; charset=utf-8")], events).into_response();
    let result = |result: Value| json!({"jsonrpc": "2.0", "id": message["id"], "result": result});
    if what == "initialize" {
        server.sessions.fetch_add(1, Ordering::SeqCst);
        let result = result(json!({"protocolVersion": "2025-11-25", "capabilities": {}}));
        return ([("mcp-session-id", server.session())], axum::Json(result)).into_response();
    }
    if of("mcp-session-id") != server.session() {
        if what == "ping" {
            server.lost.wait().await;
        }
        return StatusCode::NOT_FOUND.into_response();
    }
    match what.as_str() {
        "ping" => {
            server.pinged.notify_one();
            axum::Json(result(json!({}))).into_response()
        }
        // Comes to an end only when a ping has come meanwhile.
        "slow" => {
            server.pinged.notified().await;
            stream(format!("id: 9\ndata: {}\n\n", result(json!("slow"))))
        }
        // Ends before the answer, which is at hand for who goes on.
        "polled" => stream("id: 7\nretry: 1\ndata:\n\n".to_owned()),
        "GET" if of("last-event-id") == "7" => stream("data: {\"id\":4,\"result\":\"polled\"}\n\n".to_owned()),
        "GET" => stream("data: {\"method\":\"notifications/tools/list_changed\"}\n\n".to_owned()),
        "broken" => stream("data: {\"method\":\"notifications/progress\"}\n\n".to_owned()),
        "html" => "<html>".into_response(),
        "refused" => {
            let error = json!({"jsonrpc": "2.0", "id": null, "error": {"code": -32600, "message": "own words"}});
            (StatusCode::BAD_REQUEST, axum::Json(error)).into_response()
        }
        "down" => (StatusCode::BAD_GATEWAY, "bad gateway").into_response(),
        // Notifications, and a request that gets no answer.
        _ => StatusCode::ACCEPTED.into_response(),
    }
}

struct Bed {
    server: Arc<Server>,
    input: Option<mpsc::Sender<String>>,
    output: mpsc::Receiver<String>,
    bridge: JoinHandle<()>,
    _folder: TempDir,
}

impl Bed {
    /// A bridge with this access and refresh token.
    async fn up(access: &str, refresh: &str) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let server = Arc::new(Server::new());
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        let url: Url = format!("http://{}/mcp", listener.local_addr().unwrap()).parse().unwrap();
        let router = Router::new().fallback(answer).with_state(server.clone());
        tokio::spawn(axum::serve(listener, router).into_future());
        Self::at(server, url, access, refresh).await
    }

    async fn at(server: Arc<Server>, url: Url, access: &str, refresh: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path().to_owned(), &url);
        let login = Login {
            url: url.clone(),
            issuer: url.to_string(),
            token_endpoint: url.clone(),
            resource: url.to_string(),
            client_id: "client".to_owned(),
            tokens: Some(Tokens { access_token: access.into(), expires_at: None, refresh_token: Some(refresh.into()) }),
        };
        store.write(&store.lock().await.unwrap(), &login).unwrap();
        let asks = Asks { client_id: None, port: None, browser: false, pasted: false };
        let account = Account::new(url, folder.path().to_owned(), asks).unwrap();
        let ((input, lines), (sender, output)) = (mpsc::channel(64), mpsc::channel(64));
        let bridge = tokio::spawn(super::serve(account, Otherwise::Fail, lines, sender, CancellationToken::new()));
        Self { server, input: Some(input), output, bridge, _folder: folder }
    }

    async fn say(&self, message: Value) {
        self.input.as_ref().unwrap().send(message.to_string()).await.unwrap();
    }

    async fn request(&self, id: u32, method: &str) {
        self.say(json!({"jsonrpc": "2.0", "id": id, "method": method})).await;
    }

    async fn initialize(&mut self) {
        self.request(1, "initialize").await;
        self.say(json!({"jsonrpc": "2.0", "method": "notifications/initialized"})).await;
        assert_eq!(self.answer(1).await["result"]["protocolVersion"], "2025-11-25");
    }

    async fn hear(&mut self) -> Value {
        serde_json::from_str(&timeout(LIMIT, self.output.recv()).await.unwrap().unwrap()).unwrap()
    }

    /// The answer to a request, which must be the next one.
    async fn answer(&mut self, id: u32) -> Value {
        let answer = self.hear_an_answer().await;
        assert_eq!(answer["id"], id, "{answer}");
        answer
    }

    async fn hear_an_answer(&mut self) -> Value {
        loop {
            let message = self.hear().await;
            if message.get("method").is_none() {
                return message;
            }
        }
    }

    async fn answer_to_any(&mut self) -> u64 {
        let answer = self.hear_an_answer().await;
        assert!(answer.get("result").is_some(), "{answer}");
        answer["id"].as_u64().unwrap()
    }

    async fn end(&mut self) {
        self.input = None;
        timeout(LIMIT, &mut self.bridge).await.unwrap().unwrap();
    }

    fn seen(&self, what: &str) -> Vec<String> {
        self.server.seen.lock().unwrap().iter().filter(|seen| seen.starts_with(what)).cloned().collect()
    }
}

#[tokio::test]
async fn initialize_is_sent_alone_and_slow_calls_do_not_block_others() {
    let mut bed = Bed::up("fresh", "good").await;
    bed.request(1, "initialize").await;
    bed.say(json!({"jsonrpc": "2.0", "method": "notifications/initialized"})).await;
    bed.request(2, "slow").await;
    bed.request(3, "ping").await;
    for id in [1, 3, 2] {
        bed.answer(id).await;
    }
    let seen = bed.server.seen.lock().unwrap().clone();
    assert_eq!(seen[..2], ["initialize - -", "notifications/initialized session-1 2025-11-25"]);
    assert_eq!(bed.seen("slow"), ["slow session-1 2025-11-25"]);
}

#[tokio::test]
async fn server_messages_are_passed_on_and_session_is_deleted_at_end_of_input() {
    let mut bed = Bed::up("fresh", "good").await;
    bed.initialize().await;
    assert_eq!(bed.hear().await["method"], "notifications/tools/list_changed");
    bed.end().await;
    assert_eq!(bed.seen("DELETE"), ["DELETE session-1 2025-11-25"]);
}

#[tokio::test]
async fn requests_in_flight_at_end_of_input_are_answered() {
    let mut bed = Bed::up("fresh", "good").await;
    bed.request(1, "initialize").await;
    bed.request(2, "ping").await;
    bed.input = None;
    bed.answer(1).await;
    bed.answer(2).await;
    bed.end().await;
}

#[tokio::test]
async fn lost_session_is_reinitialized_once() {
    let mut bed = Bed::up("fresh", "good").await;
    bed.initialize().await;
    // The server speaks of its own accord once all of the beginning is over.
    assert_eq!(bed.hear().await["method"], "notifications/tools/list_changed");
    bed.server.sessions.store(100, Ordering::SeqCst);
    bed.request(2, "ping").await;
    bed.request(3, "ping").await;
    let mut ids = [bed.answer_to_any().await, bed.answer_to_any().await];
    ids.sort_unstable();
    assert_eq!(ids, [2, 3]);
    assert_eq!(bed.seen("initialize").len(), 2);
    assert_eq!(
        bed.seen("notifications/initialized").last().unwrap(),
        "notifications/initialized session-101 2025-11-25"
    );
    bed.end().await;
    assert_eq!(bed.seen("DELETE"), ["DELETE session-101 2025-11-25"]);
}

#[tokio::test]
async fn stream_without_response_is_resumed() {
    let mut bed = Bed::up("fresh", "good").await;
    bed.initialize().await;
    bed.request(4, "polled").await;
    assert_eq!(bed.answer(4).await["result"], "polled");
}

#[tokio::test]
async fn rejected_token_is_refreshed_once_then_error_names_the_command() {
    let mut bed = Bed::up("stale", "good").await;
    bed.initialize().await;
    assert_eq!(bed.seen("initialize").len(), 2);

    let mut bed = Bed::up("stale", "gone").await;
    bed.request(1, "initialize").await;
    let error = bed.answer(1).await["error"]["message"].as_str().unwrap().to_owned();
    assert!(error.contains("run `mcp-oauth-operator login http://127.0.0.1:"), "{error}");
}

#[tokio::test]
async fn failures_become_json_rpc_errors() {
    let mut bed = Bed::up("fresh", "good").await;
    bed.initialize().await;
    for (id, (method, words)) in [
        ("html", "not a JSON-RPC message"),
        ("nothing", "did not answer it"),
        ("broken", "broke off"),
        ("refused", "own words"),
        ("down", "502 Bad Gateway: bad gateway"),
    ]
    .into_iter()
    .enumerate()
    {
        let id = u32::try_from(id).unwrap() + 10;
        bed.request(id, method).await;
        let error = bed.answer(id).await["error"]["message"].as_str().unwrap().to_owned();
        assert!(error.contains(words), "{method}: {error}");
    }
    bed.input.as_ref().unwrap().send("not JSON".to_owned()).await.unwrap();
    assert_eq!(bed.hear_an_answer().await["error"]["code"], -32700);

    // Port 9 answers nobody.
    let mut bed = Bed::at(bed.server.clone(), "http://127.0.0.1:9/mcp".parse().unwrap(), "fresh", "good").await;
    bed.request(1, "initialize").await;
    let error = bed.answer(1).await["error"]["message"].as_str().unwrap().to_owned();
    assert!(error.contains("127.0.0.1 cannot be reached"), "{error}");
}
