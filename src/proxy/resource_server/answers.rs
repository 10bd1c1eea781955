//! What is answered without the upstream, or in its place.

use http::{
    HeaderValue, Response, StatusCode,
    header::{ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_MAX_AGE, ALLOW, RETRY_AFTER},
};
use serde_json::json;

use super::{
    Body,
    bearer::json_response,
    breaker::Broken,
    headers::{allow_any_origin, deny_any_origin},
    limits::Shed,
    request_body::RequestBodyError,
};
use crate::proxy::cors::REQUEST_HEADERS;

/// The methods of an MCP endpoint. Nothing else is forwarded.
const METHODS: HeaderValue = HeaderValue::from_static("GET, POST, DELETE, HEAD, OPTIONS");

/// To a browser that asks whether it may send a request.
pub fn preflight() -> Response<Body> {
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, METHODS);
    // The star is for `Mcp-Param-*`, whose names each tool makes up; it does not stand for `Authorization` (Fetch, CORS
    // protocol).
    if let Ok(allowed) = HeaderValue::from_str(&format!("{}, *", REQUEST_HEADERS.join(", "))) {
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, allowed);
    }
    headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("86400"));
    allow_any_origin(headers);
    response
}

/// To a method that MCP does not have.
pub fn method_not_allowed() -> Response<Body> {
    let mut response = invalid_request(StatusCode::METHOD_NOT_ALLOWED, "an MCP endpoint does not know this method");
    response.headers_mut().insert(ALLOW, METHODS);
    response
}

/// To a target that does not fit.
pub fn uri_too_long() -> Response<Body> {
    invalid_request(StatusCode::URI_TOO_LONG, "the request's path and query are too long")
}

/// To a web page that may not call. No CORS header: it may not even read why.
pub fn foreign_origin() -> Response<Body> {
    let description = "requests from this web page are not let in: whoever runs this server can add its origin to spec.clients.origins";
    let mut response = invalid_request(StatusCode::FORBIDDEN, description);
    deny_any_origin(response.headers_mut());
    response
}

/// To a request with several `Host` headers, or none.
pub fn without_host() -> Response<Body> {
    invalid_request(StatusCode::BAD_REQUEST, "a request has exactly one Host header")
}

/// To a request that nobody can make anything of.
pub fn invalid_request(status: StatusCode, description: &str) -> Response<Body> {
    json_response(status, &json!({"error": "invalid_request", "error_description": description}))
}

/// To a body that is not forwarded to its end.
pub fn refuse_body(error: &RequestBodyError) -> Response<Body> {
    let status = match error {
        RequestBodyError::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        RequestBodyError::TooSlow => StatusCode::REQUEST_TIMEOUT,
        RequestBodyError::Broken(_) => StatusCode::BAD_REQUEST,
    };
    invalid_request(status, &error.to_string())
}

/// The upstream spells the path in another way now; the client sends its request again.
pub fn upstream_changed() -> Response<Body> {
    later("the upstream has changed: try again", 1)
}

/// There is too much to do for now, or for this user.
pub fn shed(shed: Shed) -> Response<Body> {
    later(&shed.to_string(), 1)
}

/// To a connection that is one too many.
pub fn busy() -> Response<Body> {
    later("too many connections are open: try again", 1)
}

/// The upstream is not tried for now.
pub fn broken(Broken { wait }: Broken) -> Response<Body> {
    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    later("the upstream cannot be reached: try again", seconds.max(1))
}

/// Nothing is wrong with the request, and in so many seconds it may well be answered.
fn later(description: &str, seconds: u64) -> Response<Body> {
    let body = json!({"error": "temporarily_unavailable", "error_description": description});
    let mut response = json_response(StatusCode::SERVICE_UNAVAILABLE, &body);
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    response
}

/// The upstream takes too long.
pub fn gateway_timeout() -> Response<Body> {
    let body = json!({"error": "gateway_timeout", "error_description": "the upstream did not answer in time"});
    json_response(StatusCode::GATEWAY_TIMEOUT, &body)
}

/// The upstream is at fault.
pub fn bad_gateway(description: &str) -> Response<Body> {
    json_response(StatusCode::BAD_GATEWAY, &json!({"error": "bad_gateway", "error_description": description}))
}

/// What an MCP server answers for a session it does not know: the client begins a new one (MCP transports, session
/// management).
pub fn foreign_mcp_session() -> Response<Body> {
    let error = json!({"code": -32001, "message": "Session not found"});
    json_response(StatusCode::NOT_FOUND, &json!({"jsonrpc": "2.0", "id": null, "error": error}))
}
