use std::{mem, time::Duration};

use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::{BridgeError, MAX_MESSAGE};

/// How long to wait before a stream that has ended is asked for again, unless the server says otherwise.
pub const RETRY: Duration = Duration::from_secs(1);

/// A server-sent event (WHATWG HTML §9.2).
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Event {
    /// Its message; empty if it only tells its id.
    pub data: String,
    /// Where to go on after it.
    pub id: Option<String>,
}

/// The events of an answer.
pub struct Events {
    body: Incoming,
    parser: Parser,
    ready: std::vec::IntoIter<Event>,
}

/// What is known of a stream between two pieces of it.
#[derive(Default)]
struct Parser {
    line: Vec<u8>,
    after_return: bool,
    event: Event,
    name: String,
    retry: Option<Duration>,
}

impl Events {
    /// The events of a body.
    pub fn new(body: Incoming) -> Self {
        Self { body, parser: Parser::default(), ready: Vec::new().into_iter() }
    }

    /// How long to wait before the stream is asked for again.
    pub fn retry(&self) -> Duration {
        self.parser.retry.unwrap_or(RETRY)
    }

    /// The next event; none at the end, however it came. What is dropped while it waits loses nothing.
    ///
    /// # Errors
    /// When an event is larger than a message may be.
    pub async fn next(&mut self) -> Result<Option<Event>, BridgeError> {
        loop {
            if let Some(event) = self.ready.next() {
                return Ok(Some(event));
            }
            let Some(Ok(frame)) = self.body.frame().await else { return Ok(None) };
            if let Ok(data) = frame.into_data() {
                self.ready = self.parser.push(&data).into_iter();
            }
            if self.parser.line.len() + self.parser.event.data.len() > MAX_MESSAGE {
                return Err(BridgeError::TooLarge);
            }
        }
    }
}

impl Parser {
    /// The events that these bytes complete.
    fn push(&mut self, bytes: &[u8]) -> Vec<Event> {
        let mut events = Vec::new();
        for &byte in bytes {
            // Lines end with CR, LF, or both.
            let end = byte == b'\n' && !self.after_return || byte == b'\r';
            if end {
                let line = mem::take(&mut self.line);
                events.extend(self.line(String::from_utf8_lossy(&line).trim_start_matches('\u{feff}')));
            } else if byte != b'\n' {
                self.line.push(byte);
            }
            self.after_return = byte == b'\r';
        }
        events
    }

    fn line(&mut self, line: &str) -> Option<Event> {
        if line.is_empty() {
            let mut event = mem::take(&mut self.event);
            event.data.pop();
            // MCP's messages are events without a name, or with this one.
            if !matches!(mem::take(&mut self.name).as_str(), "" | "message") {
                event.data.clear();
            }
            return (event != Event::default()).then_some(event);
        }
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match name {
            "data" => {
                self.event.data += value;
                self.event.data.push('\n');
            }
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
            assert_eq!(events, expected, "in pieces of {size}");
            assert_eq!(parser.retry, Some(Duration::from_millis(20)));
        }
    }
}
