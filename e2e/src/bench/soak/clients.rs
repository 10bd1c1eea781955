//! The clients of the load. Each kind is a function for one operation, which several tasks repeat until the end.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use reqwest::{Client, StatusCode};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{tally::Tally, upstream::LARGE_RESPONSE};
use crate::bench::login::{self, Tokens};

/// The state of a client.
#[derive(Clone)]
struct ClientContext {
    proxy: String,
    http: Client,
    tokens: Tokens,
    number: usize,
}

/// Starts all clients.
pub async fn start(clients: &mut JoinSet<()>, proxy: &str, tally: &Arc<Tally>) -> Result<()> {
    let http = login::client()?;
    let mut logins = Vec::new();
    for number in 0..10 {
        logins.push(login::log_in(&login::client()?, proxy, &format!("soak-{number}@example.com")).await?);
    }
    let context = |number: usize| ClientContext {
        proxy: proxy.to_owned(),
        http: http.clone(),
        tokens: logins[number % logins.len()].clone(),
        number,
    };
    for number in 0..16 {
        repeat(clients, tally, "calls", context(number), call);
    }
    for number in 0..4 {
        repeat(clients, tally, "requests and responses of a megabyte or more", context(number), large_transfer);
        repeat(
            clients,
            tally,
            "session lifecycles: login, call, refresh, revocation, 401",
            context(number),
            session_lifecycle,
        );
        repeat(clients, tally, "invalid requests, rejected", context(number), invalid_requests);
    }
    for number in 0..40 {
        repeat(clients, tally, "streams opened and abandoned", context(number), stream);
    }
    for number in 0..10 {
        repeat(clients, tally, "large responses read slowly", context(number), slow_reader);
        repeat(clients, tally, "requests sent slowly", context(number), slow_writer);
        repeat(clients, tally, "endless request heads, disconnected", context(number), endless_request_head);
        repeat(clients, tally, "aborted requests", context(number), aborted_requests);
    }
    Ok(())
}

fn repeat<F>(
    clients: &mut JoinSet<()>,
    tally: &Arc<Tally>,
    kind: &'static str,
    context: ClientContext,
    once: fn(ClientContext) -> F,
) where
    F: Future<Output = Result<()>> + Send + 'static,
{
    let tally = tally.clone();
    clients.spawn(async move {
        while !tally.is_stopped() {
            match once(context.clone()).await {
                Ok(()) => tally.count(kind),
                Err(error) if !tally.is_stopped() => {
                    tally.record_failure(format!("{kind}: {error:#}"));
                    sleep(Duration::from_secs(1)).await;
                }
                Err(_) => (),
            }
        }
    });
}

impl ClientContext {
    fn post(&self, query: &str, body: String) -> reqwest::RequestBuilder {
        let request = self.http.post(format!("{}/mcp{query}", self.proxy)).bearer_auth(&self.tokens.access);
        request.header("content-type", "application/json").body(body)
    }

    /// Opens a connection and sends the beginning of a request, up to `rest`.
    async fn begin(&self, method: &str, query: &str, rest: &str) -> Result<TcpStream> {
        let mut stream = TcpStream::connect(self.proxy.trim_start_matches("http://")).await?;
        let head = format!(
            "{method} /mcp{query} HTTP/1.1\r\nHost: soak\r\nContent-Type: application/json\r\nAuthorization: Bearer {}\r\n{rest}",
            self.tokens.access
        );
        stream.write_all(head.as_bytes()).await?;
        Ok(stream)
    }
}

async fn call(context: ClientContext) -> Result<()> {
    sleep(Duration::from_millis(20)).await;
    let query = if context.number.is_multiple_of(8) { "?late" } else { "" };
    let response = context.post(query, "0123456789".to_owned()).send().await?;
    ensure!(response.status() == StatusCode::OK, "{}", response.status());
    ensure!(response.text().await? == "10", "unexpected response body");
    Ok(())
}

async fn large_transfer(context: ClientContext) -> Result<()> {
    sleep(Duration::from_secs(1)).await;
    let response = context.post("", "x".repeat(1_000_000)).send().await?;
    ensure!(response.status() == StatusCode::OK, "{}", response.status());
    ensure!(response.text().await? == "1000000", "unexpected response body");
    let response = context.post("?large", String::new()).send().await?;
    ensure!(response.bytes().await?.len() == LARGE_RESPONSE, "incomplete response");
    Ok(())
}

async fn session_lifecycle(context: ClientContext) -> Result<()> {
    sleep(Duration::from_millis(500)).await;
    let email = format!("life-{}@example.com", context.number);
    let first = login::log_in(&login::client()?, &context.proxy, &email).await?;
    let tokens = login::refresh(&context.http, &context.proxy, &first).await?;
    let call = async |tokens: &Tokens| {
        let context = ClientContext { tokens: tokens.clone(), ..context.clone() };
        anyhow::Ok(context.post("", String::new()).send().await?.status())
    };
    ensure!(call(&tokens).await? == StatusCode::OK, "a new session is rejected");
    login::revoke(&context.http, &context.proxy, &tokens).await?;
    // The live set learns of the revocation from the store's watch. A request in flight at that moment is cut.
    let refused = async {
        while call(&tokens).await.unwrap_or(StatusCode::OK) != StatusCode::UNAUTHORIZED {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(1), refused).await.context("a session is accepted a second after its revocation")?;
    Ok(())
}

async fn invalid_requests(context: ClientContext) -> Result<()> {
    sleep(Duration::from_millis(50)).await;
    let ClientContext { proxy, http, .. } = &context;
    let with_token = http.post(format!("{proxy}/mcp")).bearer_auth(&context.tokens.access[1..]).send().await?;
    ensure!(with_token.status() == StatusCode::UNAUTHORIZED, "invalid token: {}", with_token.status());
    let unknown_path = http.get(format!("{proxy}/elsewhere")).send().await?;
    ensure!(unknown_path.status() == StatusCode::NOT_FOUND, "unknown path: {}", unknown_path.status());
    let code = [("grant_type", "authorization_code"), ("code", "none"), ("client_id", "nobody")];
    let redeemed = http.post(format!("{proxy}/token")).form(&code).send().await?;
    ensure!(redeemed.status().is_client_error(), "invalid code: {}", redeemed.status());
    let invalid =
        http.post(format!("{proxy}/register")).json(&json!({"redirect_uris": ["javascript:1"]})).send().await?;
    ensure!(invalid.status().is_client_error(), "invalid registration: {}", invalid.status());
    Ok(())
}

async fn stream(context: ClientContext) -> Result<()> {
    let request = context.http.get(format!("{}/mcp?stream", context.proxy)).bearer_auth(&context.tokens.access);
    let mut response = request.header("accept", "text/event-stream").send().await?;
    ensure!(response.status() == StatusCode::OK, "{}", response.status());
    for _ in 0..1 + context.number % 20 {
        response.chunk().await?.context("the stream ended early")?;
    }
    Ok(())
}

async fn slow_reader(context: ClientContext) -> Result<()> {
    let mut stream = context.begin("GET", "?large", "Connection: close\r\n\r\n").await?;
    let (mut part, mut length) = (vec![0; 64 * 1024], 0);
    loop {
        let read = stream.read(&mut part).await?;
        if read == 0 {
            break;
        }
        length += read;
        sleep(Duration::from_millis(400)).await;
    }
    ensure!(length > LARGE_RESPONSE, "{length} bytes");
    Ok(())
}

async fn slow_writer(context: ClientContext) -> Result<()> {
    let mut stream = context.begin("POST", "", "Content-Length: 1000\r\nConnection: close\r\n\r\n").await?;
    for _ in 0..10 {
        sleep(Duration::from_secs(1)).await;
        stream.write_all(&[b'x'; 100]).await?;
    }
    let mut response = String::new();
    stream.read_to_string(&mut response).await?;
    ensure!(response.starts_with("HTTP/1.1 200 "), "{}", response.lines().next().unwrap_or("no response"));
    Ok(())
}

/// The proxy must disconnect within 90 seconds.
async fn endless_request_head(context: ClientContext) -> Result<()> {
    let mut stream = context.begin("POST", "", "X-A: ").await?;
    let cut_off = async {
        while stream.write_all(b"a").await.is_ok() {
            let mut part = [0; 512];
            if let Ok(Ok(0) | Err(_)) = timeout(Duration::from_secs(1), stream.read(&mut part)).await {
                break;
            }
        }
    };
    timeout(Duration::from_secs(90), cut_off).await.context("not disconnected after 90 s")?;
    Ok(())
}

async fn aborted_requests(context: ClientContext) -> Result<()> {
    let mut stream = context.begin("POST", "?late", "Content-Length: 1000\r\n\r\n").await?;
    stream.write_all(&[b'x'; 500]).await?;
    sleep(Duration::from_millis(300)).await;
    drop(stream);
    let mut stream = context.begin("POST", "?late", "Content-Length: 10\r\n\r\n0123456789").await?;
    sleep(Duration::from_millis(100)).await;
    stream.shutdown().await?;
    Ok(())
}
