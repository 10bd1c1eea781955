use std::{
    future::{pending, poll_fn, ready},
    pin::pin,
    sync::Arc,
};

use bytes::Bytes;
use futures::poll;
use hyper::rt::ReadBuf;
use jiff::SignedDuration;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::{super::client_connection::MAX_READ, *};
use crate::{
    proxy::{
        clock::wall_clock,
        resource_server::{Forwarder, Worker},
    },
    testing::{Wakes, temporary_proxy},
};

struct Bed {
    _directory: tempfile::TempDir,
    worker: Rc<Worker>,
    connection: Rc<ClientConnection>,
    client: TcpStream,
}

impl Bed {
    async fn new() -> Self {
        let (directory, proxy) = temporary_proxy(wall_clock()).await;
        let forwarder = Forwarder::new(&proxy.authorization_server.config, proxy.resource_server.clone()).unwrap();
        let worker = Rc::new(Worker::new(Arc::new(forwarder)));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let connection = Rc::new(ClientConnection::new(stream, worker.clone(), None));
        Self { _directory: directory, worker, connection, client }
    }

    /// A connection whose client has sent this, and waits until it has arrived.
    async fn with_input(input: &str) -> Self {
        let mut bed = Self::new().await;
        bed.send(input).await;
        bed
    }

    async fn send(&mut self, input: &str) {
        self.client.write_all(input.as_bytes()).await.unwrap();
        if !input.is_empty() {
            arrived(&self.connection).await;
        }
    }

    /// What hyper reads; empty at the end.
    async fn read(&self) -> io::Result<String> {
        let mut bytes = [0; 4096];
        let mut buffer = ReadBuf::new(&mut bytes);
        poll_fn(|cx| self.connection.poll_read(buffer.unfilled(), cx)).await?;
        Ok(String::from_utf8(buffer.filled().to_vec()).unwrap())
    }

    async fn is_read_pending(&self) -> bool {
        poll!(pin!(self.read())).is_pending()
    }

    async fn is_gone_pending(&self) -> bool {
        poll!(pin!(poll_fn(|cx| self.connection.poll_gone(cx)))).is_pending()
    }

    fn buffered(&self) -> Bytes {
        self.connection.state.borrow().input.bytes.clone()
    }

    fn advance(&self, seconds: usize) {
        (0..2 * seconds).for_each(|_| self.worker.deadlines.tick(self.worker.deadlines.time()));
    }
}

async fn arrived(connection: &ClientConnection) {
    poll_fn(|cx| connection.state.borrow().stream.inner().poll_read_ready(cx)).await.unwrap();
}

#[tokio::test]
async fn pipelined_head_waits_for_the_previous_response() {
    let first = "POST /a HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\n";
    let second = "POST /b HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
    let content = "2\r\n[]\r\n0\r\n\r\n";
    let mut bed = Bed::with_input(&format!("{first}{{}}{second}{content}")).await;
    assert_eq!(bed.read().await.unwrap(), format!("{first}{{}}"));
    assert_eq!(bed.connection.begin(), 0);
    assert!(bed.is_read_pending().await);
    bed.connection.end();
    assert_eq!(bed.read().await.unwrap(), format!("{second}{content}"));
    assert!(bed.connection.has_all_content());
    assert!(bed.is_read_pending().await);
    bed.client.shutdown().await.unwrap();
    assert_eq!(bed.read().await.unwrap(), "");
}

#[tokio::test]
async fn malformed_input_is_refused_or_fails() {
    let bed = Bed::with_input("nonsense\r\n\r\n").await;
    assert!(bed.read().await.unwrap().contains("host: refused"));
    assert!(matches!(bed.connection.take_refused(), Some(Refused::Head(Refusal::Malformed(_)))));

    let head = "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n";
    let bed = Bed::with_input(&format!("{head}x\r\n")).await;
    assert_eq!(bed.read().await.unwrap(), head);
    assert!(bed.read().await.is_err() && bed.read().await.is_err());

    let input = "POST / HTTP/1.1\r\ncontent-length: 2\r\n\r\n{";
    let bed = Bed::with_input(input).await;
    assert_eq!(bed.read().await.unwrap(), input);
    assert!(!bed.connection.has_all_content());
    drop(bed.client);
    let mut bytes = [0; 10];
    let mut buffer = ReadBuf::new(&mut bytes);
    poll_fn(|cx| bed.connection.poll_read(buffer.unfilled(), cx)).await.unwrap();
    assert_eq!(buffer.filled(), b"", "hyper sees the end before the content is complete");
}

#[tokio::test]
async fn head_and_idle_connection_time_out_after_75_seconds() {
    let bed = Bed::new().await;
    {
        let mut read = pin!(bed.read());
        assert!(poll!(&mut read).is_pending());
        bed.advance(75);
        assert!(poll!(&mut read).is_pending());
        bed.advance(1);
        assert_eq!(read.await.unwrap(), "");
    }

    let mut bed = Bed::new().await;
    assert!(bed.is_read_pending().await);
    bed.advance(75);
    // An empty line counts as idle; the timeout of a head starts with its first byte.
    bed.send("\r\n").await;
    assert!(bed.is_read_pending().await);
    bed.send("GET / HTTP/1.1\r\n").await;
    assert!(bed.is_read_pending().await);
    for _ in 0..75 {
        bed.advance(1);
        assert!(bed.is_read_pending().await);
        bed.send("a").await;
    }
    bed.advance(1);
    assert!(bed.read().await.unwrap().contains("host: refused"));
    assert_eq!(bed.connection.take_refused(), Some(Refused::Head(Refusal::TooSlow)));
}

#[tokio::test]
async fn drain_closes_idle_connections_and_not_requests_in_flight() {
    for input in ["", "\r\n", "\r\n\r"] {
        let bed = Bed::with_input(input).await;
        assert!(bed.is_read_pending().await);
        bed.worker.drain();
        assert_eq!(bed.read().await.unwrap(), "", "{input:?}");
    }

    // A request that has arrived is not in flight yet, but its client expects a response.
    let mut bed = Bed::new().await;
    assert!(bed.is_read_pending().await);
    bed.send("GET / HTTP/1.1\r\n\r\n").await;
    bed.worker.drain();
    assert_eq!(bed.read().await.unwrap(), "GET / HTTP/1.1\r\n\r\n");

    let mut bed = Bed::with_input("GET / HTTP/1.1\r\n").await;
    assert!(bed.is_read_pending().await);
    bed.worker.drain();
    bed.send("\r\n").await;
    assert_eq!(bed.read().await.unwrap(), "GET / HTTP/1.1\r\n\r\n");
    bed.connection.begin();
    assert!(bed.is_read_pending().await);
    bed.connection.end();
    assert_eq!(bed.read().await.unwrap(), "");
}

#[tokio::test]
async fn client_disconnect_is_noticed_despite_early_input() {
    let mut bed = Bed::new().await;
    assert_eq!(bed.connection.unless_gone(ready(1)).await, Some(1));
    assert!(bed.is_gone_pending().await);
    bed.client.shutdown().await.unwrap();
    assert_eq!(bed.connection.unless_gone(pending::<()>()).await, None);

    // Early content, and a part of the next request, which are kept.
    for (head, rest) in
        [("GET /a HTTP/1.1\r\ncontent-length: 2\r\n\r\n", "{"), ("GET /a HTTP/1.1\r\n\r\n", "GET /next")]
    {
        let mut bed = Bed::with_input(head).await;
        bed.read().await.unwrap();
        bed.send(rest).await;
        for _ in 0..3 {
            assert!(bed.is_gone_pending().await);
        }
        assert_eq!(bed.buffered(), rest);
        bed.client.shutdown().await.unwrap();
        poll_fn(|cx| bed.connection.poll_gone(cx)).await;
    }
}

#[tokio::test]
async fn early_content_wakes_the_body_reader() {
    for (framing, woken) in [("content-length: 2\r\n", 1), ("", 0)] {
        let mut bed = Bed::with_input(&format!("POST / HTTP/1.1\r\n{framing}\r\n")).await;
        bed.read().await.unwrap();
        bed.send("{}").await;
        let wakes = Arc::new(Wakes::default());
        assert!(bed.connection.poll_gone(&mut Context::from_waker(&wakes.clone().into())).is_pending());
        assert_eq!((wakes.count(), &bed.buffered()[..]), (woken, &b"{}"[..]));
    }
}

#[tokio::test]
async fn early_input_is_bounded() {
    let mut bed = Bed::with_input("POST / HTTP/1.1\r\ncontent-length: 1000000\r\n\r\n").await;
    bed.read().await.unwrap();
    bed.client.write_all(&[0; 4 * MAX_READ]).await.unwrap();
    for _ in 0..3 {
        arrived(&bed.connection).await;
        assert!(bed.is_gone_pending().await);
    }
    assert!(bed.buffered().len() < 2 * MAX_READ);
}

#[tokio::test]
async fn input_after_the_last_response_is_discarded() {
    let mut bed = Bed::new().await;
    poll_fn(|cx| Pin::new(&mut ClientIo(bed.connection.clone())).poll_shutdown(cx)).await.unwrap();
    let mut closing = pin!(bed.connection.close());
    assert!(poll!(&mut closing).is_pending());
    assert_eq!(bed.client.read(&mut [0]).await.unwrap(), 0, "the client sees the end of the response");
    for _ in 0..3 {
        bed.client.write_all(&[0; 1024]).await.unwrap();
        assert!(poll!(&mut closing).is_pending());
    }
    bed.client.shutdown().await.unwrap();
    closing.await;
}

#[tokio::test]
async fn lingering_close_allows_2_s_pause_and_10_s_in_total() {
    let bed = Bed::new().await;
    let mut closing = pin!(bed.connection.close());
    assert!(poll!(&mut closing).is_pending());
    bed.advance(2);
    assert!(poll!(&mut closing).is_pending());
    bed.advance(1);
    assert!(poll!(&mut closing).is_ready());

    let mut bed = Bed::new().await;
    let start = bed.worker.deadlines.time();
    let mut closing = pin!(bed.connection.close());
    for second in 0..10 {
        bed.worker.deadlines.tick(start + SignedDuration::from_secs(second));
        assert!(poll!(&mut closing).is_pending(), "{second}");
        bed.client.write_all(b"a").await.unwrap();
        arrived(&bed.connection).await;
    }
    bed.worker.deadlines.tick(start + SignedDuration::from_secs(10));
    assert!(poll!(&mut closing).is_ready());
}
