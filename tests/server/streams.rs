//! Event streams and long responses.

use super::*;

#[tokio::test]
async fn events_arrive_immediately_and_end_with_the_session() {
    let bed = Bed::new().await;
    let mut events = bed.parts();
    let mut body = bed.call().await.into_body().into_data_stream();
    for event in ["data: 1\n\n", "data: 2\n\n"] {
        events.send(Ok(Frame::data(Bytes::from(event)))).await.unwrap();
        // The upstream sends nothing more before this event has arrived.
        assert_eq!(body.next().await.unwrap().unwrap(), event);
    }
    bed.apply(SessionEvent::Ended(bed.session.id));
    assert!(in_time(body.next()).await.is_none());
}

#[tokio::test]
async fn response_cut_by_session_end_is_incomplete() {
    let bed = Bed::new().await;
    let mut part = bed.parts();
    let response = bed.send(bed.request("/mcp?json").body("{}").unwrap()).await;
    let mut body = response.into_body().into_data_stream();
    part.send(Ok(Frame::data(Bytes::from("{\"half\":")))).await.unwrap();
    assert_eq!(body.next().await.unwrap().unwrap(), "{\"half\":");
    bed.apply(SessionEvent::Ended(bed.session.id));
    assert!(body.next().await.unwrap().is_err());
}
