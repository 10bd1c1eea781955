//! The labels of metrics. Their values are fixed, so that no request can create a time series. docs/observability.md
//! describes each value.

use std::{fmt::Debug, sync::atomic::AtomicU64};

use crate::{
    end_reasons::{ResponseCutReason, SessionEndReason, StreamEndReason},
    oauth::{ErrorCode, OAuthError},
    text_enums::text_enums,
};

/// A label as the type of its values.
pub trait Label: Copy + Debug + Send + Sync + 'static {
    const NAME: &'static str;

    /// One counter for each value.
    type Numbers: AsRef<[AtomicU64]> + Debug + Default + Send + Sync;

    /// In the order of [`Self::index`].
    fn all() -> impl Iterator<Item = Self>;

    fn index(self) -> usize;

    fn text(self) -> &'static str;
}

macro_rules! labels {
    ($($label:ident: $name:literal),+) => {$(
        impl Label for $label {
            const NAME: &'static str = $name;

            type Numbers = [AtomicU64; $label::ALL.len()];

            fn all() -> impl Iterator<Item = Self> {
                Self::ALL.into_iter()
            }

            fn index(self) -> usize {
                self as usize
            }

            fn text(self) -> &'static str {
                self.as_str()
            }
        }
    )+};
}

labels!(
    SessionEndReason: "reason",
    StreamEndReason: "reason",
    ResponseCutReason: "reason",
    Outcome: "outcome",
    CacheLookup: "result",
    ConnectOutcome: "outcome",
    ConsentOutcome: "outcome",
    Grant: "grant_type",
    IssuerOutcome: "outcome"
);

text_enums! {
    /// The outcome of a request to an MCP endpoint.
    enum Outcome {
        Forwarded = "forwarded",
        Preflight = "preflight",
        Unauthorized = "unauthorized",
        /// Another 4xx.
        Refused = "refused",
        /// The session could not be looked up, or the upstream has just changed: 503.
        Unavailable = "unavailable",
        BadGateway = "bad_gateway",
        TimedOut = "timed_out",
        /// A limit is reached: 503.
        Shed = "shed",
        /// The circuit breaker is open: 503.
        Broken = "broken",
        /// The client disconnected before the response.
        ClientGone = "client_gone",
    }

    enum CacheLookup {
        Hit = "hit",
        Miss = "miss",
    }

    /// The outcome of a connection attempt to the upstream.
    enum ConnectOutcome {
        Connected = "connected",
        Failed = "failed",
        Timeout = "timeout",
    }

    /// The outcome of a submitted consent page.
    enum ConsentOutcome {
        Approved = "approved",
        Denied = "denied",
        /// The form was not shown in this browser, or has expired.
        Refused = "refused",
        /// Approved, but the issuer was unavailable.
        Failed = "failed",
    }

    enum Grant {
        AuthorizationCode = "authorization_code",
        RefreshToken = "refresh_token",
        /// Another grant type, or client authentication failed.
        Other = "other",
    }

    /// The outcome of a request to the issuer.
    enum IssuerOutcome {
        Answered = "answered",
        /// 4xx.
        Refused = "refused",
        /// 5xx, or a response that cannot be read.
        Failed = "failed",
        Unreachable = "unreachable",
        Timeout = "timeout",
    }
}

/// The outcome of a request to the authorization server: `ok` or an OAuth error code.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct OAuthOutcome(pub Option<ErrorCode>);

impl OAuthOutcome {
    pub fn of<T>(result: &Result<T, OAuthError>) -> Self {
        Self(result.as_ref().err().map(|error| error.code))
    }
}

impl Label for OAuthOutcome {
    const NAME: &'static str = "outcome";

    type Numbers = [AtomicU64; 1 + ErrorCode::ALL.len()];

    fn all() -> impl Iterator<Item = Self> {
        std::iter::once(None).chain(ErrorCode::ALL.map(Some)).map(Self)
    }

    fn index(self) -> usize {
        self.0.map_or(0, |code| 1 + code as usize)
    }

    fn text(self) -> &'static str {
        self.0.map_or("ok", ErrorCode::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_in_order<L: Label>() {
        let mut texts = Vec::new();
        for (index, label) in L::all().enumerate() {
            assert_eq!(label.index(), index, "{label:?}");
            texts.push(label.text());
        }
        assert_eq!(texts.len(), L::Numbers::default().as_ref().len());
        texts.sort_unstable();
        texts.dedup();
        assert_eq!(texts.len(), L::all().count(), "two values have one name");
    }

    #[test]
    fn label_values_have_unique_indices_and_names() {
        is_in_order::<OAuthOutcome>();
        is_in_order::<Outcome>();
        is_in_order::<SessionEndReason>();
    }
}
