//! How answers look: JSON for programs, pages for people, redirects for browsers.

use axum::{
    Json,
    extract::rejection::BytesRejection,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::json;
use url::Url;

use super::pages::{self, Message};
use crate::oauth::{ErrorCode, OAuthError};

/// Seconds after which a client may try again when something was down.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("5");

fn status(code: ErrorCode) -> StatusCode {
    match code {
        ErrorCode::InvalidClient => StatusCode::UNAUTHORIZED,
        ErrorCode::AccessDenied => StatusCode::FORBIDDEN,
        ErrorCode::TemporarilyUnavailable => StatusCode::SERVICE_UNAVAILABLE,
        ErrorCode::ServerError => StatusCode::INTERNAL_SERVER_ERROR,
        _ => StatusCode::BAD_REQUEST,
    }
}

/// Says when to try again, where that helps.
fn with_retry_after(mut response: Response, error: &OAuthError) -> Response {
    if error.code == ErrorCode::TemporarilyUnavailable {
        response.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER);
    }
    response
}

/// An error for a program (RFC 6749 §5.2).
impl IntoResponse for OAuthError {
    fn into_response(self) -> Response {
        let body = json!({"error": self.code.as_str(), "error_description": self.description});
        with_retry_after((status(self.code), no_store(), Json(body)).into_response(), &self)
    }
}

/// An error for a person; for a program that asks for JSON, JSON.
pub fn page_error(headers: &HeaderMap, error: &OAuthError) -> Response {
    let wants_json = headers
        .get(header::ACCEPT)
        .and_then(|accept| accept.to_str().ok())
        .is_some_and(|accept| accept.contains("application/json") && !accept.contains("text/html"));
    if wants_json {
        return error.clone().into_response();
    }
    let title = match error.code {
        ErrorCode::InvalidClient => "This server does not know the program",
        ErrorCode::AccessDenied => "You cannot log in here",
        ErrorCode::TemporarilyUnavailable => "Logging in does not work right now",
        ErrorCode::ServerError => "Logging in does not work",
        _ => "This link is not right",
    };
    let hint = match error.code {
        ErrorCode::InvalidClient => "Remove the server from your MCP client, add it again, and connect.",
        ErrorCode::AccessDenied => "To use another account, connect again from your MCP client and choose it.",
        ErrorCode::TemporarilyUnavailable => "Wait a moment, then connect again from your MCP client.",
        ErrorCode::ServerError => "Tell whoever runs this server: its log says why.",
        _ => "Go back to your MCP client and connect again.",
    };
    with_retry_after(page(status(error.code), title, &error.description, hint), error)
}

/// The answer to who asks too often (RFC 6585 §4): JSON, or for a page's headers a page.
pub fn too_many_requests(headers: Option<&HeaderMap>) -> Response {
    let error = OAuthError::temporarily_unavailable("too many requests: wait a moment");
    let mut response = headers.map_or_else(|| error.clone().into_response(), |headers| page_error(headers, &error));
    *response.status_mut() = StatusCode::TOO_MANY_REQUESTS;
    response
}

/// A page with a message.
pub fn page(status: StatusCode, title: &str, text: &str, hint: &str) -> Response {
    pages::render(status, &Message { style: pages::STYLE, title, text: &sentence(text), hint })
}

/// An `error_description` as a sentence for a person.
fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().map(|first| first.to_ascii_uppercase()).into_iter();
    let end = if text.ends_with(['.', '!', '?']) { "" } else { "." };
    first.chain(letters).chain(end.chars()).collect()
}

/// Sends the browser back to the client with an error (RFC 6749 §4.1.2.1, RFC 9207).
pub fn redirect_error(redirect_uri: &str, state: Option<&str>, issuer: &str, error: &OAuthError) -> Response {
    let parameters = [("error", error.code.as_str()), ("error_description", &*error.description)];
    redirect_to_client(redirect_uri, &parameters, state, issuer)
}

/// Sends the browser back to the client, whose redirect URI has been checked, with `state` and `iss`.
pub fn redirect_to_client(
    redirect_uri: &str,
    parameters: &[(&str, &str)],
    state: Option<&str>,
    issuer: &str,
) -> Response {
    let Ok(mut url) = Url::parse(redirect_uri) else {
        return page(StatusCode::BAD_REQUEST, "This link is not right", "The program's address is not a URL.", "");
    };
    url.query_pairs_mut()
        .extend_pairs(parameters)
        .extend_pairs(state.map(|state| ("state", state)))
        .append_pair("iss", issuer);
    redirect(url.as_str())
}

/// 303 to an address that has been checked: a form is not sent on (RFC 9700 §4.12).
pub fn redirect(to: &str) -> Response {
    match HeaderValue::from_str(to) {
        Ok(to) => {
            let headers = [(header::LOCATION, to), (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"))];
            (StatusCode::SEE_OTHER, no_store(), headers).into_response()
        }
        Err(_) => page(StatusCode::BAD_REQUEST, "This link is not right", "The address cannot be sent.", ""),
    }
}

/// Keeps an answer out of caches (RFC 6749 §5.1).
pub fn no_store() -> [(header::HeaderName, HeaderValue); 1] {
    [(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))]
}

/// Everything that is not an endpoint.
pub fn not_found() -> Response {
    let body = json!({"error": "not_found", "error_description": "there is nothing at this path"});
    (StatusCode::NOT_FOUND, Json(body)).into_response()
}

/// An endpoint that is asked in another way.
pub fn method_not_allowed() -> Response {
    let body = json!({"error": "invalid_request", "error_description": "this endpoint does not know the method"});
    (StatusCode::METHOD_NOT_ALLOWED, no_store(), Json(body)).into_response()
}

/// A body that cannot be read: it is too large, or broke off.
pub fn unreadable(rejection: &BytesRejection) -> Response {
    let body = json!({"error": "invalid_request", "error_description": "the body is too large, or broke off"});
    (rejection.status(), no_store(), Json(body)).into_response()
}
