//! The audit log: who has done what, with which client, from where, as log lines of the target `audit`. docs/observability.md
//! has the table.
//!
//! No token, code or key is ever among the fields. What people and clients call themselves is cut to a length here; what in it
//! could deceive a reader is written out where lines are made (`telemetry`).

use std::{net::IpAddr, time::Duration};

use super::metrics::{Grant, Label};
use crate::api::SessionClient;
use crate::reasons::{SessionEnd, StreamEnd};
use crate::{
    oauth::OAuthError,
    session::{Session, SessionId},
};

/// The longest text of a field, in characters.
const LONGEST: usize = 300;

/// Somebody has logged in.
pub fn login(session: &Session, from: Option<IpAddr>) {
    tracing::info!(
        target: "audit",
        event = "login",
        session = %session.id,
        user = brief(&session.user.email),
        client = brief(&session.client.name),
        client_host = brief(&session.client.redirect_host),
        from = address(from),
        "logged in"
    );
}

/// Somebody has not been logged in; `user` is their address at the issuer, if that is known.
pub fn login_refused(client: &SessionClient, user: Option<&str>, error: &OAuthError, from: Option<IpAddr>) {
    tracing::warn!(
        target: "audit",
        event = "login_refused",
        user = user.map(brief),
        client = brief(&client.name),
        client_host = brief(&client.redirect_host),
        reason = error.code.as_str(),
        detail = brief(&error.description),
        from = address(from),
        "login refused"
    );
}

/// A client has got tokens.
pub fn tokens(session: &Session, grant: Grant, from: Option<IpAddr>) {
    tracing::info!(
        target: "audit",
        event = "tokens",
        grant = grant.text(),
        session = %session.id,
        user = brief(&session.user.email),
        client = brief(&session.client.name),
        client_host = brief(&session.client.redirect_host),
        from = address(from),
        "tokens given"
    );
}

/// A client has got none; `session` is that of the refresh token that it sent, if we had made that.
pub fn tokens_refused(
    grant: Grant,
    client_id_hash: Option<&str>,
    session: Option<SessionId>,
    error: &OAuthError,
    from: Option<IpAddr>,
) {
    tracing::info!(
        target: "audit",
        event = "tokens_refused",
        grant = grant.text(),
        session = session.map(tracing::field::display),
        client_id_hash,
        reason = error.code.as_str(),
        detail = brief(&error.description),
        from = address(from),
        "tokens refused"
    );
}

/// A client was not registered.
pub fn registration_refused(error: &OAuthError, from: Option<IpAddr>) {
    tracing::info!(
        target: "audit",
        event = "registration_refused",
        reason = error.code.as_str(),
        detail = brief(&error.description),
        from = address(from),
        "registration refused"
    );
}

/// A token was not revoked.
pub fn revocation_refused(client_id_hash: Option<&str>, error: &OAuthError, from: Option<IpAddr>) {
    tracing::info!(
        target: "audit",
        event = "revocation_refused",
        client_id_hash,
        reason = error.code.as_str(),
        detail = brief(&error.description),
        from = address(from),
        "revocation refused"
    );
}

/// A session was ended here. One that was misused is told louder.
pub fn session_end(session: &Session, why: SessionEnd, detail: &str, from: Option<IpAddr>) {
    macro_rules! line {
        ($level:ident, $event:literal, $message:literal) => {
            tracing::$level!(
                target: "audit",
                event = $event,
                session = %session.id,
                user = brief(&session.user.email),
                client = brief(&session.client.name),
                client_host = brief(&session.client.redirect_host),
                reason = why.as_str(),
                detail = brief(detail),
                from = address(from),
                $message
            )
        };
    }
    match why {
        SessionEnd::LoggedOut => line!(info, "revocation", "logged out"),
        SessionEnd::Replay => line!(warn, "replay", "session ended"),
        SessionEnd::Rules | SessionEnd::Issuer | SessionEnd::Surplus | SessionEnd::Expired => {
            line!(info, "session_end", "session ended");
        }
    }
}

/// Who sent a request to an MCP endpoint.
#[derive(Clone, Copy, Debug)]
pub struct Caller<'a> {
    pub session: SessionId,
    pub email: &'a str,
    /// The client's name for itself.
    pub client: &'a str,
}

/// Somebody has named an MCP session of somebody else, or one that does not exist.
pub fn mcp_session_refused(caller: Caller<'_>, from: IpAddr) {
    tracing::warn!(
        target: "audit",
        event = "mcp_session_refused",
        session = %caller.session,
        user = brief(caller.email),
        client = brief(caller.client),
        from = %from,
        "the MCP session is not this user's"
    );
}

/// An event stream to a client is no longer open.
pub fn stream_end(caller: Caller<'_>, why: StreamEnd, took: Duration, from: IpAddr) {
    tracing::info!(
        target: "audit",
        event = "stream_end",
        session = %caller.session,
        user = brief(caller.email),
        client = brief(caller.client),
        reason = why.as_str(),
        seconds = took.as_secs_f64(),
        from = %from,
        "stream ended"
    );
}

fn address(from: Option<IpAddr>) -> Option<impl tracing::Value> {
    from.map(tracing::field::display)
}

fn brief(text: &str) -> &str {
    text.char_indices().nth(LONGEST).map_or(text, |(end, _)| &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_field_is_truncated_at_a_character_boundary() {
        assert_eq!(brief("ada"), "ada");
        assert_eq!(brief(&"ü".repeat(LONGEST + 1)), "ü".repeat(LONGEST));
    }
}
