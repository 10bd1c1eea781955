//! Graceful shutdown.

use std::io::Write;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{raw::statuses, slow::rest, *};

const OWN: &str = "GET /own HTTP/1.1\r\nhost: a\r\n";

/// Fails unless the proxy has closed only its side of a connection, and still reads.
async fn assert_half_closed(client: &mut TcpStream) {
    // The first write to a closed socket is answered with a reset.
    for _ in 0..2 {
        client.write_all(b"a").await.expect("the proxy closes its side before it stops reading");
    }
}

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
async fn shutdown_closes_idle_connections_before_their_lingering_close() {
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
        bed.shutdown.cancel();
        assert_eq!(rest(&mut client).await, "", "{name}");
        assert_half_closed(&mut client).await;
        drop(client);
        in_time(bed.served).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn last_response_ends_before_the_lingering_close_although_an_upgrade_was_offered() {
    let bed = Bed::new().await;
    let mut client = TcpStream::connect(bed.address).await.unwrap();
    client.write_all(format!("{OWN}connection: close, upgrade\r\nupgrade: h2c\r\n\r\n").as_bytes()).await.unwrap();
    assert_eq!(statuses(&rest(&mut client).await), [200]);
    assert_half_closed(&mut client).await;
}

#[tokio::test]
async fn shutdown_answers_requests_that_wait_or_are_incomplete() {
    let bed = Bed::new().await;
    let mut upload = bed.begin("content-length: 2\r\n").await;
    upload.write_all(b"{").await.unwrap();
    let mut head = TcpStream::connect(bed.address).await.unwrap();
    head.write_all(OWN.as_bytes()).await.unwrap();
    // The second request waits for the end of the first response.
    let mut events = bed.parts();
    let mut pipelined = bed.begin("content-length: 0\r\n").await;
    let mut status = [0; 12];
    in_time(pipelined.read_exact(&mut status)).await.unwrap();
    pipelined.write_all(format!("{OWN}\r\n").as_bytes()).await.unwrap();
    bed.send(Request::get("/own").body("").unwrap()).await;
    bed.shutdown.cancel();
    while TcpStream::connect(bed.address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    events.send(Ok(Frame::data(Bytes::from("late")))).await.unwrap();
    drop(events);
    let answers = rest(&mut pipelined).await;
    assert!(answers.contains("late") && answers.ends_with("own"), "{answers}");
    upload.write_all(b"}").await.unwrap();
    head.write_all(b"\r\n").await.unwrap();
    for client in [&mut upload, &mut head] {
        let answer = rest(client).await;
        assert_eq!(statuses(&answer), [200]);
        assert!(answer.contains("connection: close"), "{answer}");
    }
    drop((upload, head, pipelined));
    in_time(bed.served).await.unwrap().unwrap();
}
