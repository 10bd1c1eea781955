//! Checks each HTTP/1 request head before hyper parses it. hyper accepts heads that other servers read differently (bare line
//! feeds, `Content-Length` with `Transfer-Encoding`), which allows requests to be smuggled past a gateway.

use std::mem::MaybeUninit;

use http::{
    StatusCode, Uri,
    header::{CONTENT_LENGTH, TRANSFER_ENCODING},
};
use httparse::{Header, ParserConfig, Status};
use memchr::memchr_iter;
use thiserror::Error;

use crate::http1::{Framing, content_length, invalid_part};

pub const MAX_HEADERS: usize = 100;

/// Maximum bytes of a request head. Three login cookies and the headers of gateways fit.
pub const MAX_HEAD: usize = 32 * 1024;

/// A complete, unambiguous head.
#[derive(Clone, Copy, Debug)]
pub struct CheckedHead {
    pub length: usize,
    /// Of the content after the head.
    pub framing: Framing,
}

#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum Refusal {
    /// Not HTTP/1, or ambiguous.
    #[error("the request is not valid HTTP/1.1: {0}")]
    Malformed(&'static str),
    #[error("the request head has more than {MAX_HEAD} bytes")]
    TooLarge,
    #[error("the request has more than {MAX_HEADERS} headers")]
    TooMany,
    #[error("the request head did not arrive in time")]
    TooSlow,
}

impl Refusal {
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
            error => Self::Malformed(invalid_part(error)),
        }
    }
}

/// Checks the head at the start of `read`. `None` if it is incomplete.
pub fn check_head(read: &[u8]) -> Result<Option<CheckedHead>, Refusal> {
    let mut headers = [const { MaybeUninit::uninit() }; MAX_HEADERS];
    let mut parsed = httparse::Request::new(&mut []);
    let status = ParserConfig::default().parse_request_with_uninit_headers(&mut parsed, read, &mut headers)?;
    let Status::Complete(length) = status else {
        return if read.len() < MAX_HEAD { Ok(None) } else { Err(Refusal::TooLarge) };
    };
    if length > MAX_HEAD {
        return Err(Refusal::TooLarge);
    }
    let text = read.get(..length).unwrap_or_default();
    // httparse accepts a bare line feed as the end of a line; a gateway may not.
    let follows_return = |feed: usize| feed.checked_sub(1).and_then(|before| text.get(before)) == Some(&b'\r');
    if !memchr_iter(b'\n', text).all(follows_return) {
        return Err(Refusal::Malformed("invalid line ending"));
    }
    if parsed.path.is_none_or(|target| Uri::try_from(target).is_err()) {
        return Err(Refusal::Malformed("invalid target"));
    }
    let framing = framing(parsed.headers, parsed.version == Some(1))?;
    Ok(Some(CheckedHead { length, framing }))
}

/// hyper rejects larger ones with an empty 431.
const MAX_LENGTH: u64 = u64::MAX - 2;

/// RFC 9112 §6.3, but ambiguous framing is refused.
fn framing(headers: &[Header<'_>], is_http_1_1: bool) -> Result<Framing, Refusal> {
    let (mut length, mut encoding) = (None, None);
    for header in headers {
        if header.name.eq_ignore_ascii_case(CONTENT_LENGTH.as_str()) {
            let value = content_length(header.value).ok_or(Refusal::Malformed("Content-Length is not a number"))?;
            if value > MAX_LENGTH {
                return Err(Refusal::Malformed("Content-Length is too large"));
            }
            if length.replace(value).is_some_and(|before| before != value) {
                return Err(Refusal::Malformed("conflicting Content-Length values"));
            }
        } else if header.name.eq_ignore_ascii_case(TRANSFER_ENCODING.as_str())
            && encoding.replace(header.value).is_some()
        {
            return Err(Refusal::Malformed("repeated Transfer-Encoding"));
        }
    }
    match (encoding, length) {
        (None, length) => Ok(Framing::Length(length.unwrap_or(0))),
        (Some(_), Some(_)) => Err(Refusal::Malformed("both Content-Length and Transfer-Encoding")),
        (Some(encoding), None) if is_http_1_1 && encoding.eq_ignore_ascii_case(b"chunked") => Ok(Framing::CHUNKED),
        (Some(_), None) => Err(Refusal::Malformed("Transfer-Encoding must be chunked")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<Option<CheckedHead>, Refusal> {
        check_head(text.as_bytes())
    }

    #[test]
    fn head_is_accepted_when_complete() {
        let text = "\r\nPOST /mcp?a=b HTTP/1.1\r\nHost: a\r\nX: 1\r\nx:\t2 \r\n\r\n";
        for end in 0..text.len() {
            assert!(check(&text[..end]).unwrap().is_none(), "{end}");
        }
        let head = check(&format!("{text}rest")).unwrap().unwrap();
        assert_eq!((head.length, head.framing), (text.len(), Framing::Length(0)));
    }

    #[test]
    fn request_content_framing_follows_rfc_9112() {
        for (lines, framing) in [
            ("", Framing::Length(0)),
            ("Content-Length: 7\r\n", Framing::Length(7)),
            ("Content-Length: 7\r\ncontent-length: 7\r\n", Framing::Length(7)),
            ("Transfer-Encoding: Chunked\r\n", Framing::CHUNKED),
        ] {
            let head = check(&format!("POST /mcp HTTP/1.1\r\nHost: a\r\n{lines}\r\n")).unwrap().unwrap();
            assert_eq!(head.framing, framing, "{lines}");
        }
    }

    #[test]
    fn ambiguous_request_head_is_rejected_with_reason() {
        for (text, why) in [
            ("POST / HTTP/1.1\r\nContent-Length: 7\r\nContent-Length: 8\r\n\r\n", "conflicting Content-Length values"),
            ("POST / HTTP/1.1\r\nContent-Length: 7, 7\r\n\r\n", "not a number"),
            ("POST / HTTP/1.1\r\nContent-Length: +7\r\n\r\n", "not a number"),
            ("POST / HTTP/1.1\r\nContent-Length:\r\n\r\n", "not a number"),
            ("POST / HTTP/1.1\r\nContent-Length: 18446744073709551616\r\n\r\n", "not a number"),
            ("POST / HTTP/1.1\r\nContent-Length: 18446744073709551615\r\n\r\n", "too large"),
            ("POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", "must be chunked"),
            ("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", "must be chunked"),
            (
                "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
                "repeated Transfer-Encoding",
            ),
            ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 7\r\n\r\n", "both"),
            ("GET / HTTP/1.1\r\nA : b\r\n\r\n", "name"),
            ("GET / HTTP/1.1\r\nA: b\r\n folded\r\n\r\n", "name"),
            ("GET / HTTP/1.1\r\nA: b\0\r\n\r\n", "value"),
            ("GET / HTTP/1.1\r\nA: b\rC: d\r\n\r\n", "value"),
            ("GET / HTTP/1.1\nA: b\n\n", "invalid line ending"),
            ("GET / HTTP/1.1\r\nA: b\nC: d\r\n\r\n", "invalid line ending"),
            ("\nGET / HTTP/1.1\r\n\r\n", "invalid line ending"),
            ("GET / HTTP/2.0\r\n\r\n", "version"),
            ("GET /\r\n\r\n", "character"),
            ("GET http:// HTTP/1.1\r\n\r\n", "target"),
        ] {
            let refusal = check(text).expect_err(text);
            assert_eq!(refusal.status(), StatusCode::BAD_REQUEST);
            assert!(refusal.to_string().contains(why), "{text}: {refusal}");
        }
    }

    #[test]
    fn head_size_and_header_count_are_limited() {
        let start = "GET / HTTP/1.1\r\nA: ";
        let fits = format!("{start}{}\r\n\r\n", "x".repeat(MAX_HEAD - start.len() - 4));
        assert!(check(&fits).unwrap().is_some());
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(MAX_HEADERS + 1));
        for (text, refusal) in [
            (fits.replace("A:", "Aa:"), Refusal::TooLarge),
            (format!("{start}{}", "x".repeat(MAX_HEAD - start.len())), Refusal::TooLarge),
            (many, Refusal::TooMany),
        ] {
            assert_eq!((check(&text).unwrap_err(), refusal.status().as_u16()), (refusal, 431));
        }
    }
}
