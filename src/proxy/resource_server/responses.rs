//! Responses that do not come from the upstream.

use http::{
    HeaderValue, Response, StatusCode,
    header::{
        ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_MAX_AGE, ALLOW, CONTENT_TYPE,
        RETRY_AFTER,
    },
};
use serde_json::json;

use super::{
    Body,
    headers::{allow_any_origin, deny_any_origin},
    request_body::RequestBodyError,
};
use crate::proxy::{cors::REQUEST_HEADERS, observability::metrics::Outcome};

/// The methods of an MCP endpoint.
const METHODS: HeaderValue = HeaderValue::from_static("GET, POST, DELETE, HEAD, OPTIONS");

/// A response, and how it is counted.
pub type CountedResponse = (Outcome, Response<Body>);

/// Allows a browser to send any request of MCP (CORS).
pub fn preflight() -> Response<Body> {
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, METHODS);
    // The star allows `Mcp-Param-*`, whose names depend on the tool. It does not cover `Authorization` (Fetch, CORS protocol).
    if let Ok(allowed) = HeaderValue::from_str(&format!("{}, *", REQUEST_HEADERS.join(", "))) {
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, allowed);
    }
    headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("86400"));
    allow_any_origin(headers);
    response
}

pub fn method_not_allowed() -> Response<Body> {
    let mut response = invalid_request(StatusCode::METHOD_NOT_ALLOWED, "an MCP endpoint does not support this method");
    response.headers_mut().insert(ALLOW, METHODS);
    response
}

/// Without CORS headers: the page may not read the response either.
pub fn foreign_origin() -> Response<Body> {
    let description = "requests from this origin are not allowed: an administrator can add it to spec.clients.origins";
    let mut response = invalid_request(StatusCode::FORBIDDEN, description);
    deny_any_origin(response.headers_mut());
    response
}

/// For a request with several `Host` headers, or none.
pub fn without_host() -> Response<Body> {
    invalid_request(StatusCode::BAD_REQUEST, "a request must have exactly one Host header")
}

pub fn invalid_request(status: StatusCode, description: &str) -> Response<Body> {
    error_response(status, "invalid_request", description)
}

pub fn refuse_body(error: &RequestBodyError) -> Response<Body> {
    let status = match error {
        RequestBodyError::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        RequestBodyError::TooSlow => StatusCode::REQUEST_TIMEOUT,
        RequestBodyError::Broken(_) => StatusCode::BAD_REQUEST,
    };
    invalid_request(status, &error.to_string())
}

/// For a connection or stream beyond the limit.
pub fn busy() -> Response<Body> {
    unavailable("too many connections are open: try again", 1)
}

/// The client should retry after `seconds`.
pub fn unavailable(description: &str, seconds: u64) -> Response<Body> {
    let mut response = error_response(StatusCode::SERVICE_UNAVAILABLE, "temporarily_unavailable", description);
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    response
}

pub fn gateway_timeout() -> Response<Body> {
    error_response(StatusCode::GATEWAY_TIMEOUT, "gateway_timeout", "the upstream did not respond in time")
}

pub fn bad_gateway(description: &str) -> CountedResponse {
    (Outcome::BadGateway, error_response(StatusCode::BAD_GATEWAY, "bad_gateway", description))
}

/// The response of an MCP server to an unknown session, after which the client starts a new one (MCP transports, session
/// management).
pub fn foreign_mcp_session() -> Response<Body> {
    let error = json!({"code": -32001, "message": "Session not found"});
    json_response(StatusCode::NOT_FOUND, &json!({"jsonrpc": "2.0", "id": null, "error": error}))
}

pub fn error_response(status: StatusCode, error: &str, description: &str) -> Response<Body> {
    json_response(status, &json!({"error": error, "error_description": description}))
}

fn json_response(status: StatusCode, body: &serde_json::Value) -> Response<Body> {
    let mut response = Response::new(Body::text(body.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    allow_any_origin(response.headers_mut());
    response
}
