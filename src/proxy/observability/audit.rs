//! The audit log: log lines of the target `audit`, described in docs/observability.md.
//!
//! No field holds a token, code or key. Texts chosen by users and clients are truncated here; `telemetry` escapes control
//! characters.

use std::{net::IpAddr, time::Duration};

use super::metrics::{Grant, Label};
use crate::api::SessionClient;
use crate::end_reasons::{SessionEndReason, StreamEndReason};
use crate::{
    oauth::OAuthError,
    session::{Session, SessionId},
};

/// Maximum length of a field, in characters.
const MAX_FIELD: usize = 300;

pub fn login(session: &Session, client_ip: Option<IpAddr>) {
    session_event("login", "logged in", None, session, None, client_ip);
}

pub fn tokens(session: &Session, grant: Grant, client_ip: Option<IpAddr>) {
    session_event("tokens", "tokens issued", Some(grant), session, None, client_ip);
}

/// A session that this replica ended; `detail` explains `why`.
pub fn session_end(session: &Session, why: SessionEndReason, detail: &str, client_ip: Option<IpAddr>) {
    let (event, message) = match why {
        SessionEndReason::LoggedOut => ("revocation", "logged out"),
        SessionEndReason::Replay => ("replay", "session ended"),
        SessionEndReason::Rules | SessionEndReason::Issuer | SessionEndReason::Surplus | SessionEndReason::Expired => {
            ("session_end", "session ended")
        }
    };
    session_event(event, message, None, session, Some((why, detail)), client_ip);
}

fn session_event(
    event: &str,
    message: &str,
    grant: Option<Grant>,
    session: &Session,
    end: Option<(SessionEndReason, &str)>,
    client_ip: Option<IpAddr>,
) {
    macro_rules! line {
        ($level:ident) => {
            tracing::$level!(
                target: "audit",
                event,
                grant = grant.map(Label::text),
                session = %session.id,
                user = brief(&session.user.email),
                client = brief(&session.client.name),
                client_host = brief(&session.client.redirect_host),
                reason = end.map(|(why, _)| why.as_str()),
                detail = end.map(|(_, detail)| brief(detail)),
                from = address(client_ip),
                "{message}"
            )
        };
    }
    if let Some((SessionEndReason::Replay, _)) = end { line!(warn) } else { line!(info) }
}

/// `user` is the e-mail address at the issuer, if it is known.
pub fn login_refused(client: &SessionClient, user: Option<&str>, error: &OAuthError, client_ip: Option<IpAddr>) {
    tracing::warn!(
        target: "audit",
        event = "login_refused",
        user = user.map(brief),
        client = brief(&client.name),
        client_host = brief(&client.redirect_host),
        reason = error.code.as_str(),
        detail = brief(&error.description),
        from = address(client_ip),
        "login refused"
    );
}

/// `session` is that of a valid refresh token in the request.
pub fn tokens_refused(
    grant: Grant,
    client_id_hash: Option<&str>,
    session: Option<SessionId>,
    error: &OAuthError,
    client_ip: Option<IpAddr>,
) {
    refused("tokens_refused", "tokens refused", Some((grant, session)), client_id_hash, error, client_ip);
}

pub fn registration_refused(error: &OAuthError, client_ip: Option<IpAddr>) {
    refused("registration_refused", "registration refused", None, None, error, client_ip);
}

pub fn revocation_refused(client_id_hash: Option<&str>, error: &OAuthError, client_ip: Option<IpAddr>) {
    refused("revocation_refused", "revocation refused", None, client_id_hash, error, client_ip);
}

fn refused(
    event: &str,
    message: &str,
    grant: Option<(Grant, Option<SessionId>)>,
    client_id_hash: Option<&str>,
    error: &OAuthError,
    client_ip: Option<IpAddr>,
) {
    tracing::info!(
        target: "audit",
        event,
        grant = grant.map(|(grant, _)| grant.text()),
        session = grant.and_then(|(_, session)| session).map(tracing::field::display),
        client_id_hash,
        reason = error.code.as_str(),
        detail = brief(&error.description),
        from = address(client_ip),
        "{message}"
    );
}

/// Session, user and client of a request to an MCP endpoint.
#[derive(Clone, Copy, Debug)]
pub struct CallerIdentity<'a> {
    pub session: SessionId,
    pub email: &'a str,
    /// The client's name, chosen by the client.
    pub client: &'a str,
}

/// The request names an MCP session of another user, or one that does not exist.
pub fn mcp_session_refused(caller: CallerIdentity<'_>, client_ip: IpAddr) {
    tracing::warn!(
        target: "audit",
        event = "mcp_session_refused",
        session = %caller.session,
        user = brief(caller.email),
        client = brief(caller.client),
        from = %client_ip,
        "rejected an unknown MCP session id or one of another user"
    );
}

pub fn stream_end(caller: CallerIdentity<'_>, why: StreamEndReason, duration: Duration, client_ip: IpAddr) {
    tracing::info!(
        target: "audit",
        event = "stream_end",
        session = %caller.session,
        user = brief(caller.email),
        client = brief(caller.client),
        reason = why.as_str(),
        seconds = duration.as_secs_f64(),
        from = %client_ip,
        "stream ended"
    );
}

fn address(client_ip: Option<IpAddr>) -> Option<impl tracing::Value> {
    client_ip.map(tracing::field::display)
}

fn brief(text: &str) -> &str {
    text.char_indices().nth(MAX_FIELD).map_or(text, |(end, _)| &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_field_is_truncated_at_a_character_boundary() {
        assert_eq!(brief("ada"), "ada");
        assert_eq!(brief(&"ü".repeat(MAX_FIELD + 1)), "ü".repeat(MAX_FIELD));
    }
}
