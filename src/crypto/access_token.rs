use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The `typ` of a JWT access token (RFC 9068 §2.1).
pub(super) const ACCESS_TOKEN_TYPE: &str = "at+jwt";

/// Maximum clock skew between replicas, in seconds.
const LEEWAY: u64 = 10;

/// Claims of an access token (RFC 9068 §2.2). Times are in seconds since 1970.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct AccessClaims<'a> {
    #[serde(borrow)]
    pub iss: Cow<'a, str>,
    /// The user's subject at the issuer.
    #[serde(borrow)]
    pub sub: Cow<'a, str>,
    /// The one MCP endpoint that the token is for (RFC 8707).
    #[serde(borrow)]
    pub aud: Cow<'a, str>,
    pub exp: u64,
    pub iat: u64,
    /// Distinguishes tokens issued in the same second.
    #[serde(borrow)]
    pub jti: Cow<'a, str>,
    #[serde(borrow)]
    pub client_id: Cow<'a, str>,
    /// Session id; the token is invalid without its session.
    #[serde(borrow)]
    pub sid: Cow<'a, str>,
    #[serde(borrow)]
    pub scope: Cow<'a, str>,
}

#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum InvalidAccessToken {
    #[error("the access token is malformed")]
    Malformed,
    /// Unknown key, other token type, or other issuer.
    #[error("the access token was not issued here")]
    Signature,
    /// Expired, or issued in the future.
    #[error("the access token has expired")]
    Expired,
}

impl AccessClaims<'_> {
    pub(super) fn check_times(&self, now: u64) -> Result<(), InvalidAccessToken> {
        if now >= self.exp || self.iat > now + LEEWAY { Err(InvalidAccessToken::Expired) } else { Ok(()) }
    }
}

/// Seconds since 1970, the unit of time claims; 0 for earlier times.
pub fn now_seconds(now: jiff::Timestamp) -> u64 {
    u64::try_from(now.as_second()).unwrap_or_default()
}
