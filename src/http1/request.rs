use std::{
    fmt::Write,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderName, HeaderValue, Method, Uri};
use http_body::Body;
use tokio::io::AsyncWrite;

use super::{BoxError, WireError};

/// Holds a typical request head and a short message.
const HEAD_CAPACITY: usize = 1024;

/// How much of a body is buffered before it is written: one TLS record.
const BUFFER: usize = 16 * 1024;

/// A request head without the body's framing (RFC 9112 §6), which is added when the body is known.
#[derive(Clone, Debug)]
pub struct RequestHead {
    method: Method,
    /// The request line and the headers, as they are sent.
    text: BytesMut,
    /// Where the headers start in `text`.
    fields: usize,
}

impl RequestHead {
    /// The target must be in origin form.
    pub fn new(method: Method, target: &Uri) -> Self {
        let mut text = BytesMut::with_capacity(HEAD_CAPACITY);
        let path = target.path_and_query().map_or("/", |path| path.as_str());
        for part in [method.as_str(), " ", path, " HTTP/1.1\r\n"] {
            text.put_slice(part.as_bytes());
        }
        let fields = text.len();
        Self { method, text, fields }
    }

    /// Adds a header. It must not be about the connection or the body's length.
    pub fn add(&mut self, name: &HeaderName, value: &HeaderValue) {
        write_field(&mut self.text, name, value);
    }

    /// Adds headers that [`write_field`] has written.
    pub fn add_written(&mut self, fields: &[u8]) {
        self.text.put_slice(fields);
    }

    /// The same head with another target.
    pub fn with_target(&self, target: &Uri) -> Self {
        let mut head = Self::new(self.method.clone(), target);
        head.add_written(self.fields());
        head
    }

    /// The headers, as they are sent.
    pub fn fields(&self) -> &[u8] {
        self.text.get(self.fields..).unwrap_or_default()
    }
}

/// RFC 9112 §5.
pub fn write_field(out: &mut BytesMut, name: &HeaderName, value: &HeaderValue) {
    let (name, value) = (name.as_str().as_bytes(), value.as_bytes());
    out.reserve(name.len() + value.len() + 4);
    out.put_slice(name);
    out.put_slice(b": ");
    out.put_slice(value);
    out.put_slice(b"\r\n");
}

/// A request that is being sent.
pub struct Outgoing<B> {
    is_head: bool,
    unsent: BytesMut,
    /// The part of the body that is not in `unsent` yet.
    pending: Option<Pending<B>>,
    is_flushed: bool,
    /// The stream has accepted at least one byte.
    is_started: bool,
}

struct Pending<B> {
    body: B,
    /// The remaining bytes; `None` if the length is unknown and the body is sent in chunks.
    remaining: Option<u64>,
}

impl<B> Outgoing<B> {
    /// A placeholder for a request that has been sent.
    pub fn none() -> Self {
        Self { is_head: false, unsent: BytesMut::new(), pending: None, is_flushed: true, is_started: true }
    }

    /// Whether the method is HEAD, so that the response has no content (RFC 9110 §9.3.2).
    pub fn is_head(&self) -> bool {
        self.is_head
    }

    /// Whether everything is written and flushed.
    pub fn is_complete(&self) -> bool {
        self.pending.is_none() && self.unsent.is_empty() && self.is_flushed
    }

    /// Whether the peer cannot have received any of it. TLS may have sent a part of what does not fit in one record before it
    /// failed.
    pub fn is_unsent(&self) -> bool {
        !self.is_started && self.unsent.len() <= BUFFER
    }
}

impl<B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin> Outgoing<B> {
    pub fn new(head: RequestHead, body: B) -> Self {
        let RequestHead { method, text: mut unsent, .. } = head;
        // The body of a GET has no meaning (RFC 9110 §9.3.1), and some servers read it as the next request.
        let has_body = !matches!(method, Method::GET | Method::HEAD);
        let length = if has_body { body.size_hint().exact() } else { Some(0) };
        match length {
            // Only a POST declares an empty body (RFC 9110 §8.6).
            Some(0) if method != Method::POST => (),
            Some(length) => {
                unsent.put_slice(b"content-length: ");
                unsent.put_slice(itoa::Buffer::new().format(length).as_bytes());
                unsent.put_slice(b"\r\n");
            }
            None => unsent.put_slice(b"transfer-encoding: chunked\r\n"),
        }
        unsent.put_slice(b"\r\n");
        let pending = if length == Some(0) { None } else { Some(Pending { body, remaining: length }) };
        Self { is_head: method == Method::HEAD, unsent, pending, is_flushed: true, is_started: false }
    }

    /// Ready when some of the body is available, or there is none: head and body then share a packet, and no connection waits for
    /// a slow client.
    pub fn poll_available(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WireError>> {
        let head = self.unsent.len();
        // The head alone may be larger than the buffer.
        let is_whole = self.fill(head + BUFFER, cx)?.is_ready();
        if is_whole || self.unsent.len() > head { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    /// Writes as much as possible. Ready when everything is sent.
    pub fn poll(
        &mut self,
        stream: &mut (impl AsyncWrite + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), WireError>> {
        while !self.is_complete() {
            let is_whole = self.fill(BUFFER, cx)?.is_ready();
            if self.unsent.is_empty() && self.is_flushed && !is_whole {
                return Poll::Pending;
            }
            while !self.unsent.is_empty() {
                match ready!(Pin::new(&mut *stream).poll_write(cx, &self.unsent))? {
                    0 => return Poll::Ready(Err(io::Error::from(io::ErrorKind::WriteZero).into())),
                    written => self.unsent.advance(written.min(self.unsent.len())),
                }
                (self.is_flushed, self.is_started) = (false, true);
            }
            ready!(Pin::new(&mut *stream).poll_flush(cx))?;
            self.is_flushed = true;
            if is_whole {
                // Releases the buffer: the response may take long.
                self.unsent = BytesMut::new();
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Moves available body data into the buffer, up to `limit` bytes. Ready at the end of the body.
    fn fill(&mut self, limit: usize, cx: &mut Context<'_>) -> Result<Poll<()>, WireError> {
        while let Some(pending) = &mut self.pending {
            if self.unsent.len() >= limit {
                return Ok(Poll::Pending);
            }
            let Poll::Ready(frame) = Pin::new(&mut pending.body).poll_frame(cx) else { return Ok(Poll::Pending) };
            let is_last = match frame {
                Some(Ok(frame)) => {
                    // Trailers are dropped: without `TE`, no recipient may expect them (RFC 9110 §6.5.1).
                    if let Ok(data) = frame.into_data() {
                        pending.write(&data, &mut self.unsent)?;
                    }
                    pending.remaining == Some(0) || pending.body.is_end_stream()
                }
                Some(Err(error)) => return Err(WireError::Body(error.into())),
                None => true,
            };
            if is_last {
                match pending.remaining {
                    Some(0) => (),
                    Some(_) => return Err(wrong_length()),
                    None => self.unsent.put_slice(b"0\r\n\r\n"),
                }
                self.pending = None;
            }
        }
        Ok(Poll::Ready(()))
    }
}

impl<B> Pending<B> {
    fn write(&mut self, data: &Bytes, out: &mut BytesMut) -> Result<(), WireError> {
        match &mut self.remaining {
            Some(remaining) => {
                *remaining = remaining.checked_sub(data.len() as u64).ok_or_else(wrong_length)?;
                out.put_slice(data);
            }
            // An empty chunk would be the last one.
            None if data.is_empty() => (),
            None => {
                // Writing to a buffer cannot fail.
                let _ = write!(out, "{:x}\r\n", data.len());
                out.put_slice(data);
                out.put_slice(b"\r\n");
            }
        }
        Ok(())
    }
}

/// The upstream would read the excess of a body as another request.
fn wrong_length() -> WireError {
    WireError::Body("the request body differs from its declared length".into())
}

#[cfg(test)]
mod tests;
