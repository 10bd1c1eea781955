use std::{
    str::FromStr,
    sync::{Arc, Weak},
};

use http::{
    HeaderMap, HeaderValue, Response, StatusCode,
    header::{AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE},
};
use jiff::Timestamp;
use serde_json::json;

use super::{
    Body, ResourceServer,
    headers::allow_any_origin,
    verified::{Verified, VerifiedTokens},
};
use crate::{
    crypto::{AccessClaims, now_seconds},
    oauth::{SCOPE, metadata},
    proxy::{
        observability::metrics::{CacheLookup, Outcome, WorkerMetrics},
        secrets::Secrets,
        sessions::{Admission, LiveSession},
    },
    session::SessionId,
};

/// Who sent a request.
#[derive(Clone)]
pub struct Caller {
    /// The session of the token.
    pub session: Arc<LiveSession>,
    /// When the token expires, in seconds since 1970.
    pub expires: u64,
}

/// Why a request is not forwarded (RFC 6750 §3.1).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Refusal {
    /// There is no bearer token.
    NoToken,
    /// More than one Authorization header: another reader of the request might have believed the other one.
    SeveralTokens,
    /// The token is not, or no longer, good here.
    InvalidToken(&'static str),
    /// Whether the session is live cannot be said.
    Unavailable,
}

/// The one bearer token of a request (RFC 6750 §2.1). A token in the query is ignored, as MCP wants it.
///
/// # Errors
/// When there is none, or several.
pub fn token(headers: &HeaderMap) -> Result<&str, Refusal> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = values.next().ok_or(Refusal::NoToken)?;
    if values.next().is_some() {
        return Err(Refusal::SeveralTokens);
    }
    let malformed = Refusal::InvalidToken("the Authorization header is malformed");
    // Tokens are long, so these look at many bytes at a time.
    let text = Some(value.as_bytes()).filter(|bytes| bytes.is_ascii()).and_then(|bytes| str::from_utf8(bytes).ok());
    let (scheme, token) = text.ok_or(malformed)?.split_once(' ').ok_or(malformed)?;
    if !scheme.eq_ignore_ascii_case("Bearer") {
        return Err(Refusal::NoToken);
    }
    let token = token.trim_start_matches(' ');
    let is_odd = token.bytes().fold(false, |odd, byte| odd | matches!(byte, b' ' | b',' | b'\t'));
    if token.is_empty() || is_odd { Err(malformed) } else { Ok(token) }
}

/// Whose token it is, if it is good for the endpoint at `path`, which [`Resources::path`] gave.
///
/// [`Resources::path`]: crate::oauth::resource::Resources::path
///
/// # Errors
/// Why the request is refused.
pub async fn verify(
    server: &ResourceServer,
    cache: &VerifiedTokens,
    metrics: &WorkerMetrics,
    token: &str,
    path: &str,
) -> Result<Caller, Refusal> {
    let now = server.now();
    let key = match cache.caller(server, &server.secrets.load(), now, token, path) {
        Ok(caller) => {
            metrics.token_cache.count(CacheLookup::Hit);
            return Ok(caller);
        }
        Err(key) => key,
    };
    metrics.token_cache.count(CacheLookup::Miss);
    let Unseen { id, audience, expires, secrets } = Unseen::verify(server, now, token, path)?;
    // Whoever else is ready goes first. When many tokens are new at once, their requests then go out together: during each
    // verification the upstream would fall asleep, and waking it takes microseconds (P2 of docs/performance.md).
    tokio::task::yield_now().await;
    let (session, is_member) = match server.sessions.admit(id, now).await {
        Admission::Live(session) => (session, true),
        Admission::LookedUp(session) => (session, false),
        Admission::Ended => return Err(Refusal::InvalidToken("the session has ended: log in again")),
        Admission::Unknown => return Err(Refusal::Unavailable),
    };
    if session.email.is_empty() {
        return Err(Refusal::InvalidToken("the e-mail address cannot be put in a header"));
    }
    // What was only looked up speaks for a second.
    if is_member {
        cache.keep(key, Verified { audience, expires, session: session.clone(), secrets });
    }
    Ok(Caller { session, expires })
}

/// What a token says that is signed by us and not remembered. Its session is still to be looked at.
struct Unseen {
    id: SessionId,
    audience: Box<str>,
    expires: u64,
    secrets: Weak<Secrets>,
}

impl Unseen {
    // No part of a future, whose state its claims would be.
    fn verify(server: &ResourceServer, now: Timestamp, token: &str, path: &str) -> Result<Self, Refusal> {
        let secrets = server.secrets.load_full();
        let mut room = Vec::new();
        let claims = secrets
            .signing
            .verify(token, server.public_url.as_str(), now_seconds(now), &mut room)
            .map_err(|_| Refusal::InvalidToken("the access token has expired or was not issued here"))?;
        let AccessClaims { aud, exp, sid, .. } = claims;
        if !server.resources.is_audience(&aud, path) {
            return Err(Refusal::InvalidToken("the access token is for another resource"));
        }
        let id = SessionId::from_str(&sid).map_err(|_| Refusal::InvalidToken("the access token has no session"))?;
        Ok(Self { id, audience: aud.into(), expires: exp, secrets: Arc::downgrade(&secrets) })
    }
}

impl Refusal {
    /// As what it is counted.
    pub fn outcome(self) -> Outcome {
        match self {
            Self::NoToken | Self::InvalidToken(_) => Outcome::Unauthorized,
            Self::SeveralTokens => Outcome::Refused,
            Self::Unavailable => Outcome::Unavailable,
        }
    }

    /// The answer; `path` as the client spelled it, because clients compare.
    pub fn response(self, server: &ResourceServer, path: &str) -> Response<Body> {
        let (status, error, description) = match self {
            Self::NoToken => (StatusCode::UNAUTHORIZED, "invalid_token", "an access token is needed: log in"),
            Self::SeveralTokens => (StatusCode::BAD_REQUEST, "invalid_request", "more than one Authorization header"),
            Self::InvalidToken(description) => (StatusCode::UNAUTHORIZED, "invalid_token", description),
            Self::Unavailable => {
                (StatusCode::SERVICE_UNAVAILABLE, "temporarily_unavailable", "sessions cannot be checked: try again")
            }
        };
        let mut response = json_response(status, &json!({"error": error, "error_description": description}));
        let headers = response.headers_mut();
        if self == Self::Unavailable {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
            return response;
        }
        let metadata = metadata::protected_resource_url(&server.public_url, path);
        let mut challenge = format!("Bearer resource_metadata=\"{metadata}\", scope=\"{SCOPE}\"");
        // RFC 6750 §3.1: no error code for who sent nothing.
        if self != Self::NoToken {
            challenge += &format!(", error=\"{error}\", error_description=\"{description}\"");
        }
        if let Ok(challenge) = HeaderValue::from_str(&challenge) {
            headers.insert(WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

/// An answer of ours to a request for an MCP endpoint.
pub fn json_response(status: StatusCode, body: &serde_json::Value) -> Response<Body> {
    let mut response = Response::new(Body::text(body.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    allow_any_origin(response.headers_mut());
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(values: &[&str]) -> Result<String, Refusal> {
        let headers = values.iter().map(|value| (AUTHORIZATION, value.parse().unwrap()));
        let mut map = HeaderMap::new();
        headers.for_each(|(name, value)| {
            map.append(name, value);
        });
        token(&map).map(str::to_owned)
    }

    #[test]
    fn c10_exactly_one_bearer_token_is_accepted() {
        assert_eq!(read(&["Bearer abc"]).as_deref(), Ok("abc"));
        assert_eq!(read(&["bEARER  abc"]).as_deref(), Ok("abc"));
        assert_eq!(read(&[]), Err(Refusal::NoToken));
        assert_eq!(read(&["Basic abc"]), Err(Refusal::NoToken));
        assert_eq!(read(&["Bearer abc", "Bearer abc"]), Err(Refusal::SeveralTokens));
        for malformed in ["Bearer", "Bearer ", "Bearer abc def", "Bearer abc, Bearer def"] {
            assert!(matches!(read(&[malformed]), Err(Refusal::InvalidToken(_))), "{malformed}");
        }
    }
}
