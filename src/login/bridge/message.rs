use base64::{Engine, prelude::BASE64_STANDARD};
use http::HeaderValue;
use serde::Deserialize;
use serde_json::{Value, json};

/// The code of errors that are not the server's own (JSON-RPC 2.0 §5.1).
const ERROR: i32 = -32000;

/// The code for what is not JSON.
const PARSE_ERROR: i32 = -32700;

/// Where a message says its version of MCP, from 2026-07-28 on.
const VERSION: &str = "io.modelcontextprotocol/protocolVersion";

/// A JSON-RPC message, or several, on its way to the server, byte for byte.
#[derive(Clone, Debug)]
pub struct Message {
    /// As it came.
    pub text: String,
    /// The ids of the requests in it, which are to be answered.
    pub ids: Vec<Value>,
    /// The method of a single one.
    pub method: Option<String>,
    /// What its headers repeat, if it speaks MCP 2026-07-28 or later.
    pub repeated: Option<Repeated>,
}

/// What the headers of a request repeat of its message, for those on the way who read no bodies (MCP 2026-07-28, SEP-2243).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Repeated {
    /// `MCP-Protocol-Version`.
    pub version: HeaderValue,
    /// `Mcp-Method`.
    pub method: HeaderValue,
    /// `Mcp-Name`: of the tool, prompt or resource.
    pub name: Option<HeaderValue>,
}

/// What is read of a message.
#[derive(Deserialize)]
struct Envelope {
    id: Option<Value>,
    method: Option<String>,
    #[serde(default)]
    params: Value,
    #[serde(default)]
    result: Value,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Envelopes {
    One(Envelope),
    /// Batches, which MCP had in 2025-03-26.
    Several(Vec<Envelope>),
}

/// An answer of the server.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// Of which request.
    pub id: Value,
    /// The protocol's version, in the answer to `initialize`.
    pub protocol_version: Option<String>,
}

impl Message {
    /// Reads a line.
    pub fn read(line: String) -> Option<Self> {
        let envelopes = envelopes(&line)?;
        let (method, repeated) = match envelopes.as_slice() {
            [one] => (one.method.clone(), Repeated::of(one)),
            _ => (None, None),
        };
        let ids = envelopes.into_iter().filter(|one| one.method.is_some()).filter_map(|one| one.id).collect();
        Some(Self { text: line, ids, method, repeated })
    }

    /// Whether this is the request that begins everything.
    pub fn initializes(&self) -> bool {
        self.method.as_deref() == Some("initialize")
    }

    /// Whether this says that the beginning is over.
    pub fn is_initialized(&self) -> bool {
        self.method.as_deref() == Some("notifications/initialized")
    }
}

impl Repeated {
    fn of(envelope: &Envelope) -> Option<Self> {
        let params = &envelope.params;
        let name = params["name"].as_str().or(params["uri"].as_str());
        Some(Self {
            version: header(params["_meta"][VERSION].as_str()?)?,
            method: header(envelope.method.as_deref()?)?,
            name: name.and_then(header),
        })
    }
}

/// A header's value; what may not stand in one is encoded.
fn header(text: &str) -> Option<HeaderValue> {
    let plain = text.trim() == text && text.bytes().all(|byte| matches!(byte, b' '..=b'~')) && !text.starts_with("=?");
    let encoded = if plain { text.to_owned() } else { format!("=?base64?{}?=", BASE64_STANDARD.encode(text)) };
    HeaderValue::try_from(encoded).ok()
}

/// A message of the server on one line, and what it answers; none if it is not JSON-RPC.
pub fn from_server(text: &str) -> Option<(String, Vec<Answer>)> {
    let envelopes = envelopes(text)?;
    let answers = envelopes.into_iter().filter(|one| one.method.is_none()).filter_map(|one| {
        let protocol_version = one.result["protocolVersion"].as_str().map(str::to_owned);
        Some(Answer { id: one.id?, protocol_version })
    });
    // In JSON, line ends stand between values only.
    Some((text.replace(['\r', '\n'], " "), answers.collect()))
}

/// An error as the answer to a request.
pub fn error(id: &Value, message: &str) -> String {
    json!({"jsonrpc": "2.0", "id": id, "error": {"code": ERROR, "message": message}}).to_string()
}

/// A server's own error, with which it has refused a request, as the answer to it.
pub fn error_of(body: &[u8], id: &Value) -> Option<String> {
    let body: Value = serde_json::from_slice(body).ok()?;
    let error = body.get("error").filter(|error| error["code"].is_i64() && error["message"].is_string())?;
    Some(json!({"jsonrpc": "2.0", "id": id, "error": error}).to_string())
}

/// The answer to what is not JSON-RPC.
pub fn parse_error() -> String {
    let message = "this line is not a JSON-RPC message";
    json!({"jsonrpc": "2.0", "id": null, "error": {"code": PARSE_ERROR, "message": message}}).to_string()
}

fn envelopes(text: &str) -> Option<Vec<Envelope>> {
    Some(match serde_json::from_str(text).ok()? {
        Envelopes::One(one) => vec![one],
        Envelopes::Several(several) => several,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_classified_as_request_notification_or_response() {
        let read = |line: &str| Message::read(line.to_owned()).map(|message| message.ids);
        assert_eq!(read(r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#), Some(vec![json!(1)]));
        assert_eq!(read(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#), Some(vec![]));
        assert_eq!(read(r#"{"jsonrpc":"2.0","id":"s1","result":{}}"#), Some(vec![]));
        assert_eq!(
            read(r#"[{"id":"a","method":"ping"},{"method":"x"},{"id":2,"method":"ping"}]"#),
            Some(vec![json!("a"), json!(2)])
        );
        assert_eq!(read("hello"), None);
        assert_eq!(read("1"), None);
    }

    #[test]
    fn protocol_2026_07_28_repeats_the_method_in_headers() {
        let read = |params: Value| {
            let line = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}).to_string();
            Message::read(line).unwrap().repeated
        };
        let repeated = read(json!({"name": "caf\u{e9}", "_meta": {VERSION: "2026-07-28"}})).unwrap();
        assert_eq!((repeated.version.as_bytes(), repeated.method.as_bytes()), (&b"2026-07-28"[..], &b"tools/call"[..]));
        assert_eq!(repeated.name.unwrap(), "=?base64?Y2Fmw6k=?=");
        let resource = read(json!({"uri": "file:///a b", "_meta": {VERSION: "2026-07-28"}})).unwrap();
        assert_eq!(resource.name.unwrap(), "file:///a b");
        assert_eq!(read(json!({"name": "echo"})), None);
    }

    #[test]
    fn server_message_is_printed_on_one_line_otherwise_unchanged() {
        let (line, answers) =
            from_server("{\n  \"id\": 3,\r\n  \"result\": {\"n\": 1.50, \"protocolVersion\": \"2025-11-25\"}\n}")
                .unwrap();
        assert_eq!(line, "{   \"id\": 3,    \"result\": {\"n\": 1.50, \"protocolVersion\": \"2025-11-25\"} }");
        assert_eq!(answers, [Answer { id: json!(3), protocol_version: Some("2025-11-25".to_owned()) }]);
        assert_eq!(from_server(r#"{"id":1,"method":"sampling/createMessage"}"#).unwrap().1, []);
        assert_eq!(from_server("<html>"), None);
    }

    #[test]
    fn server_error_is_passed_on_with_the_request_id() {
        let body = br#"{"jsonrpc":"2.0","id":"server-error","error":{"code":-32600,"message":"no"}}"#;
        let line = error_of(body, &json!(7)).unwrap();
        assert_eq!(serde_json::from_str::<Value>(&line).unwrap()["id"], 7);
        assert!(line.contains("-32600") && error_of(b"{\"error\":\"no\"}", &json!(7)).is_none());
    }
}
