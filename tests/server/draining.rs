//! Graceful shutdown.

use std::{io::Write, time::Instant};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    raw::{exchange, statuses},
    slow::rest,
    *,
};

const OWN: &str = "GET /own HTTP/1.1\r\nhost: a\r\n";

/// Lingering connections close only later.
const AT_ONCE: Duration = Duration::from_secs(1);

#[tokio::test]
async fn shutdown_waits_for_open_responses_and_accepts_no_connection() {
    let bed = Bed::new().await;
    let mut events = bed.parts();
    let response = bed.call().await;
    bed.shutdown.cancel();
    while tokio::net::TcpStream::connect(bed.address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    events.send(Ok(Frame::data(Bytes::from("late")))).await.unwrap();
    drop(events);
    assert_eq!(text(response).await, "late");
    bed.served.await.unwrap().unwrap();
}

#[tokio::test]
async fn draining_proxy_accepts_connections_and_closes_each_after_its_response() {
    let bed = Bed::new().await;
    assert!(!bed.call().await.headers().contains_key("connection"));
    bed.leaving.cancel();
    in_time(async { while bed.call().await.headers().get("connection").is_none_or(|value| value != "close") {} }).await;
    let own = bed.send(Request::get("/own").body("").unwrap()).await;
    assert_eq!(own.headers()["connection"], "close");
    assert_eq!(text(own).await, "own");
}

#[tokio::test]
async fn stream_past_the_drain_timeout_ends_cleanly() {
    let bed = Bed::builder().config(|config| config.upstream.timeouts.drain = "1ms".parse().unwrap()).start().await;
    let _events = bed.parts();
    let stream = bed.listen().await;
    bed.shutdown.cancel();
    assert_eq!(in_time(text(stream)).await, "");
    bed.served.await.unwrap().unwrap();
}

#[tokio::test]
async fn shutdown_answers_requests_of_connections_that_were_just_accepted() {
    let bed = Bed::new().await;
    // From then on the proxy accepts connections as soon as the runtime gets the event.
    bed.send(Request::get("/own").body("").unwrap()).await;
    let request = format!("{OWN}\r\n");
    let mut clients = Vec::new();
    for _ in 0..100 {
        let mut client = std::net::TcpStream::connect(bed.address).unwrap();
        client.write_all(request.as_bytes()).unwrap();
        client.set_nonblocking(true).unwrap();
        clients.push(TcpStream::from_std(client).unwrap());
    }
    for _ in 0..3 {
        tokio::task::yield_now().await;
    }
    bed.shutdown.cancel();
    for (index, client) in clients.iter_mut().enumerate() {
        let answer = rest(client).await;
        assert_eq!(statuses(&answer), [200], "{index}");
    }
    in_time(bed.served).await.unwrap().unwrap();
}

#[tokio::test]
async fn shutdown_closes_idle_connections_at_once() {
    for (name, request) in [
        ("new", String::new()),
        ("an empty line", "\r\n".to_owned()),
        ("after a response", format!("{OWN}\r\n")),
        ("an empty line after a response", format!("{OWN}\r\n\r\n")),
        ("after content", "POST /mcp HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\n{}".to_owned()),
        ("an upgrade was offered", format!("{OWN}connection: upgrade\r\nupgrade: h2c\r\n\r\n")),
    ] {
        let bed = Bed::new().await;
        let mut client = TcpStream::connect(bed.address).await.unwrap();
        client.write_all(request.as_bytes()).await.unwrap();
        if request.contains("HTTP") {
            assert!(in_time(client.read(&mut [0; 4096])).await.unwrap() > 0, "{name}");
        }
        // Until the proxy has accepted the connection.
        bed.send(Request::get("/own").body("").unwrap()).await;
        let start = Instant::now();
        bed.shutdown.cancel();
        assert_eq!(rest(&mut client).await, "", "{name}");
        assert!(start.elapsed() < AT_ONCE, "{name}: closed after {:?}", start.elapsed());
        drop(client);
        in_time(bed.served).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn last_response_ends_at_once_although_the_client_offered_an_upgrade() {
    let bed = Bed::new().await;
    let start = Instant::now();
    let answers = exchange(&bed, format!("{OWN}connection: close, upgrade\r\nupgrade: h2c\r\n\r\n").as_bytes()).await;
    assert_eq!(statuses(&answers), [200]);
    assert!(start.elapsed() < AT_ONCE, "ended after {:?}", start.elapsed());
}
