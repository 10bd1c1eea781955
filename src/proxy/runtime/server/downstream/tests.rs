use std::{future::pending, sync::Arc};

use futures::poll;
use jiff::Timestamp;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::*;
use crate::proxy::{
    resource_server::{Deadlines, TICK, testing::Wakes},
    runtime::drain::Drain,
};

struct Bed {
    deadlines: Rc<Deadlines>,
    connection: Downstream,
    drain: Rc<Drain>,
    end: Watch,
    waiting: Deadline,
    client: TcpStream,
}

impl Bed {
    async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let deadlines = Rc::new(Deadlines::new(Timestamp::UNIX_EPOCH));
        let (connection, waiting) = (Downstream::new(stream, Rc::default()), Deadline::new(deadlines.clone()));
        let drain = Rc::new(Drain::default());
        Self { deadlines, connection, end: drain.watch(), drain, waiting, client }
    }

    async fn next(&mut self) -> Result<Head, NoRequest> {
        self.connection.next(&mut self.end, &mut self.waiting).await
    }

    async fn data(&self) -> Result<Option<Bytes>, WireError> {
        poll_fn(|cx| self.connection.poll_data(cx)).await
    }
}

/// What is sent arrives at once or a moment later.
async fn arrived(connection: &Downstream) {
    poll_fn(|cx| connection.state.borrow().stream.poll_read_ready(cx)).await.unwrap();
}

#[tokio::test]
async fn pipelined_requests_are_read_in_order() {
    let mut bed = Bed::new().await;
    let first = "POST /a HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\n{}";
    let second = "POST /b HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n2\r\n[]\r\n0\r\n\r\n";
    bed.client.write_all(format!("{first}{second}GET /c HTTP/1.1\r\n\r\n").as_bytes()).await.unwrap();
    for (path, content) in [("/a", Some("{}")), ("/b", Some("[]")), ("/c", None)] {
        let head = bed.next().await.unwrap();
        assert_eq!((head.request.uri.path(), bed.connection.left() == Some(0)), (path, content.is_none()));
        if let Some(content) = content {
            bed.connection.take_wanted();
            assert_eq!(bed.data().await.unwrap().unwrap(), content);
            assert!(bed.connection.take_wanted() && !bed.connection.take_wanted());
        }
        assert_eq!(bed.data().await.unwrap(), None);
        assert!(bed.connection.is_read());
    }
    assert!(poll!(std::pin::pin!(bed.next())).is_pending());
    bed.client.shutdown().await.unwrap();
    assert!(matches!(bed.next().await, Err(NoRequest::Over)));
}

#[tokio::test]
async fn head_sent_byte_by_byte_is_parsed_once_per_line() {
    let mut bed = Bed::new().await;
    let head = "GET /a HTTP/1.1\r\nhost: a\r\n\r\n";
    let mut looks = 0;
    for (index, byte) in head.bytes().enumerate() {
        bed.client.write_all(&[byte]).await.unwrap();
        arrived(&bed.connection).await;
        let before = bed.connection.state.borrow().looked_at;
        let next = poll!(std::pin::pin!(bed.connection.next(&mut bed.end, &mut bed.waiting)));
        assert_eq!(next.is_ready(), index == head.len() - 1);
        looks += usize::from(bed.connection.state.borrow().looked_at != before);
    }
    // At the first byte, and then a line each; the last look finds it.
    assert_eq!(looks, 4);
    assert!(bed.connection.state.borrow().read.is_empty());
}

#[tokio::test]
async fn continue_is_sent_when_the_body_is_read() {
    let mut bed = Bed::new().await;
    let head = b"POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n";
    bed.client.write_all(head).await.unwrap();
    bed.next().await.unwrap();
    assert!(!bed.connection.is_read());
    assert!(bed.client.try_read(&mut [0]).is_err());
    assert!(poll!(std::pin::pin!(bed.data())).is_pending());
    assert!(poll!(std::pin::pin!(bed.data())).is_pending());
    let mut word = [0; CONTINUE.len()];
    bed.client.read_exact(&mut word).await.unwrap();
    assert_eq!(word, CONTINUE);
    bed.client.write_all(b"{}").await.unwrap();
    assert_eq!(bed.data().await.unwrap().unwrap(), "{}");
    assert!(bed.client.try_read(&mut [0]).is_err());

    let mut bed = Bed::new().await;
    bed.client.write_all(head).await.unwrap();
    bed.next().await.unwrap();
    let write = poll_fn(|cx| bed.connection.poll_write(b"HTTP/1.1 4", PAUSE, &mut bed.waiting, cx));
    assert_eq!(write.await.unwrap(), 10);
    assert!(poll!(std::pin::pin!(bed.data())).is_pending());
    let mut answer = [0; 20];
    assert_eq!(bed.client.read(&mut answer).await.unwrap(), 10, "nobody is asked to go on after the answer");
}

#[tokio::test]
async fn malformed_content_closes_the_connection() {
    let mut bed = Bed::new().await;
    bed.client.write_all(b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nx\r\n").await.unwrap();
    bed.next().await.unwrap();
    assert!(bed.data().await.is_err() && bed.data().await.is_err());
    assert!(!bed.connection.is_read());

    let mut bed = Bed::new().await;
    bed.client.write_all(b"nonsense\r\n\r\n").await.unwrap();
    assert!(matches!(bed.next().await, Err(NoRequest::Refused(Refusal::Malformed(_)))));

    let mut bed = Bed::new().await;
    bed.client.write_all(b"POST / HTTP/1.1\r\ncontent-length: 2\r\n\r\n{").await.unwrap();
    bed.next().await.unwrap();
    bed.data().await.unwrap();
    drop(bed.client);
    let mut broken = poll_fn(|cx| bed.connection.poll_data(cx));
    assert!(matches!((&mut broken).await, Err(WireError::Incomplete)));
}

#[tokio::test]
async fn head_and_idle_connection_time_out_after_75_seconds() {
    let mut bed = Bed::new().await;
    let (deadlines, ticks) = (bed.deadlines.clone(), HEADER_TIMEOUT.as_millis() / TICK.as_millis());
    let tick = |ticks| (0..ticks).for_each(|_| deadlines.tick(Timestamp::UNIX_EPOCH));
    {
        let mut next = std::pin::pin!(bed.next());
        assert!(poll!(&mut next).is_pending());
        tick(ticks);
        assert!(poll!(&mut next).is_pending());
        tick(2);
        assert!(matches!(next.await, Err(NoRequest::Over)));
    }
    assert!(poll!(std::pin::pin!(bed.next())).is_pending());
    tick(ticks);
    // An empty line is nothing, and a head's time begins with its first byte.
    bed.client.write_all(b"\r\n").await.unwrap();
    arrived(&bed.connection).await;
    assert!(poll!(std::pin::pin!(bed.connection.next(&mut bed.end, &mut bed.waiting))).is_pending());
    bed.client.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    arrived(&bed.connection).await;
    let mut next = std::pin::pin!(bed.connection.next(&mut bed.end, &mut bed.waiting));
    assert!(poll!(&mut next).is_pending());
    for _ in 0..ticks {
        tick(1);
        assert!(poll!(&mut next).is_pending());
        bed.client.write_all(b"a").await.unwrap();
    }
    tick(2);
    assert!(matches!(next.await, Err(NoRequest::Refused(Refusal::TooSlow))));
}

#[tokio::test]
async fn drain_closes_idle_connections_and_not_requests_in_flight() {
    for sent in ["", "\r\n", "\r\n\r"] {
        let mut bed = Bed::new().await;
        bed.client.write_all(sent.as_bytes()).await.unwrap();
        if !sent.is_empty() {
            arrived(&bed.connection).await;
            assert!(poll!(std::pin::pin!(bed.next())).is_pending());
        }
        bed.drain.begin();
        assert!(matches!(bed.next().await, Err(NoRequest::Over)), "{sent:?}");
    }

    let mut bed = Bed::new().await;
    bed.client.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    arrived(&bed.connection).await;
    assert!(poll!(std::pin::pin!(bed.next())).is_pending());
    bed.drain.begin();
    bed.client.write_all(b"\r\n").await.unwrap();
    assert!(bed.next().await.is_ok());
    assert!(matches!(bed.next().await, Err(NoRequest::Over)));
}

#[tokio::test]
async fn client_disconnect_is_noticed_unless_read_ahead_is_full() {
    let mut bed = Bed::new().await;
    assert_eq!(bed.connection.unless_gone(std::future::ready(1)).await, Some(1));
    assert!(poll!(poll_fn(|cx| bed.connection.poll_gone(cx))).is_pending());
    bed.client.shutdown().await.unwrap();
    assert_eq!(bed.connection.unless_gone(pending::<()>()).await, None);

    // What is there of this request or of the next one does not hide it, and is not lost.
    for (sent, left) in
        [("GET /a HTTP/1.1\r\ncontent-length: 2\r\n\r\n{", "{"), ("GET /a HTTP/1.1\r\n\r\nGET /next", "GET /next")]
    {
        let mut bed = Bed::new().await;
        bed.client.write_all(sent.as_bytes()).await.unwrap();
        bed.next().await.unwrap();
        for _ in 0..3 {
            assert!(poll!(poll_fn(|cx| bed.connection.poll_gone(cx))).is_pending());
        }
        assert_eq!(bed.connection.state.borrow().read, left);
        bed.client.shutdown().await.unwrap();
        poll_fn(|cx| bed.connection.poll_gone(cx)).await;
    }
}

#[tokio::test]
async fn read_ahead_wakes_the_body_reader() {
    for (framing, woken) in [("content-length: 2\r\n", 1), ("", 0)] {
        let mut bed = Bed::new().await;
        bed.client.write_all(format!("POST / HTTP/1.1\r\n{framing}\r\n").as_bytes()).await.unwrap();
        bed.next().await.unwrap();
        bed.client.write_all(b"{}").await.unwrap();
        arrived(&bed.connection).await;
        let wakes = Arc::new(Wakes::default());
        assert!(bed.connection.poll_gone(&mut Context::from_waker(&wakes.clone().into())).is_pending());
        assert_eq!((wakes.count(), &bed.connection.state.borrow().read[..]), (woken, &b"{}"[..]));
    }
}

#[tokio::test]
async fn read_ahead_is_bounded() {
    let mut bed = half_read().await;
    bed.client.write_all(&[0; 4 * READ]).await.unwrap();
    for _ in 0..3 {
        arrived(&bed.connection).await;
        assert!(poll!(poll_fn(|cx| bed.connection.poll_gone(cx))).is_pending());
    }
    assert!(bed.connection.state.borrow().read.len() < 2 * READ);
}

/// A connection whose client has sent a part of its request.
async fn half_read() -> Bed {
    let mut bed = Bed::new().await;
    bed.client.write_all(b"POST / HTTP/1.1\r\ncontent-length: 1000000\r\n\r\n").await.unwrap();
    bed.next().await.unwrap();
    bed
}

#[tokio::test]
async fn input_after_the_last_response_is_discarded() {
    let Bed { connection, mut waiting, mut client, .. } = Bed::new().await;
    let mut closing = std::pin::pin!(connection.close(&mut waiting));
    assert!(poll!(&mut closing).is_pending());
    assert_eq!(client.read(&mut [0]).await.unwrap(), 0, "the client sees the end of its answer");
    for _ in 0..3 {
        client.write_all(&[0; 1024]).await.unwrap();
        assert!(poll!(&mut closing).is_pending());
    }
    client.shutdown().await.unwrap();
    closing.await;
}

#[tokio::test]
async fn lingering_close_allows_2_s_pause_and_10_s_in_total() {
    let Bed { deadlines, connection, mut waiting, client: _client, .. } = Bed::new().await;
    let mut closing = std::pin::pin!(connection.close(&mut waiting));
    assert!(poll!(&mut closing).is_pending());
    (0..4).for_each(|_| deadlines.tick(Timestamp::UNIX_EPOCH));
    assert!(poll!(&mut closing).is_pending());
    (0..2).for_each(|_| deadlines.tick(Timestamp::UNIX_EPOCH));
    assert!(poll!(&mut closing).is_ready());

    let Bed { deadlines, connection, mut waiting, mut client, .. } = Bed::new().await;
    let mut closing = std::pin::pin!(connection.close(&mut waiting));
    for second in 0..10 {
        deadlines.tick(Timestamp::from_second(second).unwrap());
        assert!(poll!(&mut closing).is_pending(), "{second}");
        client.write_all(b"a").await.unwrap();
        arrived(&connection).await;
    }
    deadlines.tick(Timestamp::from_second(10).unwrap());
    assert!(poll!(&mut closing).is_ready());
}
