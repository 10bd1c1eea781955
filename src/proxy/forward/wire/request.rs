use std::{
    io::{self, Write},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, BufMut, Bytes, BytesMut, buf::Writer};
use http::{HeaderName, HeaderValue, Method, Uri};
use http_body::Body;
use tokio::io::AsyncWrite;

use super::WireError;
use crate::proxy::forward::BoxError;

/// Room for the head of a request and a short message.
const ROOM: usize = 1024;

/// So much is taken of a body before some of it is written: what a record of TLS holds.
const ENOUGH: usize = 16 * 1024;

/// The head of a request, but for how long its body is (RFC 9112 §6): that is said here alone.
pub struct RequestHead {
    /// What is to be done.
    pub method: Method,
    /// In origin form.
    pub target: Uri,
    /// Without any that is about the connection or the body's length.
    pub fields: Fields,
}

/// Headers as they are sent.
#[derive(Debug)]
pub struct Fields(Vec<u8>);

impl Default for Fields {
    fn default() -> Self {
        Self(Vec::with_capacity(ROOM))
    }
}

impl Fields {
    /// These, with room for others.
    pub fn and_more(&self) -> Self {
        let mut fields = Self::default();
        fields.0.extend_from_slice(&self.0);
        fields
    }

    /// One more.
    pub fn add(&mut self, name: &HeaderName, value: &HeaderValue) {
        let (name, value) = (name.as_str().as_bytes(), value.as_bytes());
        self.0.reserve(name.len() + value.len() + 4);
        self.0.extend_from_slice(name);
        self.0.extend_from_slice(b": ");
        self.0.extend_from_slice(value);
        self.0.extend_from_slice(b"\r\n");
    }
}

impl AsRef<[u8]> for Fields {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// A request on its way out.
pub struct Outgoing<B> {
    /// Whether its answer has no content, whatever that says (RFC 9110 §9.3.2).
    is_head: bool,
    /// What is not yet written.
    unsent: BytesMut,
    /// What is not yet in there.
    rest: Option<Rest<B>>,
    /// Nothing of what was written waits in the stream's own buffers.
    flushed: bool,
    /// The stream has taken something.
    touched: bool,
}

struct Rest<B> {
    body: B,
    /// How many bytes it has; `None` if that is not known, and it is sent in chunks.
    left: Option<u64>,
}

impl<B> Outgoing<B> {
    /// None.
    pub fn none() -> Self {
        Self { is_head: false, unsent: BytesMut::new(), rest: None, flushed: true, touched: true }
    }

    /// Whether its answer has no content, whatever that says.
    pub fn is_head(&self) -> bool {
        self.is_head
    }

    /// Whether all of it was written, and nothing waits in the stream's buffers.
    pub fn is_over(&self) -> bool {
        self.rest.is_none() && self.unsent.is_empty() && self.flushed
    }

    /// Whether nobody can have read anything of it. Of what does not fit one record, TLS may have sent some and failed then.
    pub fn is_untouched(&self) -> bool {
        !self.touched && self.unsent.len() <= ENOUGH
    }
}

impl<B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin> Outgoing<B> {
    /// A request with this head.
    pub fn new(head: &RequestHead, body: B) -> Self {
        let mut unsent = BytesMut::with_capacity(ROOM);
        let target = head.target.path_and_query().map_or("/", |target| target.as_str());
        for part in [head.method.as_str(), " ", target, " HTTP/1.1\r\n"] {
            unsent.put_slice(part.as_bytes());
        }
        unsent.put_slice(head.fields.as_ref());
        // What a GET has for a body means nothing (RFC 9110 §9.3.1), and servers that do not expect one take it for a request.
        let has_body = !matches!(head.method, Method::GET | Method::HEAD);
        let length = if has_body { body.size_hint().exact() } else { Some(0) };
        match length {
            // A body is expected with a POST, none with the others (RFC 9110 §8.6).
            Some(0) if head.method != Method::POST => (),
            Some(length) => write_number(&mut unsent, format_args!("content-length: {length}\r\n")),
            None => unsent.put_slice(b"transfer-encoding: chunked\r\n"),
        }
        unsent.put_slice(b"\r\n");
        let rest = if length == Some(0) { None } else { Some(Rest { body, left: length }) };
        Self { is_head: head.method == Method::HEAD, unsent, rest, flushed: true, touched: false }
    }

    /// Ready when something of the body is there, or there is none: head and body make one packet then, and no connection waits
    /// for a client.
    pub fn poll_begun(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WireError>> {
        let head = self.unsent.len();
        let is_whole = self.fill(cx)?.is_ready();
        if is_whole || self.unsent.len() > head { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    /// Writes as much as is there and as the stream takes. Ready when all is written.
    pub fn poll(
        &mut self,
        stream: &mut (impl AsyncWrite + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), WireError>> {
        while !self.is_over() {
            let is_whole = self.fill(cx)?.is_ready();
            if self.unsent.is_empty() && self.flushed && !is_whole {
                return Poll::Pending;
            }
            while !self.unsent.is_empty() {
                match ready!(Pin::new(&mut *stream).poll_write(cx, &self.unsent))? {
                    0 => return Poll::Ready(Err(io::Error::from(io::ErrorKind::WriteZero).into())),
                    written => self.unsent.advance(written.min(self.unsent.len())),
                }
                (self.flushed, self.touched) = (false, true);
            }
            ready!(Pin::new(&mut *stream).poll_flush(cx))?;
            self.flushed = true;
            if is_whole {
                // Nothing is kept for an answer that may take long.
                self.unsent = BytesMut::new();
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Takes of the body what is there, up to [`ENOUGH`]. Ready when that was the end of it.
    fn fill(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, WireError> {
        let Self { unsent, rest: waiting, .. } = self;
        while let Some(rest) = waiting {
            if unsent.len() >= ENOUGH {
                return Ok(Poll::Pending);
            }
            let Poll::Ready(frame) = Pin::new(&mut rest.body).poll_frame(cx) else { return Ok(Poll::Pending) };
            let is_last = match frame {
                Some(Ok(frame)) => {
                    // Trailers are not passed on: without `TE` nobody may expect them (RFC 9110 §6.5.1).
                    if let Ok(data) = frame.into_data() {
                        rest.write(&data, unsent)?;
                    }
                    rest.left == Some(0) || rest.body.is_end_stream()
                }
                Some(Err(error)) => return Err(WireError::Body(error.into())),
                None => true,
            };
            if is_last {
                rest.end(unsent)?;
                *waiting = None;
            }
        }
        Ok(Poll::Ready(()))
    }
}

impl<B> Rest<B> {
    fn write(&mut self, data: &Bytes, out: &mut BytesMut) -> Result<(), WireError> {
        match &mut self.left {
            Some(left) => {
                *left = left.checked_sub(data.len() as u64).ok_or_else(other_length)?;
                out.put_slice(data);
            }
            // One of no bytes would be the last.
            None if data.is_empty() => (),
            None => {
                write_number(out, format_args!("{:x}\r\n", data.len()));
                out.put_slice(data);
                out.put_slice(b"\r\n");
            }
        }
        Ok(())
    }

    fn end(&self, out: &mut BytesMut) -> Result<(), WireError> {
        match self.left {
            Some(0) => Ok(()),
            Some(_) => Err(other_length()),
            None => {
                out.put_slice(b"0\r\n\r\n");
                Ok(())
            }
        }
    }
}

/// A body that is not as long as it says would make the rest of it another request.
fn other_length() -> WireError {
    WireError::Body("the request's body is not as long as it says".into())
}

/// What is written there always fits.
fn write_number(out: &mut BytesMut, number: std::fmt::Arguments<'_>) {
    let mut writer: Writer<&mut BytesMut> = out.writer();
    let _ = writer.write_fmt(number);
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use futures::channel::mpsc;
    use http::header::{ACCEPT, HOST};
    use http_body::Frame;
    use http_body_util::{Empty, Full, StreamBody};
    use tokio::io::AsyncReadExt;

    use super::*;

    type Parts = mpsc::UnboundedReceiver<Result<Frame<Bytes>, BoxError>>;

    fn head(method: Method) -> RequestHead {
        let mut fields = Fields::default();
        fields.add(&HOST, &HeaderValue::from_static("gateway"));
        fields.add(&ACCEPT, &HeaderValue::from_static("*/*"));
        RequestHead { method, target: Uri::from_static("/mcp?a=b"), fields }
    }

    fn cx() -> Context<'static> {
        Context::from_waker(Waker::noop())
    }

    /// What is sent of a request that is there, to a peer that takes a few bytes at a time.
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
        assert!(sent.is_err() || request.is_over());
        sent.map(|()| text)
    }

    fn parts(given: &[&'static str]) -> (mpsc::UnboundedSender<Result<Frame<Bytes>, BoxError>>, StreamBody<Parts>) {
        let (more, parts) = mpsc::unbounded();
        given
            .iter()
            .for_each(|part| more.unbounded_send(Ok(Frame::data(Bytes::from_static(part.as_bytes())))).unwrap());
        (more, StreamBody::new(parts))
    }

    #[tokio::test]
    async fn a_request_says_how_long_its_body_is_where_one_is_expected() {
        const HEAD: &str = "/mcp?a=b HTTP/1.1\r\nhost: gateway\r\naccept: */*\r\n";
        for method in [Method::GET, Method::DELETE, Method::HEAD] {
            let text = sent(Outgoing::new(&head(method.clone()), Empty::new())).await.unwrap();
            assert_eq!(text, format!("{method} {HEAD}\r\n"));
        }
        let text = sent(Outgoing::new(&head(Method::POST), Empty::new())).await.unwrap();
        assert_eq!(text, format!("POST {HEAD}content-length: 0\r\n\r\n"));
        let text = sent(Outgoing::new(&head(Method::POST), Full::new(Bytes::from("hello")))).await.unwrap();
        assert_eq!(text, format!("POST {HEAD}content-length: 5\r\n\r\nhello"));
        let (_, body) = parts(&["", "hello ", "", "world of parts"]);
        let text = sent(Outgoing::new(&head(Method::POST), body)).await.unwrap();
        let chunks = "6\r\nhello \r\ne\r\nworld of parts\r\n0\r\n\r\n";
        assert_eq!(text, format!("POST {HEAD}transfer-encoding: chunked\r\n\r\n{chunks}"));
    }

    /// A peer that takes no more than it is told to, and has got nothing before it was flushed.
    #[derive(Default)]
    struct Stalling {
        taken: usize,
        room: usize,
        flushes: bool,
    }

    impl AsyncWrite for Stalling {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            let some = bytes.len().min(self.room);
            (self.room, self.taken) = (self.room - some, self.taken + some);
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
    async fn a_long_body_arrives_whole_and_is_taken_as_the_peer_takes_it() {
        let (more, mut body) = parts(&[]);
        let part = Bytes::from("0123456789".repeat(500));
        (0..20).for_each(|_| more.unbounded_send(Ok(Frame::data(part.clone()))).unwrap());
        let mut request = Outgoing::new(&head(Method::POST), &mut body);
        assert!(request.poll(&mut Stalling::default(), &mut cx()).is_pending());
        let held = request.unsent.len();
        drop(request);
        let left = std::iter::from_fn(|| Pin::new(&mut body).poll_frame(&mut cx()).is_ready().then_some(())).count();
        assert!((ENOUGH..ENOUGH + 6_000).contains(&held) && left == 16, "{held} {left}");
        let long = Bytes::from("0123456789".repeat(ENOUGH / 4));
        let text = sent(Outgoing::new(&head(Method::POST), Full::new(long.clone()))).await.unwrap();
        assert_eq!(text.split_once("\r\n\r\n").unwrap().1.as_bytes(), long);
    }

    #[test]
    fn a_request_is_over_when_nothing_of_it_waits_in_the_stream() {
        let mut request = Outgoing::new(&head(Method::POST), Full::new(Bytes::from("hello")));
        let mut peer = Stalling { room: 1000, ..Stalling::default() };
        assert!(request.poll(&mut peer, &mut cx()).is_pending() && request.unsent.is_empty());
        assert!(!request.is_over());
        peer.flushes = true;
        assert!(request.poll(&mut peer, &mut cx()).is_ready() && request.is_over());
    }

    #[test]
    fn a_request_is_untouched_until_something_may_have_been_read_of_it() {
        let mut request = Outgoing::new(&head(Method::POST), Full::new(Bytes::from("hello")));
        let mut peer = Stalling::default();
        assert!(request.poll(&mut peer, &mut cx()).is_pending() && request.is_untouched());
        peer.room = 1;
        assert!(request.poll(&mut peer, &mut cx()).is_pending() && !request.is_untouched());
        let mut long = Outgoing::new(&head(Method::POST), Full::new(Bytes::from(vec![0; ENOUGH])));
        assert!(long.poll(&mut Stalling::default(), &mut cx()).is_pending() && !long.is_untouched());
    }

    /// One that does not keep its word.
    struct Lying(&'static str);

    impl Body for Lying {
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
    async fn a_body_that_is_not_as_long_as_it_says_is_no_request() {
        for text in ["ab", "abcd"] {
            assert!(matches!(sent(Outgoing::new(&head(Method::POST), Lying(text))).await, Err(WireError::Body(_))));
        }
        assert!(sent(Outgoing::new(&head(Method::POST), Lying("abc"))).await.is_ok());
    }

    #[tokio::test]
    async fn a_request_has_begun_when_something_of_its_body_is_there() {
        let (more, body) = parts(&[]);
        let mut request = Outgoing::new(&head(Method::POST), body);
        assert!(request.poll_begun(&mut cx()).is_pending());
        more.unbounded_send(Ok(Frame::data(Bytes::from("a")))).unwrap();
        assert!(matches!(request.poll_begun(&mut cx()), Poll::Ready(Ok(()))));
        assert!(!request.is_over());
        more.unbounded_send(Err("gone".into())).unwrap();
        assert!(matches!(request.poll_begun(&mut cx()), Poll::Ready(Err(WireError::Body(_)))));
        let mut get = Outgoing::new(&head(Method::GET), Empty::<Bytes>::new());
        assert!(get.poll_begun(&mut cx()).is_ready());
    }
}
