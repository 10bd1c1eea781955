use std::mem::MaybeUninit;

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, Version,
    header::{CONNECTION, CONTENT_LENGTH, EXPECT, TRANSFER_ENCODING},
    request::Parts,
};
use httparse::{Header, ParserConfig, Status};
use memchr::memchr_iter;
use thiserror::Error;

use crate::http1::{Framing, content_length, lists_close, skip, what_is_wrong};

/// The most headers of a request.
const MAX_HEADERS: usize = 100;

/// The most bytes of a request's head: three login cookies and what gateways add fit, and a client that never ends its head
/// holds no more.
pub const MAX_HEAD: usize = 32 * 1024;

/// The head of a request.
#[derive(Debug)]
pub struct Head {
    /// What it says, as it came.
    pub request: Parts,
    /// How its content is to be read.
    pub framing: Framing,
    /// Whether another request may follow.
    pub keeps_alive: bool,
    /// The client waits for a word before it sends the content (RFC 9110 §10.1.1).
    pub expects: bool,
}

/// Why a request is refused before anybody looks at what it wants.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum Refusal {
    /// It is not HTTP/1, or may be understood in more than one way.
    #[error("the request is not HTTP/1.1: {0}")]
    Malformed(&'static str),
    /// Its head is larger than [`MAX_HEAD`].
    #[error("the request's head has more than {MAX_HEAD} bytes")]
    TooLarge,
    /// It has more than [`MAX_HEADERS`].
    #[error("the request has more than {MAX_HEADERS} headers")]
    TooMany,
    /// It did not come in time.
    #[error("the request's head did not come in time")]
    TooSlow,
}

impl Refusal {
    /// What says so.
    pub fn status(self) -> StatusCode {
        match self {
            Self::Malformed(_) => StatusCode::BAD_REQUEST,
            Self::TooLarge | Self::TooMany => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
        }
    }
}

impl From<httparse::Error> for Refusal {
    fn from(error: httparse::Error) -> Self {
        match error {
            httparse::Error::TooManyHeaders => Self::TooMany,
            error => Self::Malformed(what_is_wrong(error)),
        }
    }
}

/// Takes the head of a request out of what was read. `None` if more has to be read.
///
/// # Errors
/// When it is none, or it cannot be told where its content ends.
pub fn read_head(read: &mut Bytes) -> Result<Option<Head>, Refusal> {
    let mut headers = [const { MaybeUninit::uninit() }; MAX_HEADERS];
    let mut parsed = httparse::Request::new(&mut []);
    let status = ParserConfig::default().parse_request_with_uninit_headers(&mut parsed, read, &mut headers)?;
    let Status::Complete(length) = status else {
        return if read.len() < MAX_HEAD { Ok(None) } else { Err(Refusal::TooLarge) };
    };
    let text = read.get(..length).unwrap_or_default();
    if length > MAX_HEAD {
        return Err(Refusal::TooLarge);
    }
    // httparse takes a bare line feed for the end of a line, and what stands before us may not have.
    let is_end = |feed: usize| feed.checked_sub(1).and_then(|before| text.get(before)) == Some(&b'\r');
    if !memchr_iter(b'\n', text).all(is_end) {
        return Err(Refusal::Malformed("the end of a line"));
    }
    let method = parsed.method.and_then(|method| Method::from_bytes(method.as_bytes()).ok());
    // Copied, so that the target does not keep the whole head.
    let target = parsed.path.and_then(|target| Uri::try_from(target).ok());
    let mut head = head(parsed.headers, read, parsed.version == Some(1))?;
    head.request.method = method.ok_or(Refusal::Malformed("the method"))?;
    head.request.uri = target.ok_or(Refusal::Malformed("the target"))?;
    skip(read, length);
    Ok(Some(head))
}

/// RFC 9112 §6.3 and §9.3. Where senders and receivers have been known to differ, the request is refused.
fn head(fields: &[Header<'_>], read: &Bytes, is_http_1_1: bool) -> Result<Head, Refusal> {
    let mut headers = HeaderMap::with_capacity(fields.len());
    let (mut length, mut encoding, mut keeps_alive, mut expects) = (None, None, is_http_1_1, false);
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes());
        let name = name.map_err(|_| Refusal::Malformed("the name of a header"))?;
        if name == CONTENT_LENGTH {
            let one = content_length(field.value).ok_or(Refusal::Malformed("a Content-Length that is no number"))?;
            if length.replace(one).is_some_and(|before| before != one) {
                return Err(Refusal::Malformed("two values of Content-Length"));
            }
        } else if name == TRANSFER_ENCODING {
            if encoding.replace(field.value).is_some() {
                return Err(Refusal::Malformed("two Transfer-Encodings"));
            }
        } else if name == CONNECTION {
            keeps_alive &= !lists_close(field.value);
        } else if name == EXPECT {
            expects = is_http_1_1 && field.value.eq_ignore_ascii_case(b"100-continue");
        }
        // A part of what was read, without a copy.
        let value = HeaderValue::from_maybe_shared(read.slice_ref(field.value));
        headers.append(name, value.map_err(|_| Refusal::Malformed("the value of a header"))?);
    }
    let framing = match (encoding, length) {
        (None, length) => Framing::Length(length.unwrap_or(0)),
        (Some(_), Some(_)) => return Err(Refusal::Malformed("both Content-Length and Transfer-Encoding")),
        (Some(encoding), None) if is_http_1_1 && encoding.eq_ignore_ascii_case(b"chunked") => Framing::CHUNKED,
        (Some(_), None) => return Err(Refusal::Malformed("a Transfer-Encoding that is not chunked alone")),
    };
    let (mut request, ()) = Request::new(()).into_parts();
    request.version = if is_http_1_1 { Version::HTTP_11 } else { Version::HTTP_10 };
    request.headers = headers;
    Ok(Head { request, framing, keeps_alive, expects })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Option<Head>, Refusal> {
        read_head(&mut Bytes::from(text.to_owned()))
    }

    fn head_with(lines: &str) -> Result<Head, Refusal> {
        read(&format!("POST /mcp HTTP/1.1\r\nHost: a\r\n{lines}\r\n")).map(Option::unwrap)
    }

    #[test]
    fn head_is_parsed_when_complete_and_rest_is_kept() {
        let text = "\r\nPOST /mcp?a=b HTTP/1.1\r\nHost: a\r\nX: 1\r\nx:\t2 \r\n\r\n";
        for end in 0..text.len() {
            assert!(read(&text[..end]).unwrap().is_none(), "{end}");
        }
        let mut bytes = Bytes::from(format!("{text}rest"));
        let Head { request, framing, keeps_alive, expects } = read_head(&mut bytes).unwrap().unwrap();
        assert_eq!(
            (request.method, request.uri, request.version),
            (Method::POST, "/mcp?a=b".parse().unwrap(), Version::HTTP_11)
        );
        let values: Vec<_> = request.headers.get_all("x").iter().collect();
        assert_eq!(
            (values, request.headers.len()),
            (vec![&"1".parse::<HeaderValue>().unwrap(), &"2".parse().unwrap()], 3)
        );
        assert_eq!((framing, keeps_alive, expects, &bytes[..]), (Framing::Length(0), true, false, &b"rest"[..]));
    }

    #[test]
    fn request_content_framing_follows_rfc_9112() {
        for (lines, framing) in [
            ("", Framing::Length(0)),
            ("Content-Length: 7\r\n", Framing::Length(7)),
            ("Content-Length: 7\r\ncontent-length: 7\r\n", Framing::Length(7)),
            ("Transfer-Encoding: Chunked\r\n", Framing::CHUNKED),
        ] {
            assert_eq!(head_with(lines).unwrap().framing, framing, "{lines}");
        }
    }

    #[test]
    fn keep_alive_follows_the_client() {
        for (lines, keeps_alive) in [
            ("", true),
            ("Connection: keep-alive\r\n", true),
            ("Connection: x\r\nConnection: y , Close\r\n", false),
            ("Connection: closed\r\n", true),
        ] {
            assert_eq!(head_with(lines).unwrap().keeps_alive, keeps_alive, "{lines}");
        }
        let old = read("GET / HTTP/1.0\r\nConnection: keep-alive\r\nExpect: 100-continue\r\n\r\n").unwrap().unwrap();
        assert_eq!((old.keeps_alive, old.expects, old.request.version), (false, false, Version::HTTP_10));
        assert!(head_with("Expect: 100-Continue\r\n").unwrap().expects);
    }

    #[test]
    fn ambiguous_request_head_is_rejected_with_reason() {
        for (text, why) in [
            ("POST / HTTP/1.1\r\nContent-Length: 7\r\nContent-Length: 8\r\n\r\n", "two values of Content-Length"),
            ("POST / HTTP/1.1\r\nContent-Length: 7, 7\r\n\r\n", "no number"),
            ("POST / HTTP/1.1\r\nContent-Length: +7\r\n\r\n", "no number"),
            ("POST / HTTP/1.1\r\nContent-Length:\r\n\r\n", "no number"),
            ("POST / HTTP/1.1\r\nContent-Length: 18446744073709551616\r\n\r\n", "no number"),
            ("POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", "not chunked alone"),
            ("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", "not chunked alone"),
            ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", "two Transfer"),
            ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 7\r\n\r\n", "both"),
            ("GET / HTTP/1.1\r\nA : b\r\n\r\n", "name"),
            ("GET / HTTP/1.1\r\nA: b\r\n folded\r\n\r\n", "name"),
            ("GET / HTTP/1.1\r\nA: b\0\r\n\r\n", "value"),
            ("GET / HTTP/1.1\r\nA: b\rC: d\r\n\r\n", "value"),
            ("GET / HTTP/1.1\nA: b\n\n", "end of a line"),
            ("GET / HTTP/1.1\r\nA: b\nC: d\r\n\r\n", "end of a line"),
            ("\nGET / HTTP/1.1\r\n\r\n", "end of a line"),
            ("GET / HTTP/2.0\r\n\r\n", "version"),
            ("GET /\r\n\r\n", "character"),
            ("GET http:// HTTP/1.1\r\n\r\n", "target"),
        ] {
            let refusal = read(text).expect_err(text);
            assert_eq!(refusal.status(), StatusCode::BAD_REQUEST);
            assert!(refusal.to_string().contains(why), "{text}: {refusal}");
        }
    }

    #[test]
    fn head_size_and_header_count_are_limited() {
        let start = "GET / HTTP/1.1\r\nA: ";
        let fits = format!("{start}{}\r\n\r\n", "x".repeat(MAX_HEAD - start.len() - 4));
        assert!(read(&fits).unwrap().is_some());
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(MAX_HEADERS + 1));
        for (text, refusal) in [
            (fits.replace("A:", "Aa:"), Refusal::TooLarge),
            (format!("{start}{}", "x".repeat(MAX_HEAD - start.len())), Refusal::TooLarge),
            (many, Refusal::TooMany),
        ] {
            assert_eq!((read(&text).unwrap_err(), refusal.status().as_u16()), (refusal, 431));
        }
    }
}
