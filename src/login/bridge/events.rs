use std::{mem, time::Duration};

use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::{BridgeError, MAX_MESSAGE, Result};

/// Default delay before a stream is requested again.
pub const RETRY: Duration = Duration::from_secs(1);

/// A server-sent event (WHATWG HTML §9.2).
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Event {
    /// Empty if the event has only an id.
    pub data: String,
    pub id: Option<String>,
}

pub struct Events {
    body: Incoming,
    parser: Parser,
    parsed: std::vec::IntoIter<Event>,
}

#[derive(Default)]
struct Parser {
    line: Vec<u8>,
    after_cr: bool,
    event: Event,
    name: String,
    retry: Option<Duration>,
}

impl Events {
    pub fn new(body: Incoming) -> Self {
        Self { body, parser: Parser::default(), parsed: Vec::new().into_iter() }
    }

    /// How long to wait before the stream is requested again.
    pub fn retry(&self) -> Duration {
        self.parser.retry.unwrap_or(RETRY)
    }

    /// Returns `None` at the end of the stream, also if the connection breaks. Cancel safe.
    pub async fn next(&mut self) -> Result<Option<Event>> {
        loop {
            if let Some(event) = self.parsed.next() {
                return Ok(Some(event));
            }
            let Some(Ok(frame)) = self.body.frame().await else { return Ok(None) };
            if let Ok(data) = frame.into_data() {
                self.parsed = self.parser.push(&data).into_iter();
            }
            if self.parser.line.len() + self.parser.event.data.len() > MAX_MESSAGE {
                return Err(BridgeError::TooLarge);
            }
        }
    }
}

impl Parser {
    /// Returns the events that these bytes complete.
    fn push(&mut self, bytes: &[u8]) -> Vec<Event> {
        let mut events = Vec::new();
        for &byte in bytes {
            // A line ends with CR, LF or CRLF.
            if byte == b'\r' || byte == b'\n' && !self.after_cr {
                let line = mem::take(&mut self.line);
                events.extend(self.push_line(String::from_utf8_lossy(&line).trim_start_matches('\u{feff}')));
            } else if byte != b'\n' {
                self.line.push(byte);
            }
            self.after_cr = byte == b'\r';
        }
        events
    }

    fn push_line(&mut self, line: &str) -> Option<Event> {
        if line.is_empty() {
            let mut event = mem::take(&mut self.event);
            event.data.pop();
            // MCP messages are events without a name or with the name `message`.
            if !matches!(mem::take(&mut self.name).as_str(), "" | "message") {
                event.data.clear();
            }
            return (event != Event::default()).then_some(event);
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "data" => self.event.data.extend([value, "\n"]),
            "id" if !value.contains('\0') => self.event.id = Some(value.to_owned()),
            "event" => value.clone_into(&mut self.name),
            "retry" => self.retry = value.parse().ok().map(Duration::from_millis).or(self.retry),
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(data: &str, id: Option<&str>) -> Event {
        Event { data: data.to_owned(), id: id.map(str::to_owned) }
    }

    const STREAM: &str = "\u{feff}: hello\nid: 1\ndata:\n\nevent: message\r\ndata: {\"a\":\r\ndata: 1}\r\n\r\n\
                          retry: 20\revent: ping\rdata: x\rid:2\r\rdata:last\n\ndata: never ended\n";

    #[test]
    fn event_parsing_is_independent_of_chunk_boundaries() {
        let expected = [event("", Some("1")), event("{\"a\":\n1}", None), event("", Some("2")), event("last", None)];
        for size in 1..STREAM.len() {
            let mut parser = Parser::default();
            let events: Vec<_> = STREAM.as_bytes().chunks(size).flat_map(|chunk| parser.push(chunk)).collect();
            assert_eq!(events, expected, "chunks of {size} bytes");
            assert_eq!(parser.retry, Some(Duration::from_millis(20)));
        }
    }
}
