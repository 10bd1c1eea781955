use std::{
    cell::RefCell,
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{
    Response, StatusCode,
    header::{CONNECTION, CONTENT_LENGTH, DATE},
    response::Parts,
};
use http_body::Body as _;
use jiff::Timestamp;
use thiserror::Error;

use super::downstream::Downstream;
use crate::{
    http1::{write_field, write_length, write_text},
    proxy::resource_server::{Body, BoxError, Deadline},
};

/// Room for the head of an answer and a short message: as much as the C library keeps at hand for the next one (1032 bytes).
const ROOM: usize = 1024;

/// So much is taken of a body before some of it is written.
const ENOUGH: usize = 16 * 1024;

/// What an answer depends on besides what it says.
#[derive(Clone, Copy, Debug)]
pub struct To {
    /// The request was a HEAD: the answer has no content, whatever it says (RFC 9110 §9.3.2).
    pub head: bool,
    /// The client knows of chunks.
    pub http_1_1: bool,
    /// It is the last of its connection.
    pub last: bool,
}

/// Why a client did not get all of its answer.
#[derive(Debug, Error)]
pub enum ReplyError {
    /// It takes no more.
    #[error("the client takes no more of its answer: {0}")]
    Client(#[from] io::Error),
    /// It has gone.
    #[error("the client has gone")]
    Gone,
    /// It may not have the rest, and takes nothing that would say so.
    #[error("the answer may not go on")]
    Over,
    /// There is no more.
    #[error("the answer breaks off: {0}")]
    Cut(#[source] BoxError),
}

/// How a client knows where the content ends (RFC 9112 §6.3).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Ends {
    /// After so many bytes.
    Length(u64),
    /// The last of its chunks says so.
    Chunks,
    /// With the connection.
    Connection,
}

/// An answer on its way to a client.
pub struct Reply {
    /// What is not yet written.
    unsent: BytesMut,
    /// What is not yet in there.
    body: Option<Body>,
    ends: Ends,
    /// Why there is no more than what is in there.
    failed: Option<ReplyError>,
}

impl Reply {
    /// Whether the connection ends with it.
    pub fn is_last(&self) -> bool {
        self.ends == Ends::Connection
    }

    /// The answer to a request.
    pub fn new(response: Response<Body>, to: To, date: &Date, now: Timestamp) -> Self {
        let (head, body) = response.into_parts();
        let has_content = !to.head && !matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        let length = body.size_hint().exact();
        let ends = match length {
            _ if !has_content => Ends::Length(0),
            Some(length) => Ends::Length(length),
            None if to.http_1_1 => Ends::Chunks,
            None => Ends::Connection,
        };
        let mut unsent = BytesMut::with_capacity(ROOM);
        write_head(&mut unsent, &head, to.last || ends == Ends::Connection);
        match ends {
            Ends::Length(length) if has_content => write_length(&mut unsent, length),
            Ends::Length(_) if head.status == StatusCode::NO_CONTENT => (),
            // What a GET would have got.
            Ends::Length(_) => match (head.headers.get(CONTENT_LENGTH), length) {
                (Some(length), _) => write_field(&mut unsent, &CONTENT_LENGTH, length),
                (None, Some(length @ 1..)) => write_length(&mut unsent, length),
                (None, _) => (),
            },
            Ends::Chunks => unsent.put_slice(b"transfer-encoding: chunked\r\n"),
            Ends::Connection => (),
        }
        if !head.headers.contains_key(DATE) {
            date.write(now, &mut unsent);
        }
        unsent.put_slice(b"\r\n");
        let body = (ends != Ends::Length(0)).then_some(body);
        Self { unsent, body, ends, failed: None }
    }

    /// Writes it. The client may let us wait for `patience`.
    ///
    /// # Errors
    /// See [`ReplyError`].
    pub async fn write(
        mut self,
        to: &Downstream,
        patience: Duration,
        stalled: &mut Deadline,
    ) -> Result<(), ReplyError> {
        let written = poll_fn(|cx| self.poll(to, patience, stalled, cx)).await;
        if written.is_err() && self.ends == Ends::Connection {
            // Nothing else tells it from a whole one; what is not yet sent is lost by that.
            to.reset();
        }
        written
    }

    fn poll(
        &mut self,
        to: &Downstream,
        patience: Duration,
        stalled: &mut Deadline,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), ReplyError>> {
        loop {
            if let Err(error) = self.fill(cx) {
                // What was there before is the client's.
                (self.body, self.failed) = (None, Some(error));
            }
            if self.unsent.is_empty() {
                return match (&self.body, self.failed.take()) {
                    (_, Some(error)) => Poll::Ready(Err(error)),
                    (None, None) => Poll::Ready(Ok(())),
                    (Some(_), None) => to.poll_gone(cx).map(|()| Err(ReplyError::Gone)),
                };
            }
            while !self.unsent.is_empty() {
                let Poll::Ready(written) = to.poll_write(&self.unsent, patience, stalled, cx) else {
                    let is_over = self.body.as_mut().is_some_and(|body| body.ends(stalled));
                    return if is_over { Poll::Ready(Err(ReplyError::Over)) } else { Poll::Pending };
                };
                match written? {
                    0 => return Poll::Ready(Err(io::Error::from(io::ErrorKind::WriteZero).into())),
                    written => self.unsent.advance(written.min(self.unsent.len())),
                }
            }
            // Nothing is kept for a stream that may say nothing for long.
            self.unsent = BytesMut::new();
        }
    }

    /// Takes of the body what is there, up to [`ENOUGH`].
    fn fill(&mut self, cx: &mut Context<'_>) -> Result<(), ReplyError> {
        while let Some(body) = &mut self.body
            && self.unsent.len() < ENOUGH
        {
            let Poll::Ready(frame) = Pin::new(&mut *body).poll_frame(cx) else { return Ok(()) };
            let is_last = match frame {
                Some(Ok(frame)) => {
                    // Trailers are not passed on: nobody has asked for them.
                    if let Ok(data) = frame.into_data() {
                        write_data(&mut self.unsent, &mut self.ends, &data)?;
                    }
                    body.is_end_stream()
                }
                Some(Err(error)) => return Err(ReplyError::Cut(error)),
                None => true,
            };
            if is_last {
                match self.ends {
                    Ends::Length(0) | Ends::Connection => (),
                    Ends::Length(_) => return Err(other_length()),
                    Ends::Chunks => self.unsent.put_slice(b"0\r\n\r\n"),
                }
                self.body = None;
            }
        }
        Ok(())
    }
}

fn write_data(out: &mut BytesMut, ends: &mut Ends, data: &Bytes) -> Result<(), ReplyError> {
    match ends {
        Ends::Length(left) => {
            *left = left.checked_sub(data.len() as u64).ok_or_else(other_length)?;
            out.put_slice(data);
        }
        // One of no bytes would be the last.
        Ends::Chunks if data.is_empty() => (),
        Ends::Chunks => {
            write_text(out, format_args!("{:x}\r\n", data.len()));
            out.put_slice(data);
            out.put_slice(b"\r\n");
        }
        Ends::Connection => out.put_slice(data),
    }
    Ok(())
}

/// An answer that is not as long as it says would make the rest of it another one.
fn other_length() -> ReplyError {
    ReplyError::Cut("it is not as long as it says".into())
}

/// All but where the content ends.
fn write_head(out: &mut BytesMut, head: &Parts, is_last: bool) {
    out.put_slice(b"HTTP/1.1 ");
    out.put_slice(head.status.as_str().as_bytes());
    out.put_slice(b" ");
    out.put_slice(head.status.canonical_reason().unwrap_or_default().as_bytes());
    out.put_slice(b"\r\n");
    for (name, value) in &head.headers {
        if name != CONTENT_LENGTH && name != CONNECTION {
            write_field(out, name, value);
        }
    }
    if is_last {
        out.put_slice(b"connection: close\r\n");
    }
}

/// The time as answers have it (RFC 9110 §6.6.1), written down once a second.
#[derive(Debug, Default)]
pub struct Date(RefCell<(i64, String)>);

impl Date {
    fn write(&self, now: Timestamp, out: &mut BytesMut) {
        let (second, text) = &mut *self.0.borrow_mut();
        if *second != now.as_second() || text.is_empty() {
            let printer = jiff::fmt::rfc2822::DateTimePrinter::new();
            *text = printer.timestamp_to_rfc9110_string(&now).unwrap_or_default();
            *second = now.as_second();
        }
        if !text.is_empty() {
            write_text(out, format_args!("date: {text}\r\n"));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use futures::{StreamExt, stream};
    use http_body::Frame;
    use http_body_util::StreamBody;

    use super::*;

    const GET: To = To { head: false, http_1_1: true, last: false };

    fn response(status: u16, headers: &[(&'static str, &'static str)], body: Body) -> Response<Body> {
        let mut response = Response::builder().status(status);
        for (name, value) in headers {
            response = response.header(*name, *value);
        }
        response.body(body).unwrap()
    }

    /// Of no known length.
    fn parts(parts: &'static [&'static str]) -> Body {
        let parts = stream::iter(parts).map(|part| Ok::<_, BoxError>(Frame::data(Bytes::from(*part))));
        Body::Axum(axum::body::Body::new(StreamBody::new(parts)))
    }

    /// What is written, as text.
    fn text(response: Response<Body>, to: To) -> String {
        let mut reply = Reply::new(response, to, &Date::default(), Timestamp::UNIX_EPOCH);
        reply.fill(&mut Context::from_waker(Waker::noop())).unwrap();
        assert!(reply.body.is_none());
        String::from_utf8(reply.unsent.to_vec()).unwrap()
    }

    #[test]
    fn response_framing_is_written() {
        const DATE: &str = "date: Thu, 01 Jan 1970 00:00:00 GMT\r\n";
        let head = To { head: true, ..GET };
        let long = [("content-length", "7")];
        for (response, to, written) in [
            (response(200, &[], Body::text("ok")), GET, format!("200 OK\r\ncontent-length: 2\r\n{DATE}\r\nok")),
            (response(200, &long, Body::text("ok")), GET, format!("200 OK\r\ncontent-length: 2\r\n{DATE}\r\nok")),
            (response(202, &[], Body::Empty), GET, format!("202 Accepted\r\ncontent-length: 0\r\n{DATE}\r\n")),
            (response(204, &long, Body::Empty), GET, format!("204 No Content\r\n{DATE}\r\n")),
            (response(304, &long, Body::Empty), GET, format!("304 Not Modified\r\ncontent-length: 7\r\n{DATE}\r\n")),
            (response(200, &long, Body::Empty), head, format!("200 OK\r\ncontent-length: 7\r\n{DATE}\r\n")),
            (response(200, &[], Body::text("ok")), head, format!("200 OK\r\ncontent-length: 2\r\n{DATE}\r\n")),
            (response(200, &[], parts(&["a"])), head, format!("200 OK\r\n{DATE}\r\n")),
            (
                response(200, &[], parts(&["one", "", "0123456789abcdef"])),
                GET,
                format!(
                    "200 OK\r\ntransfer-encoding: chunked\r\n{DATE}\r\n3\r\none\r\n10\r\n0123456789abcdef\r\n0\r\n\r\n"
                ),
            ),
            (
                response(200, &[], parts(&["one", "two"])),
                To { http_1_1: false, ..GET },
                format!("200 OK\r\nconnection: close\r\n{DATE}\r\nonetwo"),
            ),
        ] {
            assert_eq!(text(response, to), format!("HTTP/1.1 {written}"));
        }
    }

    #[test]
    fn last_response_says_close_and_existing_date_is_kept() {
        let headers = [("date", "now"), ("connection", "close"), ("x", "a"), ("x", "b")];
        let written = text(response(200, &headers, Body::Empty), To { last: true, ..GET });
        let expected = "HTTP/1.1 200 OK\r\ndate: now\r\nx: a\r\nx: b\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        assert_eq!(written, expected);
    }

    #[test]
    fn incomplete_response_has_no_valid_end() {
        for (ends, body) in [
            (Ends::Length(4), parts(&["one"])),
            (Ends::Length(2), parts(&["one"])),
            (
                Ends::Chunks,
                Body::Axum(axum::body::Body::new(StreamBody::new(stream::iter([Err::<Frame<Bytes>, BoxError>(
                    "x".into(),
                )])))),
            ),
        ] {
            let mut reply = Reply { unsent: BytesMut::new(), body: Some(body), ends, failed: None };
            assert!(reply.fill(&mut Context::from_waker(Waker::noop())).is_err());
            assert!(!reply.unsent.ends_with(b"0\r\n\r\n"));
        }
    }

    #[test]
    fn date_header_is_cached_per_second() {
        let date = Date::default();
        for (second, written) in [(0, "Thu, 01 Jan 1970 00:00:00 GMT"), (86_399, "Thu, 01 Jan 1970 23:59:59 GMT")] {
            for _ in 0..2 {
                let mut out = BytesMut::new();
                date.write(Timestamp::from_second(second).unwrap(), &mut out);
                assert_eq!(out, format!("date: {written}\r\n"));
            }
        }
    }
}
