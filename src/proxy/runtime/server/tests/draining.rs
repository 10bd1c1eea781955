//! The end of a proxy.

use super::*;

#[tokio::test]
async fn stopping_waits_for_the_open_answer_and_takes_no_new_connection() {
    let bed = Bed::new().await;
    let (mut events, receiver) = channel::unbounded();
    *bed.upstream.events.lock().unwrap() = Some(receiver);
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
async fn before_its_end_a_proxy_takes_connections_and_each_answer_is_the_last_of_its_own() {
    let bed = Bed::new().await;
    assert!(!bed.call().await.headers().contains_key("connection"));
    bed.leaving.cancel();
    in_time(async { while bed.call().await.headers().get("connection").is_none_or(|value| value != "close") {} }).await;
    let own = bed.send(Request::get("/own").body("").unwrap()).await;
    assert_eq!(own.headers()["connection"], "close");
    assert_eq!(text(own).await, "own");
}

#[tokio::test]
async fn a_stream_whose_time_is_over_is_ended_as_a_whole_one() {
    let bed = Bed::configured(|proxy| proxy.config.upstream.timeouts.drain = "1ms".parse().unwrap()).await;
    let _events = bed.parts();
    let stream = bed.listen().await;
    bed.shutdown.cancel();
    assert_eq!(in_time(text(stream)).await, "");
    bed.served.await.unwrap().unwrap();
}
