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
