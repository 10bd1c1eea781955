use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The `typ` of a JWT access token (RFC 9068 §2.1).
pub(super) const ACCESS_TOKEN_TYPE: &str = "at+jwt";

/// How far the clocks of two replicas may differ, in seconds.
const LEEWAY: u64 = 10;

/// The claims of our access tokens (RFC 9068 §2.2). Times in seconds since 1970.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct AccessClaims {
    /// Our public URL.
    pub iss: String,
    /// The issuer's identifier of the person.
    pub sub: String,
    /// The one MCP endpoint that the token is for (RFC 8707).
    pub aud: String,
    /// When it expires.
    pub exp: u64,
    /// When it was issued.
    pub iat: u64,
    /// Tells two tokens of one second apart.
    pub jti: String,
    /// The client it was issued to.
    pub client_id: String,
    /// The session it belongs to; the token is worth nothing without it.
    pub sid: String,
    /// The granted scopes, separated by spaces.
    pub scope: String,
}

/// Why an access token is refused.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum InvalidAccessToken {
    /// Not a JWT (RFC 7519 §3).
    #[error("the access token is malformed")]
    Malformed,
    /// Signed by somebody else or for something else, or its claims are not ours.
    #[error("the access token was not issued here")]
    Signature,
    /// Past its time, or from the future.
    #[error("the access token has expired")]
    Expired,
}

impl AccessClaims {
    pub(super) fn check_times(&self, now: u64) -> Result<(), InvalidAccessToken> {
        if now >= self.exp || self.iat > now + LEEWAY { Err(InvalidAccessToken::Expired) } else { Ok(()) }
    }
}

/// A clock's reading in seconds since 1970, as claims have it.
pub fn now_seconds(now: jiff::Timestamp) -> u64 {
    u64::try_from(now.as_second()).unwrap_or_default()
}
