use std::borrow::Cow;

use thiserror::Error;

/// An error of an OAuth endpoint: a code of the RFCs and a sentence for the person who has to mend it.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[error("{}: {description}", .code.as_str())]
pub struct OAuthError {
    /// What programs read.
    pub code: ErrorCode,
    /// What people read (`error_description`): never a secret, and only what RFC 6749 §5.2 lets in.
    pub description: Cow<'static, str>,
}

/// The codes of the RFCs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ErrorCode {
    /// RFC 6749 §5.2: a parameter is missing, repeated or malformed.
    InvalidRequest,
    /// RFC 6749 §5.2: the client is unknown or did not prove who it is.
    InvalidClient,
    /// RFC 6749 §5.2: the code or refresh token is not (or no longer) good.
    InvalidGrant,
    /// RFC 6749 §5.2: another grant type than ours.
    UnsupportedGrantType,
    /// RFC 6749 §4.1.2.1: another response type than `code`.
    UnsupportedResponseType,
    /// RFC 6749 §4.1.2.1: the person, or a rule, said no.
    AccessDenied,
    /// RFC 6749 §4.1.2.1: something is down; try again later.
    TemporarilyUnavailable,
    /// RFC 6749 §4.1.2.1: something is wrong here, and trying again will not help.
    ServerError,
    /// RFC 8707 §2: not one of our MCP endpoints.
    InvalidTarget,
    /// RFC 7591 §3.2.2: no redirect URI that may be used.
    InvalidRedirectUri,
    /// RFC 7591 §3.2.2: another member of the registration is not right.
    InvalidClientMetadata,
}

impl ErrorCode {
    /// All of them, in their order.
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

    /// The code as it stands in `error`.
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

/// RFC 6749 §5.2 lets only these characters into a description.
fn plain(description: Cow<'static, str>) -> Cow<'static, str> {
    let fits = |c: char| matches!(c, ' '..='~') && !matches!(c, '"' | '\\');
    if description.chars().all(fits) {
        return description;
    }
    description.chars().map(|c| if fits(c) { c } else { '?' }).collect::<String>().into()
}

macro_rules! constructors {
    ($($name:ident => $code:ident),* $(,)?) => {
        impl OAuthError {
            $(
                pub(crate) fn $name(description: impl Into<Cow<'static, str>>) -> Self {
                    Self { code: ErrorCode::$code, description: plain(description.into()) }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_description_contains_only_rfc_6749_characters() {
        let error = OAuthError::invalid_request("a \"quote\", a \\ and a line\nof ünïcode");
        assert_eq!(error.description, "a ?quote?, a ? and a line?of ?n?code");
    }
}
