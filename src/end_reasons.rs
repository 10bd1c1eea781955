//! Why sessions, event streams and other responses end. The texts are labels of metrics and fields of the audit log.

use crate::text_enums::text_enums;

text_enums! {
    /// Why this replica ended a session.
    enum SessionEndReason {
        /// By the client (RFC 7009).
        LoggedOut = "logged_out",
        /// A code or refresh token was used again, or is newer than the record.
        Replay = "replay",
        /// The access rules no longer allow the user, or `sessions.notBefore` is later than the login.
        Rules = "rules",
        /// The issuer no longer knows the user, or returned other claims.
        Issuer = "issuer",
        /// The user has more sessions than `sessions.maxPerUser`.
        Surplus = "surplus",
        Expired = "expired",
    }

    /// Why an event stream to a client closed.
    enum StreamEndReason {
        /// By the upstream.
        Finished = "finished",
        ClientGone = "client_gone",
        UpstreamFailed = "upstream_failed",
        SessionEnded = "session_ended",
        /// The access token expired more than `tokens.streamGrace` ago.
        TokenEnded = "token_ended",
        /// The upstream sent nothing for `upstream.timeouts.streamIdle`.
        Silent = "silent",
        /// This process shuts down.
        Leaving = "leaving",
    }

    /// Why a response that is no event stream was cut short.
    enum ResponseCutReason {
        UpstreamFailed = "upstream_failed",
        SessionEnded = "session_ended",
        /// The access token expired more than `tokens.streamGrace` ago.
        TokenEnded = "token_ended",
        /// The upstream sent nothing for `upstream.timeouts.responseHead`.
        Silent = "silent",
        /// This process shuts down.
        Leaving = "leaving",
    }
}
