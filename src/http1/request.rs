use std::{
    io::{self, Write},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, BufMut, Bytes, BytesMut, buf::Writer};
use http::{HeaderName, HeaderValue, Method, Uri};
use http_body::Body;
use tokio::io::AsyncWrite;

use super::{BoxError, WireError};

/// Room for the head of a request and a short message.
const ROOM: usize = 1024;

/// So much is taken of a body before some of it is written: what a record of TLS holds.
const ENOUGH: usize = 16 * 1024;

/// The head of a request, but for how long its body is (RFC 9112 §6): that is said when the body is known.
#[derive(Clone, Debug)]
pub struct RequestHead {
    method: Method,
    /// The first line and the headers, as they are sent.
    text: BytesMut,
    /// Where the headers begin.
    fields: usize,
}

impl RequestHead {
    /// One without headers. The target must be in origin form.
    pub fn new(method: Method, target: &Uri) -> Self {
        let mut text = BytesMut::with_capacity(ROOM);
        let path = target.path_and_query().map_or("/", |path| path.as_str());
        for part in [method.as_str(), " ", path, " HTTP/1.1\r\n"] {
            text.put_slice(part.as_bytes());
        }
        let fields = text.len();
        Self { method, text, fields }
    }

    /// One more header, which must not be about the connection or the body's length.
    pub fn add(&mut self, name: &HeaderName, value: &HeaderValue) {
        write_field(&mut self.text, name, value);
    }

    /// More of them, as [`write_field`] wrote them.
    pub fn add_written(&mut self, fields: &[u8]) {
        self.text.put_slice(fields);
    }

    /// The same to another target.
    pub fn to(&self, target: &Uri) -> Self {
        let mut head = Self::new(self.method.clone(), target);
        head.add_written(self.fields());
        head
    }

    /// The headers, as they are sent.
    pub fn fields(&self) -> &[u8] {
        self.text.get(self.fields..).unwrap_or_default()
    }
}

/// Writes down a header (RFC 9112 §5).
pub fn write_field(out: &mut BytesMut, name: &HeaderName, value: &HeaderValue) {
    let (name, value) = (name.as_str().as_bytes(), value.as_bytes());
    out.reserve(name.len() + value.len() + 4);
    out.put_slice(name);
    out.put_slice(b": ");
    out.put_slice(value);
    out.put_slice(b"\r\n");
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
    pub fn new(head: RequestHead, body: B) -> Self {
        let RequestHead { method, text: mut unsent, .. } = head;
        // What a GET has for a body means nothing (RFC 9110 §9.3.1), and servers that do not expect one take it for a request.
        let has_body = !matches!(method, Method::GET | Method::HEAD);
        let length = if has_body { body.size_hint().exact() } else { Some(0) };
        match length {
            // A body is expected with a POST, none with the others (RFC 9110 §8.6).
            Some(0) if method != Method::POST => (),
            Some(length) => write_length(&mut unsent, length),
            None => unsent.put_slice(b"transfer-encoding: chunked\r\n"),
        }
        unsent.put_slice(b"\r\n");
        let rest = if length == Some(0) { None } else { Some(Rest { body, left: length }) };
        Self { is_head: method == Method::HEAD, unsent, rest, flushed: true, touched: false }
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
                write_text(out, format_args!("{:x}\r\n", data.len()));
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

/// Writes down how long the content is.
pub fn write_length(out: &mut BytesMut, length: u64) {
    out.put_slice(b"content-length: ");
    out.put_slice(itoa::Buffer::new().format(length).as_bytes());
    out.put_slice(b"\r\n");
}

/// Writes down what always fits.
pub fn write_text(out: &mut BytesMut, text: std::fmt::Arguments<'_>) {
    let mut writer: Writer<&mut BytesMut> = out.writer();
    let _ = writer.write_fmt(text);
}

#[cfg(test)]
mod tests;
