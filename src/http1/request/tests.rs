use std::task::Waker;

use futures::channel::mpsc;
use http::header::{ACCEPT, HOST};
use http_body::Frame;
use http_body_util::{Empty, Full, StreamBody};
use tokio::io::AsyncReadExt;

use super::*;

type Parts = mpsc::UnboundedReceiver<Result<Frame<Bytes>, BoxError>>;

fn head(method: Method) -> RequestHead {
    let mut head = RequestHead::new(method, &Uri::from_static("/mcp"));
    head.add(&HOST, &HeaderValue::from_static("gateway"));
    head.add(&ACCEPT, &HeaderValue::from_static("*/*"));
    head.with_target(&Uri::from_static("/mcp?a=b"))
}

fn cx() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

/// Sends a request to a peer that reads a few bytes at a time.
async fn sent(
    mut request: Outgoing<impl Body<Data = Bytes, Error: Into<BoxError>> + Unpin>,
) -> Result<String, WireError> {
    let (mut ours, mut peer) = tokio::io::duplex(7);
    let mut text = String::new();
    let sending = async {
        let sent = std::future::poll_fn(|cx| request.poll(&mut ours, cx)).await;
        drop(ours);
        sent
    };
    let (sent, _) = futures::join!(sending, peer.read_to_string(&mut text));
    assert!(sent.is_err() || request.is_complete());
    sent.map(|()| text)
}

fn parts(given: &[&'static str]) -> (mpsc::UnboundedSender<Result<Frame<Bytes>, BoxError>>, StreamBody<Parts>) {
    let (more, parts) = mpsc::unbounded();
    given.iter().for_each(|part| more.unbounded_send(Ok(Frame::data(Bytes::from_static(part.as_bytes())))).unwrap());
    (more, StreamBody::new(parts))
}

#[tokio::test]
async fn request_declares_body_length_where_a_body_is_expected() {
    const HEAD: &str = "/mcp?a=b HTTP/1.1\r\nhost: gateway\r\naccept: */*\r\n";
    for method in [Method::GET, Method::DELETE, Method::HEAD] {
        let text = sent(Outgoing::new(head(method.clone()), Empty::new())).await.unwrap();
        assert_eq!(text, format!("{method} {HEAD}\r\n"));
    }
    let text = sent(Outgoing::new(head(Method::POST), Empty::new())).await.unwrap();
    assert_eq!(text, format!("POST {HEAD}content-length: 0\r\n\r\n"));
    let text = sent(Outgoing::new(head(Method::POST), Full::new(Bytes::from("hello")))).await.unwrap();
    assert_eq!(text, format!("POST {HEAD}content-length: 5\r\n\r\nhello"));
    let (_, body) = parts(&["", "hello ", "", "world of parts"]);
    let text = sent(Outgoing::new(head(Method::POST), body)).await.unwrap();
    let chunks = "6\r\nhello \r\ne\r\nworld of parts\r\n0\r\n\r\n";
    assert_eq!(text, format!("POST {HEAD}transfer-encoding: chunked\r\n\r\n{chunks}"));
}

/// A stream with limited capacity and an optional flush.
#[derive(Default)]
struct Stalling {
    capacity: usize,
    flushes: bool,
}

impl AsyncWrite for Stalling {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let some = bytes.len().min(self.capacity);
        self.capacity -= some;
        if some == 0 { Poll::Pending } else { Poll::Ready(Ok(some)) }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.flushes { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn long_body_arrives_complete_under_backpressure() {
    let (more, mut body) = parts(&[]);
    let part = Bytes::from("0123456789".repeat(500));
    (0..20).for_each(|_| more.unbounded_send(Ok(Frame::data(part.clone()))).unwrap());
    let mut request = Outgoing::new(head(Method::POST), &mut body);
    assert!(request.poll(&mut Stalling::default(), &mut cx()).is_pending());
    let held = request.unsent.len();
    drop(request);
    let left = std::iter::from_fn(|| Pin::new(&mut body).poll_frame(&mut cx()).is_ready().then_some(())).count();
    assert!((BUFFER..BUFFER + 6_000).contains(&held) && left == 16, "{held} {left}");
    let long = Bytes::from("0123456789".repeat(BUFFER / 4));
    let text = sent(Outgoing::new(head(Method::POST), Full::new(long.clone()))).await.unwrap();
    assert_eq!(text.split_once("\r\n\r\n").unwrap().1.as_bytes(), long);
}

#[test]
fn request_is_complete_when_flushed() {
    let mut request = Outgoing::new(head(Method::POST), Full::new(Bytes::from("hello")));
    let mut peer = Stalling { capacity: 1000, ..Stalling::default() };
    assert!(request.poll(&mut peer, &mut cx()).is_pending() && request.unsent.is_empty());
    assert!(!request.is_complete());
    peer.flushes = true;
    assert!(request.poll(&mut peer, &mut cx()).is_ready() && request.is_complete());
}

#[test]
fn request_is_unsent_until_the_stream_accepts_data() {
    let mut request = Outgoing::new(head(Method::POST), Full::new(Bytes::from("hello")));
    let mut peer = Stalling::default();
    assert!(request.poll(&mut peer, &mut cx()).is_pending() && request.is_unsent());
    peer.capacity = 1;
    assert!(request.poll(&mut peer, &mut cx()).is_pending() && !request.is_unsent());
    let mut long = Outgoing::new(head(Method::POST), Full::new(Bytes::from(vec![0; BUFFER])));
    assert!(long.poll(&mut Stalling::default(), &mut cx()).is_pending() && !long.is_unsent());
}

/// A body that declares three bytes, whatever it has.
struct WrongLength(&'static str);

impl Body for WrongLength {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let text = std::mem::take(&mut self.0);
        Poll::Ready(if text.is_empty() { None } else { Some(Ok(Frame::data(text.into()))) })
    }

    fn size_hint(&self) -> http_body::SizeHint {
        http_body::SizeHint::with_exact(3)
    }
}

#[tokio::test]
async fn body_of_wrong_length_fails_the_request() {
    for text in ["ab", "abcd"] {
        assert!(matches!(sent(Outgoing::new(head(Method::POST), WrongLength(text))).await, Err(WireError::Body(_))));
    }
    assert!(sent(Outgoing::new(head(Method::POST), WrongLength("abc"))).await.is_ok());
}

#[tokio::test]
async fn request_starts_when_body_data_is_available() {
    let (more, body) = parts(&[]);
    let mut request = Outgoing::new(head(Method::POST), body);
    assert!(request.poll_available(&mut cx()).is_pending());
    more.unbounded_send(Ok(Frame::data(Bytes::from("a")))).unwrap();
    assert!(matches!(request.poll_available(&mut cx()), Poll::Ready(Ok(()))));
    assert!(!request.is_complete());
    more.unbounded_send(Err("gone".into())).unwrap();
    assert!(matches!(request.poll_available(&mut cx()), Poll::Ready(Err(WireError::Body(_)))));
    let mut get = Outgoing::new(head(Method::GET), Empty::<Bytes>::new());
    assert!(get.poll_available(&mut cx()).is_ready());
}
