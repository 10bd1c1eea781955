use base64::{Engine, prelude::BASE64_STANDARD};
use http::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use serde_json::{Value, json};

/// Error code of the bridge's own errors (JSON-RPC 2.0 §5.1, server error).
pub const BRIDGE_ERROR: i32 = -32000;
pub const PARSE_ERROR: i32 = -32700;

pub const PROTOCOL_VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
const METHOD: HeaderName = HeaderName::from_static("mcp-method");
const NAME: HeaderName = HeaderName::from_static("mcp-name");

/// The member of `params._meta` with the protocol version, since MCP 2026-07-28.
const VERSION: &str = "io.modelcontextprotocol/protocolVersion";

/// A JSON-RPC message or batch of the client. It is sent unchanged.
#[derive(Clone, Debug)]
pub struct Message {
    pub text: String,
    /// The ids of its requests.
    pub ids: Vec<Value>,
    /// `None` for a batch.
    method: Option<String>,
    /// Headers that repeat parts of the message for intermediaries (MCP 2026-07-28, SEP-2243).
    pub headers: HeaderMap,
}

#[derive(Deserialize)]
struct Envelope {
    id: Option<Value>,
    method: Option<String>,
    #[serde(default)]
    params: Value,
    #[serde(default)]
    result: Value,
}

/// A response of the server.
#[derive(Clone, Debug, PartialEq)]
pub struct Response {
    pub id: Value,
    /// Only in the response to `initialize`.
    pub protocol_version: Option<String>,
}

impl Message {
    /// Returns `None` if the line is not JSON-RPC.
    pub fn parse(text: String) -> Option<Self> {
        let envelopes = parse_envelopes(&text)?;
        let (method, headers) = match envelopes.as_slice() {
            [one] => (one.method.clone(), one.repeated_headers().unwrap_or_default()),
            _ => (None, HeaderMap::new()),
        };
        let ids = envelopes.into_iter().filter(|one| one.method.is_some()).filter_map(|one| one.id).collect();
        Some(Self { text, ids, method, headers })
    }

    /// The method; empty for responses and batches.
    pub fn method(&self) -> &str {
        self.method.as_deref().unwrap_or_default()
    }

    pub fn is_initialize(&self) -> bool {
        self.method() == "initialize"
    }

    pub fn is_initialized(&self) -> bool {
        self.method() == "notifications/initialized"
    }
}

impl Envelope {
    fn repeated_headers(&self) -> Option<HeaderMap> {
        let version = header_value(self.params["_meta"][VERSION].as_str()?)?;
        let mut headers =
            HeaderMap::from_iter([(PROTOCOL_VERSION, version), (METHOD, header_value(self.method.as_deref()?)?)]);
        let name = self.params["name"].as_str().or(self.params["uri"].as_str());
        headers.extend(name.and_then(header_value).map(|name| (NAME, name)));
        Some(headers)
    }
}

/// Encodes text that is not a valid header value.
fn header_value(text: &str) -> Option<HeaderValue> {
    let plain = text.trim() == text && text.bytes().all(|byte| matches!(byte, b' '..=b'~')) && !text.starts_with("=?");
    let encoded = if plain { text.to_owned() } else { format!("=?base64?{}?=", BASE64_STANDARD.encode(text)) };
    HeaderValue::try_from(encoded).ok()
}

/// Returns a message of the server as one line, and the responses in it; `None` if it is not JSON-RPC.
pub fn parse_server_message(text: &str) -> Option<(String, Vec<Response>)> {
    let envelopes = parse_envelopes(text)?;
    let responses = envelopes.into_iter().filter(|one| one.method.is_none()).filter_map(|one| {
        let protocol_version = one.result["protocolVersion"].as_str().map(str::to_owned);
        Some(Response { id: one.id?, protocol_version })
    });
    // JSON has line breaks only between tokens.
    Some((text.replace(['\r', '\n'], " "), responses.collect()))
}

pub fn error(id: &Value, code: i32, message: &str) -> String {
    json!({"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": message}}).to_string()
}

/// Forwards the JSON-RPC error in the body of an HTTP error, with the id of the request.
pub fn server_error(id: &Value, body: &[u8]) -> Option<String> {
    let body: Value = serde_json::from_slice(body).ok()?;
    let error = body.get("error").filter(|error| error["code"].is_i64() && error["message"].is_string())?;
    Some(json!({"jsonrpc": "2.0", "id": id, "error": error}).to_string())
}

/// MCP 2025-03-26 allows batches.
fn parse_envelopes(text: &str) -> Option<Vec<Envelope>> {
    serde_json::from_str(text).map(|one| vec![one]).or_else(|_| serde_json::from_str(text)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_classified_as_request_notification_or_response() {
        let read = |line: &str| Message::parse(line.to_owned()).map(|message| message.ids);
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
            Message::parse(line).unwrap().headers
        };
        let headers = read(json!({"name": "caf\u{e9}", "_meta": {VERSION: "2026-07-28"}}));
        assert_eq!(headers[PROTOCOL_VERSION], "2026-07-28");
        assert_eq!(headers[METHOD], "tools/call");
        assert_eq!(headers[NAME], "=?base64?Y2Fmw6k=?=");
        assert_eq!(read(json!({"uri": "file:///a b", "_meta": {VERSION: "2026-07-28"}}))[NAME], "file:///a b");
        assert!(read(json!({"name": "echo"})).is_empty());
    }

    #[test]
    fn server_message_is_printed_on_one_line_otherwise_unchanged() {
        let (line, responses) = parse_server_message(
            "{\n  \"id\": 3,\r\n  \"result\": {\"n\": 1.50, \"protocolVersion\": \"2025-11-25\"}\n}",
        )
        .unwrap();
        assert_eq!(line, "{   \"id\": 3,    \"result\": {\"n\": 1.50, \"protocolVersion\": \"2025-11-25\"} }");
        assert_eq!(responses, [Response { id: json!(3), protocol_version: Some("2025-11-25".to_owned()) }]);
        assert_eq!(parse_server_message(r#"{"id":1,"method":"sampling/createMessage"}"#).unwrap().1, []);
        assert_eq!(parse_server_message("<html>"), None);
    }

    #[test]
    fn server_error_is_passed_on_with_the_request_id() {
        let body = br#"{"jsonrpc":"2.0","id":"server-error","error":{"code":-32600,"message":"no"}}"#;
        let line = server_error(&json!(7), body).unwrap();
        assert_eq!(serde_json::from_str::<Value>(&line).unwrap()["id"], 7);
        assert!(line.contains("-32600") && server_error(&json!(7), b"{\"error\":\"no\"}").is_none());
    }
}
