//! Responses that do not come from the upstream.

use http::{
    HeaderValue, Response, StatusCode,
    header::{
        ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_MAX_AGE, ALLOW, CONTENT_TYPE,
        RETRY_AFTER,
    },
};
use serde::Serialize;

use super::{
    Body,
    headers::{allow_any_origin, deny_any_origin},
    request_body::RequestBodyError,
};
use crate::{
    oauth::ErrorBody,
    proxy::{cors::REQUEST_HEADERS, observability::metrics::Outcome},
};

/// The methods of an MCP endpoint.
const METHODS: HeaderValue = HeaderValue::from_static("GET, POST, DELETE, HEAD, OPTIONS");

/// A response, and how it is counted.
pub type CountedResponse = (Outcome, Response<Body>);

/// A JSON-RPC 2.0 error response, §5. `id` is null because the request's id is unknown.
#[derive(Serialize)]
struct JsonRpcErrorResponse {
    jsonrpc: &'static str,
    id: (),
    error: JsonRpcError,
}

#[derive(Serialize)]
struct JsonRpcError {
    code: i32,
    message: &'static str,
}

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
    let error = JsonRpcError { code: -32001, message: "Session not found" };
    json_response(StatusCode::NOT_FOUND, &JsonRpcErrorResponse { jsonrpc: "2.0", id: (), error })
}

pub fn error_response(status: StatusCode, error: &str, description: &str) -> Response<Body> {
    json_response(status, &ErrorBody { error, error_description: description })
}

fn json_response(status: StatusCode, body: &impl Serialize) -> Response<Body> {
    // These bodies contain only strings and numbers, so serialization cannot fail.
    let mut response = Response::new(Body::text(serde_json::to_vec(body).unwrap_or_default()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    allow_any_origin(response.headers_mut());
    response
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use serde_json::{Value, json};

    use super::*;

    async fn body(response: Response<Body>) -> Value {
        serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap()
    }

    #[tokio::test]
    async fn error_bodies_have_the_members_of_their_protocol() {
        let error = json!({"code": -32001, "message": "Session not found"});
        let expected = json!({"jsonrpc": "2.0", "id": null, "error": error});
        assert_eq!(body(foreign_mcp_session()).await, expected);
        let expected = json!({"error": "invalid_request", "error_description": "a reason"});
        assert_eq!(body(invalid_request(StatusCode::BAD_REQUEST, "a reason")).await, expected);
    }
}
