//! What the metrics are told apart by: values that are known beforehand, so that nobody can make series of their own.

use std::{fmt::Debug, sync::atomic::AtomicU64};

use crate::{
    oauth::ErrorCode,
    reasons::{AnswerCut, SessionEnd, StreamEnd},
};

/// The values of one label.
pub trait Label: Copy + Debug + Send + Sync + 'static {
    /// The label's name.
    const NAME: &'static str;

    /// One number for each value.
    type Numbers: AsRef<[AtomicU64]> + Debug + Default + Send + Sync;

    /// All values, in the order of their numbers.
    fn all() -> impl Iterator<Item = Self>;

    /// Its place among them.
    fn index(self) -> usize;

    /// How it is written.
    fn text(self) -> &'static str;
}

macro_rules! labels {
    ($(
        $(#[$meta:meta])*
        enum $label:ident: $name:literal { $($(#[$doc:meta])* $value:ident = $text:literal,)+ }
    )+) => {$(
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Eq, PartialEq)]
        pub enum $label { $($(#[$doc])* $value,)+ }

        impl Label for $label {
            const NAME: &'static str = $name;

            type Numbers = [AtomicU64; [$(Self::$value),+].len()];

            fn all() -> impl Iterator<Item = Self> {
                [$(Self::$value),+].into_iter()
            }

            fn index(self) -> usize {
                self as usize
            }

            fn text(self) -> &'static str {
                match self { $(Self::$value => $text,)+ }
            }
        }
    )+};
}

/// The label `reason` of what ends.
macro_rules! reason_labels {
    ($($reason:ident),+) => {$(
        impl Label for $reason {
            const NAME: &'static str = "reason";

            type Numbers = [AtomicU64; $reason::ALL.len()];

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

reason_labels!(SessionEnd, StreamEnd, AnswerCut);

labels! {
    /// What became of a request for an MCP endpoint.
    enum Outcome: "outcome" {
        /// The upstream answered.
        Forwarded = "forwarded",
        /// A browser asked whether it may send one.
        Preflight = "preflight",
        /// No access token, or none that is good here: 401.
        Unauthorized = "unauthorized",
        /// The client was at fault in another way: 4xx.
        Refused = "refused",
        /// The session could not be checked, or the upstream has just changed: 503.
        Unavailable = "unavailable",
        /// The upstream was at fault: 502.
        BadGateway = "bad_gateway",
        /// The upstream took too long: 504.
        TimedOut = "timed_out",
        /// Too much was open already: 503.
        Shed = "shed",
        /// The upstream could not be reached before, and was not tried: 503.
        Broken = "broken",
        /// The client had gone before there was an answer.
        ClientGone = "client_gone",
    }

    /// Whether a token had been verified before.
    enum CacheLookup: "result" {
        /// It had.
        Hit = "hit",
        /// It was verified now, or refused.
        Miss = "miss",
    }

    /// What came of connecting to the upstream.
    enum Connect: "outcome" {
        /// There is a connection.
        Connected = "connected",
        /// It was refused, or broke.
        Failed = "failed",
        /// It took too long.
        Timeout = "timeout",
    }

    /// How a person decided on the consent page.
    enum Consent: "outcome" {
        /// They agreed, and were sent to the issuer.
        Approved = "approved",
        /// They did not agree.
        Denied = "denied",
        /// The form was not one that we had shown in this browser a moment ago.
        Refused = "refused",
        /// They agreed, and there was no issuer to send them to.
        Failed = "failed",
    }

    /// What a token request asks with.
    enum Grant: "grant_type" {
        /// With the code of a login.
        AuthorizationCode = "authorization_code",
        /// With a refresh token.
        RefreshToken = "refresh_token",
        /// With something else, or the client did not prove who it is.
        Other = "other",
    }

    /// What the issuer answered.
    enum IssuerAnswer: "outcome" {
        /// What was asked for.
        Answered = "answered",
        /// It refused: 4xx.
        Refused = "refused",
        /// It could not: 5xx, or something that is no answer.
        Failed = "failed",
        /// It could not be reached, or broke off.
        Unreachable = "unreachable",
        /// It took too long.
        Timeout = "timeout",
    }
}

/// How the authorization server answered: well, or with an error code of the RFCs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Answer(pub Option<ErrorCode>);

impl Answer {
    /// That of a result.
    pub fn of<T>(result: &Result<T, crate::oauth::OAuthError>) -> Self {
        Self(result.as_ref().err().map(|error| error.code))
    }
}

impl Label for Answer {
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
        is_in_order::<Answer>();
        is_in_order::<Outcome>();
        is_in_order::<SessionEnd>();
    }
}
