use std::mem;

use bytes::{Buf, Bytes};
use httparse::Status;

use super::WireError;

/// Maximum bytes of a chunk's size line.
const MAX_SIZE_LINE: usize = 1024;

/// Bytes of a size line without extension: sixteen digits and CRLF.
const PLAIN_SIZE_LINE: usize = 18;

/// Maximum bytes of all chunk extensions of a message.
const MAX_EXTENSIONS: usize = 16 * 1024;

/// Maximum bytes of trailers. Each counts as at least [`SHORT_TRAILER`], so there are 100 at most, as many as hyper accepts.
const MAX_TRAILERS: usize = 16 * 1024;
const SHORT_TRAILER: usize = MAX_TRAILERS / 100;

/// How the content of a message is delimited (RFC 9112 §6.3), and how much of it remains.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Framing {
    /// The remaining bytes.
    Length(u64),
    Chunked(Chunks),
    /// The content ends with the connection.
    Closed,
}

/// Decoder state of chunked content (RFC 9112 §7.1). Extensions and trailers are discarded.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Chunks {
    next: Next,
    /// How many bytes of extensions are still allowed in total: many short ones cost as much as a long one.
    extensions: usize,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Next {
    Size,
    /// The remaining bytes of a chunk.
    Data(u64),
    /// The CRLF after the data.
    DataEnd,
    /// How many bytes of trailers are still allowed.
    Trailers(usize),
    End,
}

impl Framing {
    /// The start of chunked content.
    pub const CHUNKED: Self = Self::Chunked(Chunks { next: Next::Size, extensions: MAX_EXTENSIONS });

    pub fn is_complete(self) -> bool {
        self.remaining() == Some(0)
    }

    /// The remaining bytes, if known.
    pub fn remaining(self) -> Option<u64> {
        match self {
            Self::Length(remaining) => Some(remaining),
            Self::Chunked(Chunks { next: Next::End, .. }) => Some(0),
            Self::Chunked(_) | Self::Closed => None,
        }
    }

    /// Ends the content because the connection has closed. Fails if that truncates it.
    pub fn close(&mut self) -> Result<(), WireError> {
        if *self != Self::Closed {
            return Err(WireError::Incomplete);
        }
        *self = Self::Length(0);
        Ok(())
    }

    /// Takes the next content out of `read`. `None` if it is complete, or more must be read.
    pub fn next(&mut self, read: &mut Bytes) -> Result<Option<Bytes>, WireError> {
        let data = match self {
            Self::Closed => mem::take(read),
            Self::Length(remaining) => take(read, remaining),
            Self::Chunked(chunks) => {
                chunks.advance(read)?;
                let Next::Data(remaining) = &mut chunks.next else { return Ok(None) };
                let data = take(read, remaining);
                // Completes the content with its last data if the final chunk has been read too.
                chunks.advance(read)?;
                data
            }
        };
        Ok(if data.is_empty() { None } else { Some(data) })
    }
}

impl Chunks {
    /// Consumes everything before the next content, as far as it has been read.
    fn advance(&mut self, read: &mut Bytes) -> Result<(), WireError> {
        loop {
            self.next = match self.next {
                Next::Data(0) => Next::DataEnd,
                Next::Data(_) | Next::End => return Ok(()),
                Next::Size => {
                    let Some((length, size)) = chunk_size(read)? else { return Ok(()) };
                    let extensions = self.extensions.checked_sub(length.saturating_sub(PLAIN_SIZE_LINE));
                    self.extensions =
                        extensions.ok_or(WireError::Malformed("the extensions of chunks are too long"))?;
                    read.advance(length);
                    if size == 0 { Next::Trailers(MAX_TRAILERS) } else { Next::Data(size) }
                }
                Next::DataEnd => match &read[..] {
                    [b'\r', b'\n', ..] => {
                        read.advance(2);
                        Next::Size
                    }
                    [] | [b'\r'] => return Ok(()),
                    _ => return Err(WireError::Malformed("a chunk is longer than its size")),
                },
                Next::Trailers(max) => {
                    let line = read.iter().position(|byte| *byte == b'\n').map(|end| end + 1);
                    let length = line.unwrap_or(read.len());
                    let rest = max.checked_sub(length.max(SHORT_TRAILER));
                    if line.is_none() && length <= max {
                        return Ok(());
                    }
                    let line = read.split_to(length);
                    if line == "\r\n" {
                        Next::End
                    } else if is_field_line(&line) {
                        Next::Trailers(rest.ok_or(WireError::Malformed("the trailers are too long"))?)
                    } else {
                        return Err(WireError::Malformed("invalid trailer"));
                    }
                }
            }
        }
    }
}

/// The length of a size line, and the chunk's size. httparse accepts no digits as 0 and a line feed within an extension; both let
/// two readers see different chunks, so both are refused here.
fn chunk_size(read: &[u8]) -> Result<Option<(usize, u64)>, WireError> {
    let Some(first) = read.first() else { return Ok(None) };
    match httparse::parse_chunk_size(read) {
        Ok(Status::Partial) if read.len() < MAX_SIZE_LINE => Ok(None),
        Ok(Status::Complete((length, size)))
            if first.is_ascii_hexdigit()
                && length <= MAX_SIZE_LINE
                && !read.iter().take(length.saturating_sub(1)).any(|byte| *byte == b'\n') =>
        {
            Ok(Some((length, size)))
        }
        _ => Err(WireError::Malformed("invalid chunk size")),
    }
}

/// Whether a line with its line ending is a header (RFC 9112 §5).
fn is_field_line(line: &[u8]) -> bool {
    let section = [line, b"\r\n"].concat();
    line.ends_with(b"\r\n")
        && matches!(httparse::parse_headers(&section, &mut [httparse::EMPTY_HEADER]), Ok(Status::Complete((_, [_]))))
}

/// Parses a `Content-Length`: digits only (RFC 9112 §6.3).
pub fn content_length(value: &[u8]) -> Option<u64> {
    let digits = str::from_utf8(value).ok().filter(|value| value.bytes().all(|byte| byte.is_ascii_digit()));
    digits.and_then(|digits| digits.parse().ok())
}

/// Whether a value of `Connection` lists `close`.
pub fn lists_close(connection: &[u8]) -> bool {
    connection.split(|byte| *byte == b',').any(|option| option.trim_ascii().eq_ignore_ascii_case(b"close"))
}

/// Removes `length` bytes, and releases an empty buffer: a stream may send nothing for long after its head.
pub fn skip(read: &mut Bytes, length: usize) {
    read.advance(length);
    if read.is_empty() {
        *read = Bytes::new();
    }
}

fn take(read: &mut Bytes, remaining: &mut u64) -> Bytes {
    let data = read.split_to(usize::try_from(*remaining).unwrap_or(usize::MAX).min(read.len()));
    *remaining -= data.len() as u64;
    data
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use proptest::prelude::*;

    use super::*;

    const CHUNKED: Framing = Framing::CHUNKED;

    /// Decodes content that arrives in these parts; returns it with the unread rest.
    fn content(mut framing: Framing, parts: &[&[u8]]) -> Result<(Vec<u8>, Framing, Bytes), WireError> {
        let (mut content, mut read) = (Vec::new(), Bytes::new());
        for part in parts {
            let mut all = BytesMut::from(read);
            all.extend_from_slice(part);
            read = all.freeze();
            while let Some(data) = framing.next(&mut read)? {
                content.extend_from_slice(&data);
            }
        }
        Ok((content, framing, read))
    }

    #[test]
    fn content_of_known_length_leaves_following_bytes_unread() {
        let (data, framing, rest) = content(Framing::Length(5), &[b"he", b"llo!"]).unwrap();
        assert_eq!((&data[..], framing.is_complete(), &rest[..]), (&b"hello"[..], true, &b"!"[..]));
    }

    #[test]
    fn only_close_delimited_content_may_end_with_connection() {
        let (data, mut framing, _) = content(Framing::Closed, &[b"he", b"llo"]).unwrap();
        assert_eq!((&data[..], framing.is_complete()), (&b"hello"[..], false));
        assert!(framing.close().is_ok() && framing.is_complete());
        assert!(Framing::Length(1).close().is_err());
        assert!(content(CHUNKED, &[b"2\r\nab\r\n0\r\n"]).unwrap().1.close().is_err());
    }

    #[test]
    fn framing_ends_with_last_content() {
        let (mut framing, mut read) = (CHUNKED, Bytes::from_static(b"2\r\nab\r\n0\r\n\r\nnext"));
        assert_eq!(framing.next(&mut read).unwrap(), Some(Bytes::from_static(b"ab")));
        assert_eq!((framing.is_complete(), framing.remaining(), &read[..]), (true, Some(0), &b"next"[..]));
    }

    #[test]
    fn only_rfc_9112_chunks_are_accepted() {
        let good: [&[u8]; 4] = [
            b"3\r\nabc\r\n0\r\n\r\n",
            b"0003;name=value\r\nabc\r\n0;x\r\n\r\n",
            b"1\r\na\r\n2\r\nbc\r\n000\r\n\r\n",
            b"3\r\nabc\r\n0\r\nExpires: never\r\nX: y\r\n\r\n",
        ];
        for chunks in good {
            let (data, framing, rest) = content(CHUNKED, &[chunks]).unwrap();
            assert_eq!((&data[..], framing.is_complete(), rest.is_empty()), (&b"abc"[..], true, true), "{chunks:?}");
        }
        let long = [b"3;".as_slice(), &[b'x'; MAX_SIZE_LINE], b"\r\n"].concat();
        let trailers = |count| [b"3\r\nabc\r\n0\r\n".as_slice(), &b"a: b\r\n".repeat(count), b"\r\n"].concat();
        assert!(content(CHUNKED, &[&trailers(100)]).unwrap().1.is_complete());
        let trailers = trailers(101);
        let endless = [b"0\r\na: ".as_slice(), &[b'x'; MAX_TRAILERS]].concat();
        let many = [b"1;".as_slice(), &[b'x'; 100], b"\r\na\r\n"].concat().repeat(MAX_EXTENSIONS / 80);
        let bad: [&[u8]; 18] = [
            b"\r\n",
            b"-1\r\n",
            b"0x3\r\nabc\r\n",
            b"3\nabc\r\n",
            b"3\rabc\r\n",
            b"3;a\nb\r\nabc\r\n",
            b"2\r\nabc\r\n",
            b"3\r\nabc\n0\r\n",
            b"10000000000000000\r\n",
            b"0\r\n\n",
            b"0\r\na: b\n\r\n",
            b"0\r\n\x7f: y\r\n\r\n",
            b"0\r\nno colon\r\n\r\n",
            b"0\r\na: b\r\n folded\r\n\r\n",
            &long,
            &many,
            &trailers,
            &endless,
        ];
        for chunks in bad {
            assert!(content(CHUNKED, &[chunks]).is_err(), "{:?}", &chunks[..chunks.len().min(40)]);
        }
    }

    proptest! {
        #[test]
        fn chunk_decoding_is_independent_of_read_boundaries(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..6),
            cuts in prop::collection::vec(1..20_usize, 1..30),
        ) {
            let mut sent = Vec::new();
            for chunk in &chunks {
                sent.extend_from_slice(format!("{:X};x=y\r\n", chunk.len()).as_bytes());
                sent.extend_from_slice(chunk);
                sent.extend_from_slice(b"\r\n");
            }
            sent.extend_from_slice(b"0\r\nTrailer: x\r\n\r\nrest");
            let (mut parts, mut left) = (Vec::new(), &sent[..]);
            for cut in cuts.iter().cycle() {
                let (part, rest) = left.split_at((*cut).min(left.len()));
                parts.push(part);
                left = rest;
                if left.is_empty() {
                    break;
                }
            }
            let (data, framing, rest) = content(CHUNKED, &parts).unwrap();
            prop_assert_eq!(data, chunks.concat());
            prop_assert!(framing.is_complete());
            prop_assert_eq!(&rest[..], b"rest");
        }

        #[test]
        fn arbitrary_input_yields_error_or_subset_of_input(bytes in prop::collection::vec(prop::sample::select(b"0123aF;\r\n x".to_vec()), 0..60)) {
            if let Ok((data, _, rest)) = content(CHUNKED, &[&bytes]) {
                prop_assert!(data.len() + rest.len() <= bytes.len() && bytes.ends_with(&rest));
            }
        }
    }
}
