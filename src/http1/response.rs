use std::mem::MaybeUninit;

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Response, StatusCode,
    header::{CONTENT_LENGTH, TRANSFER_ENCODING},
};
use httparse::{Header, ParserConfig, Status};

use super::{
    HeaderFilter, WireError,
    fields::{is_hop_by_hop, nominated},
    framing::{Framing, content_length, lists_close, skip},
};

const MAX_HEADERS: usize = 100;

/// Maximum bytes of a response head.
const MAX_HEAD: usize = 64 * 1024;

/// Capacity for headers that are added on the way to the client.
const ADDED_HEADERS: usize = 1;

#[derive(Debug)]
pub struct ResponseHead {
    /// Without hop-by-hop headers. `Content-Length` is kept.
    pub response: Response<()>,
    pub framing: Framing,
    /// Whether the connection may be reused.
    pub keeps_alive: bool,
}

/// Takes a final response head out of `read`; informational (1xx) ones before it are discarded. `None` if more must be read.
pub fn read_head(
    read: &mut Bytes,
    is_head_request: bool,
    keep: HeaderFilter,
) -> Result<Option<ResponseHead>, WireError> {
    loop {
        let mut headers = [const { MaybeUninit::uninit() }; MAX_HEADERS];
        let mut parsed = httparse::Response::new(&mut []);
        let status = ParserConfig::default().parse_response_with_uninit_headers(&mut parsed, read, &mut headers)?;
        let Status::Complete(length) = status else {
            return if read.len() < MAX_HEAD { Ok(None) } else { Err(WireError::Malformed("the head is too long")) };
        };
        let status = parsed.code.and_then(|code| StatusCode::from_u16(code).ok());
        let status = status.ok_or(WireError::Malformed("invalid status"))?;
        if !status.is_informational() || status == StatusCode::SWITCHING_PROTOCOLS {
            let head = head(status, parsed.version == Some(1), parsed.headers, read, is_head_request, keep)?;
            skip(read, length);
            return Ok(Some(head));
        }
        skip(read, length);
    }
}

/// RFC 9112 §6.3 and §9.3. Where implementations are known to differ, the response is refused or the connection is not reused.
fn head(
    status: StatusCode,
    is_http_1_1: bool,
    fields: &[Header<'_>],
    read: &Bytes,
    is_head_request: bool,
    keep: HeaderFilter,
) -> Result<ResponseHead, WireError> {
    let mut headers = HeaderMap::with_capacity(fields.len() + ADDED_HEADERS);
    let (mut length, mut encoding) = (None, None);
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes());
        let name = name.map_err(|_| WireError::Malformed("invalid header name"))?;
        if name == CONTENT_LENGTH {
            let parsed = content_length(field.value).ok_or(WireError::Malformed("invalid Content-Length"))?;
            if length.replace((parsed, field.value)).is_some_and(|(before, _)| before != parsed) {
                return Err(WireError::Malformed("conflicting Content-Length values"));
            }
        } else if name == TRANSFER_ENCODING {
            if encoding.replace(field.value).is_some() {
                return Err(WireError::Malformed("repeated Transfer-Encoding"));
            }
        } else if !is_hop_by_hop(&name) && keep(&name) {
            headers.append(name, value(read, field.value)?);
        }
    }
    let connection = fields.iter().filter(|field| field.name.eq_ignore_ascii_case("connection"));
    let mut connection = connection.map(|field| field.value);
    for name in nominated(connection.clone()) {
        headers.remove(name);
    }
    let has_content = !is_head_request
        && !matches!(status, StatusCode::SWITCHING_PROTOCOLS | StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let framing = match (encoding, length) {
        _ if !has_content => Framing::Length(0),
        (Some(encoding), _) if is_http_1_1 && encoding.eq_ignore_ascii_case(b"chunked") => Framing::CHUNKED,
        (Some(_), _) => return Err(WireError::Malformed("Transfer-Encoding must be chunked")),
        (None, Some((length, _))) => Framing::Length(length),
        (None, None) => Framing::Closed,
    };
    let keeps_alive = is_http_1_1
        && status != StatusCode::SWITCHING_PROTOCOLS
        && framing != Framing::Closed
        && (encoding.is_none() || length.is_none())
        && !connection.any(lists_close);
    if let (None, Some((_, length))) = (encoding, length) {
        headers.insert(CONTENT_LENGTH, value(read, length)?);
    }
    let mut response = Response::new(());
    (*response.status_mut(), *response.headers_mut()) = (status, headers);
    Ok(ResponseHead { response, framing, keeps_alive })
}

/// A header value that shares the buffer `read`.
fn value(read: &Bytes, part: &[u8]) -> Result<HeaderValue, WireError> {
    HeaderValue::from_maybe_shared(read.slice_ref(part)).map_err(|_| WireError::Malformed("invalid header value"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Option<ResponseHead>, WireError> {
        read_head(&mut Bytes::from(text.to_owned()), false, |_| true)
    }

    fn framing(head: &str) -> Framing {
        read(&format!("HTTP/1.1 200 OK\r\n{head}\r\n")).unwrap().unwrap().framing
    }

    #[test]
    fn response_head_drops_hop_by_hop_and_filtered_headers() {
        let head = "HTTP/1.1 200 OK\r\nServer: uvicorn\r\nConnection: keep-alive, X-Hop, Content-Length\r\nX-Hop: 1\r\n\
            Keep-Alive: timeout=5\r\nUpgrade: h2c\r\nX-Other: a\r\nX-Other: b\r\nContent-Length: 2\r\n\r\nok";
        let mut bytes = Bytes::from(head);
        let head = read_head(&mut bytes, false, |name| name != "server").unwrap().unwrap();
        let kept = head.response.headers().iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap()));
        let kept: Vec<_> = kept.collect();
        assert_eq!(kept, [("x-other", "a"), ("x-other", "b"), ("content-length", "2")]);
        assert_eq!((head.framing, head.keeps_alive, &bytes[..]), (Framing::Length(2), true, &b"ok"[..]));
    }

    #[test]
    fn content_framing_follows_rfc_9112() {
        assert_eq!(framing("Content-Length: 7\r\n"), Framing::Length(7));
        assert_eq!(framing("Content-Length: 7\r\ncontent-length: 7\r\n"), Framing::Length(7));
        assert_eq!(framing("Transfer-Encoding: Chunked\r\n"), Framing::CHUNKED);
        assert_eq!(framing("Transfer-Encoding: chunked\r\nContent-Length: 7\r\n"), Framing::CHUNKED);
        assert_eq!(framing(""), Framing::Closed);
        for status in [204, 304] {
            let head = read(&format!("HTTP/1.1 {status} X\r\nContent-Length: 7\r\n\r\n")).unwrap().unwrap();
            assert_eq!((head.framing, head.keeps_alive), (Framing::Length(0), true), "{status}");
        }
        let mut to_head = Bytes::from("HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n");
        let head = read_head(&mut to_head, true, |_| true).unwrap().unwrap();
        assert_eq!(
            (head.framing, &head.response.headers()["content-length"]),
            (Framing::Length(0), &"7".parse().unwrap())
        );
    }

    #[test]
    fn connection_is_reused_only_after_unambiguous_framing() {
        for (head, again) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n", true),
            ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: x, Close\r\n", false),
            ("HTTP/1.0 200 OK\r\nContent-Length: 0\r\nConnection: keep-alive\r\n", false),
            ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n", false),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n", true),
            ("HTTP/1.1 200 OK\r\n", false),
            ("HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n", false),
        ] {
            assert_eq!(read(&format!("{head}\r\n")).unwrap().unwrap().keeps_alive, again, "{head}");
        }
    }

    #[test]
    fn ambiguous_response_head_is_refused() {
        for (head, what) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 7\r\nContent-Length: 8\r\n\r\n", "conflicting Content-Length values"),
            ("HTTP/1.1 200 OK\r\nContent-Length: 7, 7\r\n\r\n", "invalid Content-Length"),
            ("HTTP/1.1 200 OK\r\nContent-Length: +7\r\n\r\n", "invalid Content-Length"),
            ("HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\n", "invalid Content-Length"),
            ("HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551616\r\n\r\n", "invalid Content-Length"),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", "must be chunked"),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", "must be chunked"),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
                "repeated Transfer-Encoding",
            ),
            ("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "must be chunked"),
            ("HTTP/1.1 200 OK\r\nA : b\r\n\r\n", "name"),
            ("HTTP/1.1 200 OK\r\nA: b\r\n folded\r\n\r\n", "name"),
            ("HTTP/1.1 200 OK\r\nA: b\0\r\n\r\n", "value"),
            ("HTTP/1.1 099 OK\r\n\r\n", "status"),
            ("HTTP/2.0 200 OK\r\n\r\n", "version"),
            ("200 OK\r\n\r\n", "version"),
        ] {
            let error = read(head).expect_err(head).to_string();
            assert!(error.contains(what), "{head}: {error}");
        }
    }

    #[test]
    fn response_head_is_parsed_when_complete_and_within_limits() {
        let text =
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 202 Accepted\r\n\r\n";
        for end in 0..text.len() {
            assert!(read(&text[..end]).unwrap().is_none(), "{end}");
        }
        let head = read(text).unwrap().unwrap().response;
        assert_eq!((head.status(), head.headers().len()), (StatusCode::ACCEPTED, 0));
        let long = format!("HTTP/1.1 200 OK\r\nA: {}", "x".repeat(MAX_HEAD));
        assert!(read(&long).unwrap_err().to_string().contains("too long"));
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(MAX_HEADERS + 1));
        assert!(read(&many).unwrap_err().to_string().contains("too many"));
    }
}
