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

use super::{tally::Tally, upstream::LARGE};
use crate::bench::login::{self, Tokens};

/// The state of a client.
#[derive(Clone)]
struct Known {
    proxy: String,
    http: Client,
    tokens: Tokens,
    number: usize,
}

/// Starts all clients.
pub async fn start(clients: &mut JoinSet<()>, proxy: &str, tally: &Arc<Tally>) -> Result<()> {
    let http = login::client()?;
    let mut people = Vec::new();
    for number in 0..10 {
        people.push(login::log_in(&login::client()?, proxy, &format!("soak-{number}@example.com")).await?);
    }
    let known = |number: usize| Known {
        proxy: proxy.to_owned(),
        http: http.clone(),
        tokens: people[number % people.len()].clone(),
        number,
    };
    for number in 0..16 {
        repeat(clients, tally, "calls", known(number), call);
    }
    for number in 0..4 {
        repeat(clients, tally, "requests and responses of a megabyte or more", known(number), large_both_ways);
        repeat(clients, tally, "session lifecycles: login, call, refresh, revocation, 401", known(number), life);
        repeat(clients, tally, "invalid requests, rejected", known(number), stranger);
    }
    for number in 0..40 {
        repeat(clients, tally, "streams opened and abandoned", known(number), stream);
    }
    for number in 0..10 {
        repeat(clients, tally, "large responses read slowly", known(number), slow_reader);
        repeat(clients, tally, "requests sent slowly", known(number), slow_writer);
        repeat(clients, tally, "endless request heads, disconnected", known(number), endless_head);
        repeat(clients, tally, "aborted requests", known(number), giver_up);
    }
    Ok(())
}

fn repeat<F>(clients: &mut JoinSet<()>, tally: &Arc<Tally>, kind: &'static str, known: Known, once: fn(Known) -> F)
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    let tally = tally.clone();
    clients.spawn(async move {
        while !tally.is_over() {
            match once(known.clone()).await {
                Ok(()) => tally.count(kind),
                Err(error) if !tally.is_over() => {
                    tally.complain(format!("{kind}: {error:#}"));
                    sleep(Duration::from_secs(1)).await;
                }
                Err(_) => (),
            }
        }
    });
}

impl Known {
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

async fn call(known: Known) -> Result<()> {
    sleep(Duration::from_millis(20)).await;
    let query = if known.number.is_multiple_of(8) { "?late" } else { "" };
    let answer = known.post(query, "0123456789".to_owned()).send().await?;
    ensure!(answer.status() == StatusCode::OK, "{}", answer.status());
    ensure!(answer.text().await? == "10", "unexpected response body");
    Ok(())
}

async fn large_both_ways(known: Known) -> Result<()> {
    sleep(Duration::from_secs(1)).await;
    let answer = known.post("", "x".repeat(1_000_000)).send().await?;
    ensure!(answer.status() == StatusCode::OK, "{}", answer.status());
    ensure!(answer.text().await? == "1000000", "unexpected response body");
    let answer = known.post("?large", String::new()).send().await?;
    ensure!(answer.bytes().await?.len() == LARGE, "incomplete response");
    Ok(())
}

async fn life(known: Known) -> Result<()> {
    sleep(Duration::from_millis(500)).await;
    let email = format!("life-{}@example.com", known.number);
    let first = login::log_in(&login::client()?, &known.proxy, &email).await?;
    let tokens = login::refresh(&known.http, &known.proxy, &first).await?;
    let call = async |tokens: &Tokens| {
        let known = Known { tokens: tokens.clone(), ..known.clone() };
        anyhow::Ok(known.post("", String::new()).send().await?.status())
    };
    ensure!(call(&tokens).await? == StatusCode::OK, "a new session is rejected");
    login::revoke(&known.http, &known.proxy, &tokens).await?;
    // The live set learns of the revocation from the store's watch. A request in flight at that moment is cut.
    let refused = async {
        while call(&tokens).await.unwrap_or(StatusCode::OK) != StatusCode::UNAUTHORIZED {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(1), refused).await.context("a session is accepted a second after its revocation")?;
    Ok(())
}

async fn stranger(known: Known) -> Result<()> {
    sleep(Duration::from_millis(50)).await;
    let Known { proxy, http, .. } = &known;
    let with_token = http.post(format!("{proxy}/mcp")).bearer_auth(&known.tokens.access[1..]).send().await?;
    ensure!(with_token.status() == StatusCode::UNAUTHORIZED, "invalid token: {}", with_token.status());
    let elsewhere = http.get(format!("{proxy}/elsewhere")).send().await?;
    ensure!(elsewhere.status() == StatusCode::NOT_FOUND, "unknown path: {}", elsewhere.status());
    let code = [("grant_type", "authorization_code"), ("code", "none"), ("client_id", "nobody")];
    let redeemed = http.post(format!("{proxy}/token")).form(&code).send().await?;
    ensure!(redeemed.status().is_client_error(), "invalid code: {}", redeemed.status());
    let invalid = http.post(format!("{proxy}/register")).json(&json!({"redirect_uris": ["javascript:1"]})).send().await?;
    ensure!(invalid.status().is_client_error(), "invalid registration: {}", invalid.status());
    Ok(())
}

async fn stream(known: Known) -> Result<()> {
    let request = known.http.get(format!("{}/mcp?stream", known.proxy)).bearer_auth(&known.tokens.access);
    let mut answer = request.header("accept", "text/event-stream").send().await?;
    ensure!(answer.status() == StatusCode::OK, "{}", answer.status());
    for _ in 0..1 + known.number % 20 {
        answer.chunk().await?.context("the stream ended early")?;
    }
    Ok(())
}

async fn slow_reader(known: Known) -> Result<()> {
    let mut stream = known.begin("GET", "?large", "Connection: close\r\n\r\n").await?;
    let (mut part, mut length) = (vec![0; 64 * 1024], 0);
    loop {
        let read = stream.read(&mut part).await?;
        if read == 0 {
            break;
        }
        length += read;
        sleep(Duration::from_millis(400)).await;
    }
    ensure!(length > LARGE, "{length} bytes");
    Ok(())
}

async fn slow_writer(known: Known) -> Result<()> {
    let mut stream = known.begin("POST", "", "Content-Length: 1000\r\nConnection: close\r\n\r\n").await?;
    for _ in 0..10 {
        sleep(Duration::from_secs(1)).await;
        stream.write_all(&[b'x'; 100]).await?;
    }
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    ensure!(answer.starts_with("HTTP/1.1 200 "), "{}", answer.lines().next().unwrap_or("no response"));
    Ok(())
}

/// The proxy must disconnect within 90 seconds.
async fn endless_head(known: Known) -> Result<()> {
    let mut stream = known.begin("POST", "", "X-A: ").await?;
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

async fn giver_up(known: Known) -> Result<()> {
    let mut stream = known.begin("POST", "?late", "Content-Length: 1000\r\n\r\n").await?;
    stream.write_all(&[b'x'; 500]).await?;
    sleep(Duration::from_millis(300)).await;
    drop(stream);
    let mut stream = known.begin("POST", "?late", "Content-Length: 10\r\n\r\n0123456789").await?;
    sleep(Duration::from_millis(100)).await;
    stream.shutdown().await?;
    Ok(())
}
