//! Graceful shutdown.

use super::*;

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
