//! Responses: JSON for programs, pages for users, redirects for browsers.

use axum::{
    Json,
    extract::rejection::BytesRejection,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use url::Url;

use super::pages::{self, MessagePage};
use crate::oauth::{ErrorBody, ErrorCode, OAuthError};

/// In seconds.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("5");

fn json_error(status: StatusCode, error: &str, error_description: &str) -> Response {
    (status, Json(ErrorBody { error, error_description })).into_response()
}

fn status(code: ErrorCode) -> StatusCode {
    match code {
        ErrorCode::InvalidClient => StatusCode::UNAUTHORIZED,
        ErrorCode::AccessDenied => StatusCode::FORBIDDEN,
        ErrorCode::TemporarilyUnavailable => StatusCode::SERVICE_UNAVAILABLE,
        ErrorCode::ServerError => StatusCode::INTERNAL_SERVER_ERROR,
        _ => StatusCode::BAD_REQUEST,
    }
}

fn with_retry_after(mut response: Response, error: &OAuthError) -> Response {
    if error.code == ErrorCode::TemporarilyUnavailable {
        response.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER);
    }
    response
}

impl IntoResponse for OAuthError {
    fn into_response(self) -> Response {
        let response = json_error(status(self.code), self.code.as_str(), &self.description);
        with_retry_after((no_store(), response).into_response(), &self)
    }
}

/// An error as a page, or as JSON if the request accepts JSON and no HTML.
pub fn page_error(headers: &HeaderMap, error: &OAuthError) -> Response {
    let wants_json = headers
        .get(header::ACCEPT)
        .and_then(|accept| accept.to_str().ok())
        .is_some_and(|accept| accept.contains("application/json") && !accept.contains("text/html"));
    if wants_json {
        return error.clone().into_response();
    }
    let (title, hint) = match error.code {
        ErrorCode::InvalidClient => {
            ("Unknown client", "Remove the server from your MCP client, add it again, and connect.")
        }
        ErrorCode::AccessDenied => {
            ("You cannot log in here", "To use another account, connect again from your MCP client and choose it.")
        }
        ErrorCode::TemporarilyUnavailable => {
            ("Login is temporarily unavailable", "Wait a moment, then connect again from your MCP client.")
        }
        ErrorCode::ServerError => {
            ("Login failed", "Contact the administrator of this server. The cause is in its log.")
        }
        _ => ("Invalid request", "Go back to your MCP client and connect again."),
    };
    with_retry_after(page(status(error.code), title, &error.description, hint), error)
}

/// 429 (RFC 6585 §4): JSON, or a page for the request with these headers.
pub fn too_many_requests(headers: Option<&HeaderMap>) -> Response {
    let error = OAuthError::temporarily_unavailable("too many requests: wait a moment");
    let mut response = headers.map_or_else(|| error.clone().into_response(), |headers| page_error(headers, &error));
    *response.status_mut() = StatusCode::TOO_MANY_REQUESTS;
    response
}

pub fn page(status: StatusCode, title: &str, text: &str, hint: &str) -> Response {
    pages::render(status, &MessagePage { title, text: &sentence(text), hint })
}

/// An `error_description` with a capital letter and a full stop.
fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().map(|first| first.to_ascii_uppercase()).into_iter();
    let end = if text.ends_with(['.', '!', '?']) { "" } else { "." };
    first.chain(letters).chain(end.chars()).collect()
}

/// Redirects an error to the client (RFC 6749 §4.1.2.1, RFC 9207).
pub fn redirect_error(redirect_uri: &str, state: Option<&str>, issuer: &str, error: &OAuthError) -> Response {
    let parameters = [("error", error.code.as_str()), ("error_description", &*error.description)];
    redirect_to_client(redirect_uri, &parameters, state, issuer)
}

/// Redirects to the client with `state` and `iss`. The redirect URI must have been checked.
pub fn redirect_to_client(
    redirect_uri: &str,
    parameters: &[(&str, &str)],
    state: Option<&str>,
    issuer: &str,
) -> Response {
    let Ok(mut url) = Url::parse(redirect_uri) else {
        return page(StatusCode::BAD_REQUEST, "Invalid request", "The client's redirect URI is not a URL.", "");
    };
    url.query_pairs_mut()
        .extend_pairs(parameters)
        .extend_pairs(state.map(|state| ("state", state)))
        .append_pair("iss", issuer);
    redirect(url.as_str())
}

/// 303, so that the browser does not repeat a POST with its form (RFC 9700 §4.12).
pub fn redirect(to: &str) -> Response {
    match HeaderValue::from_str(to) {
        Ok(to) => {
            let headers = [(header::LOCATION, to), (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"))];
            (StatusCode::SEE_OTHER, no_store(), headers).into_response()
        }
        Err(_) => page(StatusCode::BAD_REQUEST, "Invalid request", "The redirect URI cannot be sent in a header.", ""),
    }
}

/// RFC 6749 §5.1.
pub fn no_store() -> [(HeaderName, HeaderValue); 1] {
    [(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))]
}

pub fn not_found() -> Response {
    json_error(StatusCode::NOT_FOUND, "not_found", "no resource exists at this path")
}

pub fn method_not_allowed() -> Response {
    let error = "this endpoint does not support this method";
    (no_store(), json_error(StatusCode::METHOD_NOT_ALLOWED, "invalid_request", error)).into_response()
}

pub fn unreadable(rejection: &BytesRejection) -> Response {
    let error = "the body is too large or incomplete";
    (no_store(), json_error(rejection.status(), "invalid_request", error)).into_response()
}
