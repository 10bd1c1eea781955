use std::{str::FromStr, sync::Arc};

use http::{
    HeaderMap, HeaderValue, StatusCode,
    header::{AUTHORIZATION, WWW_AUTHENTICATE},
};
use jiff::Timestamp;

use super::{
    ResourceServer,
    responses::{CountedResponse, error_response, unavailable},
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

/// The sender of a request with a valid token.
#[derive(Clone)]
pub struct Caller {
    pub session: Arc<LiveSession>,
    /// When the token expires, in seconds since 1970.
    pub expires: u64,
}

/// Why a request has no valid bearer token (RFC 6750 §3.1).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum BearerError {
    NoToken,
    /// More than one `Authorization` header, of which another server may use another one.
    SeveralTokens,
    InvalidToken(&'static str),
    /// The session cannot be looked up.
    Unavailable,
}

/// The bearer token of a request (RFC 6750 §2.1). MCP forbids tokens in the query, so these are ignored.
pub fn token(headers: &HeaderMap) -> Result<&str, BearerError> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = values.next().ok_or(BearerError::NoToken)?;
    if values.next().is_some() {
        return Err(BearerError::SeveralTokens);
    }
    let malformed = BearerError::InvalidToken("the Authorization header is malformed");
    // Tokens are long: `is_ascii` and the fold below check many bytes at a time.
    let text = Some(value.as_bytes()).filter(|bytes| bytes.is_ascii()).and_then(|bytes| str::from_utf8(bytes).ok());
    let (scheme, token) = text.ok_or(malformed)?.split_once(' ').ok_or(malformed)?;
    if !scheme.eq_ignore_ascii_case("Bearer") {
        return Err(BearerError::NoToken);
    }
    let token = token.trim_start_matches(' ');
    let is_odd = token.bytes().fold(false, |odd, byte| odd | matches!(byte, b' ' | b',' | b'\t'));
    if token.is_empty() || is_odd { Err(malformed) } else { Ok(token) }
}

/// Verifies a token for the endpoint at `path`, which [`Resources::path`] returned.
///
/// [`Resources::path`]: crate::oauth::resource::Resources::path
pub async fn verify(
    server: &ResourceServer,
    cache: &VerifiedTokens,
    metrics: &WorkerMetrics,
    token: &str,
    path: &str,
) -> Result<Caller, BearerError> {
    let now = server.now();
    let key = match cache.caller(server, &server.secrets.load(), now, token, path) {
        Ok(caller) => {
            metrics.token_cache.count(CacheLookup::Hit);
            return Ok(caller);
        }
        Err(key) => key,
    };
    metrics.token_cache.count(CacheLookup::Miss);
    let secrets = server.secrets.load_full();
    let (id, expires) = check_claims(server, &secrets, now, token, path)?;
    // Lets other requests run first. When many tokens are new at once, their requests then reach the upstream together; otherwise
    // the upstream would sleep during each verification, and waking it takes microseconds (P2 of docs/performance.md).
    tokio::task::yield_now().await;
    let (session, is_member) = match server.sessions.admit(id, now).await {
        Admission::Live(session) => (session, true),
        Admission::LookedUp(session) => (session, false),
        Admission::Ended => return Err(BearerError::InvalidToken("the session has ended: log in again")),
        Admission::Unknown => return Err(BearerError::Unavailable),
    };
    if session.email.is_empty() {
        return Err(BearerError::InvalidToken("the e-mail address cannot be put in a header"));
    }
    // A session that was only looked up is valid for a second, so its token is not cached.
    if is_member {
        let (audience, secrets) = (server.resources.audience(path).into(), Arc::downgrade(&secrets));
        cache.insert(key, Verified { audience, expires, session: session.clone(), secrets });
    }
    Ok(Caller { session, expires })
}

/// The session and the expiry of a token with a valid signature and audience. Not async: the claims would enlarge the future.
fn check_claims(
    server: &ResourceServer,
    secrets: &Secrets,
    now: Timestamp,
    token: &str,
    path: &str,
) -> Result<(SessionId, u64), BearerError> {
    let mut buffer = Vec::new();
    let AccessClaims { aud, exp, sid, .. } = secrets
        .signing
        .verify(token, server.public_url.as_str(), now_seconds(now), &mut buffer)
        .map_err(|_| BearerError::InvalidToken("the access token has expired or was not issued here"))?;
    if !server.resources.is_audience(&aud, path) {
        return Err(BearerError::InvalidToken("the access token is for another resource"));
    }
    let id = SessionId::from_str(&sid).map_err(|_| BearerError::InvalidToken("the access token has no session"))?;
    Ok((id, exp))
}

impl BearerError {
    /// The response; `path` is as the client spelled it, because clients compare the metadata URL.
    pub fn response(self, server: &ResourceServer, path: &str) -> CountedResponse {
        let (status, error, description) = match self {
            Self::NoToken => (StatusCode::UNAUTHORIZED, "invalid_token", "an access token is needed: log in"),
            Self::SeveralTokens => (StatusCode::BAD_REQUEST, "invalid_request", "more than one Authorization header"),
            Self::InvalidToken(description) => (StatusCode::UNAUTHORIZED, "invalid_token", description),
            Self::Unavailable => {
                return (Outcome::Unavailable, unavailable("sessions cannot be checked: try again", 1));
            }
        };
        let mut response = error_response(status, error, description);
        let metadata = metadata::protected_resource_url(&server.public_url, path);
        let mut challenge = format!("Bearer resource_metadata=\"{metadata}\", scope=\"{SCOPE}\"");
        // RFC 6750 §3.1: no error code for a request without a token.
        if self != Self::NoToken {
            challenge += &format!(", error=\"{error}\", error_description=\"{description}\"");
        }
        if let Ok(challenge) = HeaderValue::from_str(&challenge) {
            response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
        }
        let outcome = if self == Self::SeveralTokens { Outcome::Refused } else { Outcome::Unauthorized };
        (outcome, response)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        pin::pin,
        sync::atomic::{AtomicI64, Ordering},
    };

    use futures::poll;

    use super::*;
    use crate::{
        proxy::{
            clock::{Clock, wall_clock},
            runtime::proxy::Proxy,
            sessions::SessionEvent,
        },
        session::Session,
        testing::{access_token, active_session, temporary_proxy},
    };

    /// A proxy, an active session and its token.
    struct Bed {
        _directory: tempfile::TempDir,
        proxy: Proxy,
        session: Session,
        token: String,
        verified: VerifiedTokens,
        metrics: Arc<WorkerMetrics>,
    }

    impl Bed {
        async fn new(clock: Clock) -> Self {
            let (directory, proxy) = temporary_proxy(clock).await;
            let session = active_session("a", proxy.authorization_server.now());
            let (verified, metrics) = (VerifiedTokens::default(), proxy.authorization_server.metrics.worker());
            let mut bed = Self { _directory: directory, proxy, session, token: String::new(), verified, metrics };
            bed.token = bed.new_token();
            bed
        }

        /// Completes the session set with the session.
        fn admit(&self) {
            self.proxy.authorization_server.sessions.live().apply(SessionEvent::All(vec![self.session.clone()]));
        }

        fn new_token(&self) -> String {
            access_token(&self.proxy, &self.session, "https://mcp.example.com/mcp")
        }

        async fn verify(&self, token: &str) -> Result<(), BearerError> {
            verify(&self.proxy.resource_server.clone(), &self.verified, &self.metrics, token, "/mcp").await.map(drop)
        }
    }

    #[tokio::test]
    async fn c5_cached_token_expires() {
        let clock = Arc::new(AtomicI64::new(Timestamp::now().as_second()));
        let reading = clock.clone();
        let now = move || Timestamp::from_second(reading.load(Ordering::SeqCst)).unwrap();
        let bed = Bed::new(Arc::new(now)).await;
        bed.admit();
        for (seconds, good) in [(0, true), (599, true), (1, false), (0, false)] {
            clock.fetch_add(seconds, Ordering::SeqCst);
            assert_eq!(bed.verify(&bed.token).await.is_ok(), good, "{seconds} s later");
        }
        assert_eq!(bed.verified.len(), 0);
    }

    #[tokio::test]
    async fn looked_up_session_admits_without_caching_the_token() {
        let bed = Bed::new(wall_clock()).await;
        bed.proxy.authorization_server.sessions.live().apply(SessionEvent::All(vec![]));
        bed.proxy.authorization_server.store.create(&bed.session).await.unwrap();
        bed.verify(&bed.token).await.unwrap();
        assert_eq!(bed.verified.len(), 0);
        bed.proxy.authorization_server.sessions.live().apply(SessionEvent::Is(bed.session.clone()));
        bed.verify(&bed.token).await.unwrap();
        assert_eq!(bed.verified.len(), 1);
    }

    #[tokio::test]
    async fn verification_yields_to_cached_tokens() {
        let bed = Bed::new(wall_clock()).await;
        bed.admit();
        bed.verify(&bed.token).await.unwrap();
        let new = bed.new_token();
        let mut new = pin!(bed.verify(&new));
        assert!(poll!(new.as_mut()).is_pending());
        assert!(poll!(pin!(bed.verify(&bed.token))).is_ready());
        new.await.unwrap();
        assert_eq!(bed.verified.len(), 2);
    }

    fn read(values: &[&str]) -> Result<String, BearerError> {
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
        assert_eq!(read(&[]), Err(BearerError::NoToken));
        assert_eq!(read(&["Basic abc"]), Err(BearerError::NoToken));
        assert_eq!(read(&["Bearer abc", "Bearer abc"]), Err(BearerError::SeveralTokens));
        for malformed in ["Bearer", "Bearer ", "Bearer abc def", "Bearer abc, Bearer def"] {
            assert!(matches!(read(&[malformed]), Err(BearerError::InvalidToken(_))), "{malformed}");
        }
    }
}
