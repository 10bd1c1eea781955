//! Why sessions, event streams and other responses end. The texts are labels of metrics and fields of the audit log.

macro_rules! reasons {
    ($(
        $(#[$meta:meta])*
        enum $reason:ident { $($(#[$doc:meta])* $value:ident = $text:literal,)+ }
    )+) => {$(
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Eq, PartialEq)]
        pub enum $reason { $($(#[$doc])* $value,)+ }

        impl $reason {
            /// All values, in the order of their declaration.
            pub const ALL: [Self; [$(Self::$value),+].len()] = [$(Self::$value),+];

            /// The value in metrics and logs.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$value => $text,)+ }
            }
        }
    )+};
}

reasons! {
    /// Why this replica ended a session.
    enum SessionEnd {
        /// The client logged out (RFC 7009).
        LoggedOut = "logged_out",
        /// A code or refresh token was used again, or is newer than the record.
        Replay = "replay",
        /// The access rules no longer let the person in, or `sessions.notBefore` is later than the login.
        Rules = "rules",
        /// The issuer no longer knows the person, or returned other claims.
        Issuer = "issuer",
        /// The person has more sessions than `sessions.maxPerUser`.
        Surplus = "surplus",
        /// The session expired.
        Expired = "expired",
    }

    /// Why an event stream to a client closed.
    enum StreamEnd {
        /// The upstream ended the stream.
        Finished = "finished",
        /// The client disconnected.
        ClientGone = "client_gone",
        /// The upstream connection failed.
        UpstreamFailed = "upstream_failed",
        /// The session ended.
        SessionEnded = "session_ended",
        /// The access token expired more than `tokens.streamGrace` ago.
        TokenEnded = "token_ended",
        /// The upstream sent nothing for `upstream.timeouts.streamIdle`.
        Silent = "silent",
        /// This process shuts down.
        Leaving = "leaving",
    }

    /// Why a response that is no event stream was cut short.
    enum AnswerCut {
        /// The upstream connection failed.
        UpstreamFailed = "upstream_failed",
        /// The session ended.
        SessionEnded = "session_ended",
        /// The access token expired more than `tokens.streamGrace` ago.
        TokenEnded = "token_ended",
        /// The upstream sent nothing for `upstream.timeouts.responseHead`.
        Silent = "silent",
        /// This process shuts down.
        Leaving = "leaving",
    }
}
