//! The bytes of a client that hyper has not read yet, and how many of them it may read.
//!
//! Over HTTP/1 hyper gets one request at a time: its head after [`check_head`], and its content. Instead of a refused head it
//! gets [`REFUSED`], so that it sends the refusal after the previous responses. Over HTTP/2 all bytes pass unchanged.

use std::io::{self, ErrorKind};

use bytes::Bytes;
use hyper::rt::ReadBufCursor;

use super::request_head::{MAX_HEAD, Refusal, check_head};
use crate::http1::{Framing, WireError, skip};

/// The start of an HTTP/2 connection (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The service responds to it with the refusal.
const REFUSED: &[u8] = b"GET / HTTP/1.1\r\nhost: refused\r\nconnection: close\r\n\r\n";

/// Why hyper got [`REFUSED`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Refused {
    Head(Refusal),
    /// Too many connections are open.
    Busy,
}

/// What the next bytes are.
#[derive(Clone, Copy, Debug, Default)]
pub enum Phase {
    /// The first bytes, which distinguish HTTP/1 from HTTP/2.
    #[default]
    Start,
    Head,
    Content(Framing),
    Http2,
    /// Ignored: the connection closes after the refusal.
    Refused,
}

#[derive(Default)]
pub struct ClientInput {
    pub phase: Phase,
    pub bytes: Bytes,
    /// Length of the prefix that hyper may read.
    checked: usize,
    /// Length of the prefix that contains no complete head. A head that arrives byte by byte is parsed once per line.
    pub scanned: usize,
    pub refused: Option<Refused>,
}

impl ClientInput {
    /// Moves checked bytes to `buffer`; `false` if there are none.
    pub fn read(&mut self, buffer: &mut ReadBufCursor<'_>) -> bool {
        if self.checked == 0 {
            return false;
        }
        let length = self.checked.min(buffer.remaining());
        buffer.put_slice(self.bytes.get(..length).unwrap_or_default());
        skip(&mut self.bytes, length);
        self.checked -= length;
        true
    }

    /// Skips the empty lines that some clients send after the content of a request (RFC 9112 §2.2). Returns whether the rest is
    /// empty.
    pub fn skip_empty_lines(&mut self) -> bool {
        while self.bytes.starts_with(b"\r\n") {
            skip(&mut self.bytes, 2);
        }
        matches!(self.bytes[..], [] | [b'\r'])
    }

    /// Checks the next head, or at the start the HTTP/2 preface. Returns whether hyper may read.
    pub fn check_head(&mut self) -> bool {
        if matches!(self.phase, Phase::Start) {
            if self.bytes.starts_with(PREFACE) {
                (self.phase, self.checked) = (Phase::Http2, self.bytes.len());
                return true;
            }
            self.scanned = self.bytes.len();
            if PREFACE.starts_with(&self.bytes) {
                return false;
            }
            (self.phase, self.scanned) = (Phase::Head, 0);
        }
        let new = self.bytes.get(self.scanned..).unwrap_or_default();
        if self.scanned > 0 && !new.contains(&b'\n') && self.bytes.len() < MAX_HEAD {
            return false;
        }
        match check_head(&self.bytes) {
            Ok(None) => {
                self.scanned = self.bytes.len();
                return false;
            }
            Ok(Some(head)) => {
                (self.checked, self.scanned) = (head.length, 0);
                self.expect(head.framing);
                // hyper reads a head with its content at once, if it can. Invalid content fails when hyper reads it.
                let _ = self.check_content();
            }
            Err(refusal) => self.refuse(Refused::Head(refusal)),
        }
        true
    }

    /// Checks the content that has arrived. Returns whether hyper may read.
    pub fn check_content(&mut self) -> io::Result<bool> {
        if let Phase::Content(mut framing) = self.phase {
            let rest = skip_content(&mut framing, self.bytes.slice(self.checked..));
            let rest = rest.map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
            self.checked = self.bytes.len() - rest.len();
            self.expect(framing);
        }
        Ok(self.checked > 0)
    }

    /// Whether all content of the request has arrived. hyper may not have read it.
    pub fn has_all_content(&mut self) -> bool {
        let _ = self.check_content();
        !matches!(self.phase, Phase::Content(_))
    }

    pub fn refuse(&mut self, refused: Refused) {
        (self.phase, self.refused) = (Phase::Refused, Some(refused));
        (self.bytes, self.checked) = (Bytes::from_static(REFUSED), REFUSED.len());
    }

    fn expect(&mut self, framing: Framing) {
        self.phase = if framing.is_complete() { Phase::Head } else { Phase::Content(framing) };
    }
}

/// Returns the bytes after the content, as far as it has arrived.
fn skip_content(framing: &mut Framing, mut bytes: Bytes) -> Result<Bytes, WireError> {
    while framing.next(&mut bytes)?.is_some() {}
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn head_sent_byte_by_byte_is_parsed_once_per_line() {
        let head = "GET /a HTTP/1.1\r\nhost: a\r\n\r\n";
        let mut input = ClientInput::default();
        let mut parsed = 0;
        for (index, byte) in head.bytes().enumerate() {
            let scanned = input.scanned;
            input.bytes = [&input.bytes[..], &[byte]].concat().into();
            assert_eq!(input.check_head(), index == head.len() - 1);
            parsed += usize::from(input.scanned != scanned);
        }
        // At the first byte, and then once per line.
        assert_eq!(parsed, 4);
    }
}
