use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The `typ` of a JWT access token (RFC 9068 §2.1).
pub(super) const ACCESS_TOKEN_TYPE: &str = "at+jwt";

/// How far the clocks of two replicas may differ, in seconds.
const LEEWAY: u64 = 10;

/// The claims of our access tokens (RFC 9068 §2.2). Times in seconds since 1970.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct AccessClaims<'a> {
    /// Our public URL.
    #[serde(borrow)]
    pub iss: Cow<'a, str>,
    /// The issuer's identifier of the person.
    #[serde(borrow)]
    pub sub: Cow<'a, str>,
    /// The one MCP endpoint that the token is for (RFC 8707).
    #[serde(borrow)]
    pub aud: Cow<'a, str>,
    /// When it expires.
    pub exp: u64,
    /// When it was issued.
    pub iat: u64,
    /// Tells two tokens of one second apart.
    #[serde(borrow)]
    pub jti: Cow<'a, str>,
    /// The client it was issued to.
    #[serde(borrow)]
    pub client_id: Cow<'a, str>,
    /// The session it belongs to; the token is worth nothing without it.
    #[serde(borrow)]
    pub sid: Cow<'a, str>,
    /// The granted scopes, separated by spaces.
    #[serde(borrow)]
    pub scope: Cow<'a, str>,
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

impl AccessClaims<'_> {
    pub(super) fn check_times(&self, now: u64) -> Result<(), InvalidAccessToken> {
        if now >= self.exp || self.iat > now + LEEWAY { Err(InvalidAccessToken::Expired) } else { Ok(()) }
    }
}

/// A clock's reading in seconds since 1970, as claims have it.
pub fn now_seconds(now: jiff::Timestamp) -> u64 {
    u64::try_from(now.as_second()).unwrap_or_default()
}
