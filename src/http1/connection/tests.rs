use std::{pin::Pin, sync::Arc};

use futures::channel::mpsc;
use http::{Method, Uri};
use http_body::Frame;
use http_body_util::{Full, StreamBody};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::super::RequestHead;
use super::*;
use crate::testing::Wakes;

const REQUEST: &str = "POST / HTTP/1.1\r\ncontent-length: 2\r\n\r\n{}";

fn pair<B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin>() -> (Connection<DuplexStream, B>, DuplexStream) {
    let (ours, upstream) = duplex(1024);
    (Connection::new(ours, Rc::default(), |_| true), upstream)
}

fn request<B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin>(body: B) -> Outgoing<B> {
    Outgoing::new(RequestHead::new(Method::POST, &Uri::from_static("/")), body)
}

async fn send(connection: &mut Connection<DuplexStream, Full<Bytes>>) -> Result<Response<()>, WireError> {
    connection.send(request(Full::from("{}"))).await
}

async fn read(upstream: &mut DuplexStream, text: &str) {
    let mut read = vec![0; text.len()];
    upstream.read_exact(&mut read).await.unwrap();
    assert_eq!(String::from_utf8(read).unwrap(), text);
}

#[tokio::test]
async fn connection_serves_consecutive_exchanges_without_a_task() {
    let (mut connection, mut upstream) = pair();
    for number in 0..3 {
        let text = format!("response {number}");
        let response = async {
            send(&mut connection).await.unwrap();
            let mut read = Vec::new();
            while let Some(content) = poll_fn(|cx| connection.poll_content(cx)).await {
                read.extend_from_slice(&content.unwrap());
            }
            String::from_utf8(read).unwrap()
        };
        let serving = async {
            read(&mut upstream, REQUEST).await;
            let (first, second) = text.split_at(3);
            upstream
                .write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", text.len()).as_bytes())
                .await
                .unwrap();
            for part in [first, second] {
                tokio::task::yield_now().await;
                upstream.write_all(part.as_bytes()).await.unwrap();
            }
        };
        let (response, ()) = futures::join!(response, serving);
        assert_eq!(response, text);
        assert!(connection.is_ready(), "after response {number}");
    }
}

#[tokio::test]
async fn waiting_task_is_woken_by_its_own_data_only() {
    let (mut connection, mut upstream) = pair();
    let wakes = Arc::new(Wakes::default());
    let waker = wakes.clone().into();
    let mut cx = Context::from_waker(&waker);
    {
        let mut sent = std::pin::pin!(send(&mut connection));
        assert!(sent.as_mut().poll(&mut cx).is_pending());
        assert_eq!(wakes.count(), 0);
        read(&mut upstream, REQUEST).await;
        upstream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{").await.unwrap();
        assert_eq!(wakes.count(), 1);
        assert!(sent.as_mut().poll(&mut cx).is_ready());
    }
    assert!(matches!(connection.poll_content(&mut cx), Poll::Ready(Some(Ok(_)))));
    assert!(connection.poll_content(&mut cx).is_pending());
    upstream.write_all(b"}").await.unwrap();
    assert_eq!(wakes.count(), 2);
    assert!(matches!(connection.poll_content(&mut cx), Poll::Ready(Some(Ok(_)))));
    assert!(connection.is_ready());
    drop(upstream);
    assert_eq!(wakes.count(), 2);
    assert!(!connection.is_ready());
}

/// Whether the connection is ready after a response in two parts, of which the second may be empty.
async fn is_ready_after(parts: [&str; 2]) -> bool {
    let (mut connection, mut upstream) = pair();
    let exchange = async {
        send(&mut connection).await.unwrap();
        while poll_fn(|cx| connection.poll_content(cx)).await.is_some() {}
    };
    let serving = async {
        read(&mut upstream, REQUEST).await;
        upstream.write_all(parts[0].as_bytes()).await.unwrap();
    };
    futures::join!(exchange, serving);
    upstream.write_all(parts[1].as_bytes()).await.unwrap();
    connection.is_ready()
}

#[tokio::test]
async fn connection_with_excess_response_bytes_is_not_reused() {
    const RESPONSE: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    assert!(is_ready_after([RESPONSE, ""]).await);
    assert!(!is_ready_after([&RESPONSE.repeat(2), ""]).await);
    assert!(!is_ready_after([RESPONSE, RESPONSE]).await);
    assert!(!is_ready_after(["HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n", ""]).await);
}

#[tokio::test]
async fn request_sent_on_closed_connection_is_returned() {
    let (mut connection, upstream) = pair();
    drop(upstream);
    assert!(matches!(send(&mut connection).await, Err(WireError::Io(_))));
    let unsent = connection.take_unsent().unwrap();
    let (mut other, mut upstream) = pair();
    let exchange = async { other.send(unsent).await.unwrap().status() };
    let serving = async {
        read(&mut upstream, REQUEST).await;
        upstream.write_all(b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    };
    assert_eq!(futures::join!(exchange, serving).0, 202);
    assert!(other.take_unsent().is_none());
}

#[tokio::test]
async fn request_that_upstream_may_have_read_is_not_returned() {
    let (mut connection, mut upstream) = pair();
    let exchange = async { send(&mut connection).await.unwrap_err() };
    let serving = async move { read(&mut upstream, "POST").await };
    assert!(matches!(futures::join!(exchange, serving).0, WireError::NoResponse));
    assert!(connection.take_unsent().is_none());
}

#[tokio::test]
async fn request_with_failed_body_is_not_returned() {
    let (mut connection, _upstream) = pair();
    let (_more, request) = started(Err("the client is gone".into()));
    let sent = connection.send(request).await;
    assert!(matches!(sent, Err(WireError::Body(_))));
    assert!(connection.take_unsent().is_none() && !connection.is_ready());
}

#[tokio::test]
async fn responses_without_content_leave_connection_reusable() {
    let (mut connection, mut upstream) = pair::<Full<Bytes>>();
    for (method, response, left) in [
        (Method::HEAD, "HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n", Some(0)),
        (Method::GET, "HTTP/1.1 304 Not Modified\r\ncontent-length: 7\r\n\r\n", Some(0)),
        (Method::DELETE, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n", Some(0)),
        (Method::GET, "HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n", Some(7)),
    ] {
        let request = Outgoing::new(RequestHead::new(method.clone(), &Uri::from_static("/")), Full::default());
        let serving = async {
            read(&mut upstream, &format!("{method} / HTTP/1.1\r\n\r\n")).await;
            upstream.write_all(response.as_bytes()).await.unwrap();
        };
        futures::join!(async { connection.send(request).await.unwrap() }, serving);
        assert_eq!((connection.remaining(), connection.is_ready()), (left, left == Some(0)), "{response}");
    }
}

type Parts = mpsc::UnboundedSender<Result<Frame<Bytes>, BoxError>>;

/// A request whose body begins with this part.
fn started(
    part: Result<&'static str, BoxError>,
) -> (Parts, Outgoing<impl Body<Data = Bytes, Error = BoxError> + Unpin>) {
    let (more, parts) = mpsc::unbounded();
    more.unbounded_send(part.map(|part| Frame::data(part.into()))).unwrap();
    (more, request(StreamBody::new(parts)))
}

/// The request of [`started`] on the wire.
const STARTED: &str = "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n";

#[tokio::test]
async fn early_response_leaves_connection_not_ready() {
    let (mut connection, mut upstream) = pair();
    let (_more, request) = started(Ok("a"));
    let exchange = async {
        let response = connection.send(request).await.unwrap();
        assert_eq!(response.status(), 413);
    };
    let serving = async {
        read(&mut upstream, STARTED).await;
        upstream.write_all(b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    };
    futures::join!(exchange, serving);
    assert!(!connection.is_ready());
}

#[tokio::test]
async fn request_body_continues_while_response_streams() {
    let (mut connection, mut upstream) = pair();
    let (more, request) = started(Ok("a"));
    let exchange = async {
        connection.send(request).await.unwrap();
        more.unbounded_send(Ok(Frame::data(Bytes::from("b")))).unwrap();
        drop(more);
        poll_fn(|cx| connection.poll_content(cx)).await.unwrap().unwrap()
    };
    let serving = async {
        read(&mut upstream, STARTED).await;
        upstream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n").await.unwrap();
        read(&mut upstream, "1\r\nb\r\n0\r\n\r\n").await;
        upstream.write_all(b"ok").await.unwrap();
    };
    assert_eq!(futures::join!(exchange, serving).0, "ok");
    assert!(connection.is_ready());
}

/// Accepts a few bytes, then fails.
#[derive(Default)]
struct Failing {
    has_accepted: bool,
}

impl AsyncWrite for Failing {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        let fails = mem::replace(&mut self.has_accepted, true);
        Poll::Ready(if fails { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(10) })
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn early_response_is_read_after_write_failure_and_connection_is_not_reused() {
    let (ours, mut upstream) = duplex(1024);
    let mut connection = Connection::new(tokio::io::join(ours, Failing::default()), Rc::default(), |_| true);
    upstream.write_all(b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    let response = connection.send(request(Full::from("x".repeat(100)))).await.unwrap();
    assert_eq!(response.status(), 413);
    assert!(!connection.is_ready());
}

#[tokio::test]
async fn broken_connection_fails_the_response() {
    for (response, whole) in [
        ("", false),
        ("HTTP/1.1 200 OK\r\ncontent-le", false),
        ("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf", false),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n", false),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf!", false),
        ("HTTP/1.1 200 OK\r\n\r\nall", true),
    ] {
        let (mut connection, mut upstream) = pair();
        let exchange = async {
            send(&mut connection).await?;
            while let Some(content) = poll_fn(|cx| connection.poll_content(cx)).await {
                content?;
            }
            Ok::<_, WireError>(())
        };
        let serving = async move {
            read(&mut upstream, REQUEST).await;
            upstream.write_all(response.as_bytes()).await.unwrap();
        };
        assert_eq!(futures::join!(exchange, serving).0.is_ok(), whole, "{response}");
        assert!(!connection.is_ready(), "{response}");
    }
}
