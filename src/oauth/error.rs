use std::borrow::Cow;

use serde::Serialize;
use thiserror::Error;

/// An error response of an OAuth endpoint.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[error("{}: {description}", .code.as_str())]
pub struct OAuthError {
    pub code: ErrorCode,
    /// Human-readable `error_description`. It contains no secret and only the characters of RFC 6749 §5.2.
    pub description: Cow<'static, str>,
}

/// The body of an error response (RFC 6749 §5.2).
#[derive(Serialize)]
pub struct ErrorBody<'a> {
    pub error: &'a str,
    pub error_description: &'a str,
}

/// The error codes of RFC 6749 §4.1.2.1 and §5.2, RFC 7591 §3.2.2 and RFC 8707 §2.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ErrorCode {
    InvalidRequest,
    InvalidClient,
    InvalidGrant,
    UnsupportedGrantType,
    UnsupportedResponseType,
    AccessDenied,
    TemporarilyUnavailable,
    ServerError,
    InvalidTarget,
    InvalidRedirectUri,
    InvalidClientMetadata,
}

impl ErrorCode {
    /// In declaration order.
    pub const ALL: [Self; 11] = [
        Self::InvalidRequest,
        Self::InvalidClient,
        Self::InvalidGrant,
        Self::UnsupportedGrantType,
        Self::UnsupportedResponseType,
        Self::AccessDenied,
        Self::TemporarilyUnavailable,
        Self::ServerError,
        Self::InvalidTarget,
        Self::InvalidRedirectUri,
        Self::InvalidClientMetadata,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid_request",
            Self::InvalidClient => "invalid_client",
            Self::InvalidGrant => "invalid_grant",
            Self::UnsupportedGrantType => "unsupported_grant_type",
            Self::UnsupportedResponseType => "unsupported_response_type",
            Self::AccessDenied => "access_denied",
            Self::TemporarilyUnavailable => "temporarily_unavailable",
            Self::ServerError => "server_error",
            Self::InvalidTarget => "invalid_target",
            Self::InvalidRedirectUri => "invalid_redirect_uri",
            Self::InvalidClientMetadata => "invalid_client_metadata",
        }
    }
}

/// Replaces the characters that RFC 6749 §5.2 does not allow in a description.
fn allowed_characters(description: Cow<'static, str>) -> Cow<'static, str> {
    let allowed = |c: char| matches!(c, ' '..='~') && !matches!(c, '"' | '\\');
    if description.chars().all(allowed) {
        return description;
    }
    description.chars().map(|c| if allowed(c) { c } else { '?' }).collect::<String>().into()
}

macro_rules! constructors {
    ($($name:ident => $code:ident),* $(,)?) => {
        impl OAuthError {
            $(
                pub(crate) fn $name(description: impl Into<Cow<'static, str>>) -> Self {
                    Self { code: ErrorCode::$code, description: allowed_characters(description.into()) }
                }
            )*
        }
    };
}

constructors! {
    invalid_request => InvalidRequest,
    invalid_client => InvalidClient,
    invalid_grant => InvalidGrant,
    unsupported_grant_type => UnsupportedGrantType,
    unsupported_response_type => UnsupportedResponseType,
    access_denied => AccessDenied,
    temporarily_unavailable => TemporarilyUnavailable,
    server_error => ServerError,
    invalid_target => InvalidTarget,
    invalid_redirect_uri => InvalidRedirectUri,
    invalid_client_metadata => InvalidClientMetadata,
}

impl OAuthError {
    pub(crate) fn missing(parameter: &str) -> Self {
        Self::invalid_request(format!("{parameter} is missing"))
    }

    pub(crate) fn no_randomness() -> Self {
        Self::temporarily_unavailable("this server cannot generate random values")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_description_contains_only_rfc_6749_characters() {
        let error = OAuthError::invalid_request("a \"quote\", a \\ and a line\nof ünïcode");
        assert_eq!(error.description, "a ?quote?, a ? and a line?of ?n?code");
    }
}
