//! Refresh tokens (RFC 6749 §6). A token is the sealed session id and generation; no secret is stored. Each use replaces the
//! generation by the next one. A lost response or a second process of the client does not end the session.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::OAuthError;
use crate::{
    api::SessionPhase,
    crypto::{Keyring, Purpose},
    session::{Session, SessionId},
};

#[derive(Deserialize, Serialize)]
pub struct RefreshToken {
    #[serde(rename = "i")]
    session: String,
    #[serde(rename = "g")]
    generation: u64,
}

impl RefreshToken {
    /// Returns the sealed token of the session's current generation.
    pub fn current(session: &Session, keyring: &Keyring) -> Option<String> {
        keyring.seal(Purpose::RefreshToken, &Self { session: session.id.to_string(), generation: session.generation })
    }

    /// Returns session and generation; `None` if the token is forged.
    pub fn open(token: &str, keyring: &Keyring) -> Option<(SessionId, u64)> {
        let token: Self = keyring.open(Purpose::RefreshToken, token)?;
        Some((token.session.parse().ok()?, token.generation))
    }
}

/// Checks that this client may refresh the session. A failure does not consume the token.
pub fn check(
    session: &Session,
    client_id_hash: &str,
    resource: Option<&str>,
    now: Timestamp,
) -> Result<(), OAuthError> {
    if session.client.id_hash != client_id_hash {
        return Err(OAuthError::invalid_grant("the refresh token was issued to another client"));
    }
    if resource.is_some_and(|resource| resource != session.resource) {
        return Err(OAuthError::invalid_target("resource differs from that of the login"));
    }
    if session.phase == SessionPhase::Pending || session.expires_at <= now {
        return Err(ended());
    }
    Ok(())
}

pub fn ended() -> OAuthError {
    OAuthError::invalid_grant("the session has ended: log in again")
}

#[derive(Clone, Debug, PartialEq)]
pub enum Refresh {
    /// Write this session by compare-and-swap and issue its generation.
    Rotate(Box<Session>),
    /// Issue the current generation again; nothing is written.
    Repeat,
    /// End the session, for this reason.
    End(&'static str),
}

/// Decides on a refresh token of `generation`. The current generation N becomes N+1. N-1 is valid until N has been used and
/// for `grace` after that (lost response, second process). Use of an older token means that it or its successor was stolen. A
/// newer one proves that the record was restored from a backup.
pub fn decide(
    session: &Session,
    generation: u64,
    now: Timestamp,
    grace: SignedDuration,
    idle: SignedDuration,
    max: SignedDuration,
) -> Refresh {
    let current = session.generation;
    if generation > current {
        Refresh::End("a refresh token newer than the session record was used: the record was restored from a backup")
    } else if generation == current {
        Refresh::Rotate(Box::new(Session {
            generation: current + 1,
            rotated_at: now,
            expires_at: (now + idle).min(session.created_at + max),
            ..session.clone()
        }))
    } else if generation + 1 == current || (generation + 2 == current && now <= session.rotated_at + grace) {
        Refresh::Repeat
    } else {
        Refresh::End("a refresh token was used again after its successor had been used")
    }
}

#[cfg(test)]
mod tests {
    use super::super::ErrorCode;
    use super::*;
    use crate::testing::{keyring, session};

    const GRACE: SignedDuration = SignedDuration::from_secs(60);
    const IDLE: SignedDuration = SignedDuration::from_hours(1);
    const MAX: SignedDuration = SignedDuration::from_hours(24);

    fn at_generation(generation: u64) -> Session {
        Session { phase: SessionPhase::Active, generation, ..session("a") }
    }

    fn decide_after(session: &Session, generation: u64, after: SignedDuration) -> Refresh {
        decide(session, generation, session.rotated_at + after, GRACE, IDLE, MAX)
    }

    #[test]
    fn refresh_token_contains_session_and_generation() {
        let session = at_generation(7);
        let token = RefreshToken::current(&session, &keyring()).unwrap();
        assert_eq!(RefreshToken::open(&token, &keyring()), Some((session.id, 7)));
        assert_eq!(RefreshToken::open("forged", &keyring()), None);
    }

    #[test]
    fn a12_refresh_requires_matching_client_and_resource_and_live_session() {
        let session = at_generation(1);
        let (client, resource, now) = (session.client.id_hash.as_str(), session.resource.as_str(), session.rotated_at);
        assert_eq!(check(&session, client, None, now), Ok(()));
        assert_eq!(check(&session, client, Some(resource), now), Ok(()));
        let code = |checked: Result<(), OAuthError>| checked.unwrap_err().code;
        assert_eq!(code(check(&session, "another", None, now)), ErrorCode::InvalidGrant);
        assert_eq!(code(check(&session, client, Some("https://mcp.example.com/x"), now)), ErrorCode::InvalidTarget);
        assert_eq!(code(check(&session, client, None, session.expires_at)), ErrorCode::InvalidGrant);
        let pending = Session { phase: SessionPhase::Pending, ..session.clone() };
        assert_eq!(code(check(&pending, client, None, now)), ErrorCode::InvalidGrant);
    }

    #[test]
    fn current_generation_rotates_and_session_is_extended() {
        let session = at_generation(3);
        let after = SignedDuration::from_mins(5);
        let Refresh::Rotate(next) = decide_after(&session, 3, after) else { panic!() };
        assert_eq!(next.generation, 4);
        assert_eq!(next.expires_at, session.rotated_at + after + IDLE);
        assert_eq!(
            Session { generation: 3, rotated_at: session.rotated_at, expires_at: session.expires_at, ..*next },
            session
        );
    }

    #[test]
    fn lost_refresh_response_is_repeated_at_any_time() {
        assert_eq!(decide_after(&at_generation(3), 2, SignedDuration::from_hours(20)), Refresh::Repeat);
    }

    #[test]
    fn a13_refresh_token_replay_after_grace_ends_session() {
        let session = at_generation(3);
        assert_eq!(decide_after(&session, 1, GRACE), Refresh::Repeat);
        assert!(matches!(decide_after(&session, 1, GRACE + SignedDuration::from_secs(1)), Refresh::End(_)));
        assert!(matches!(decide_after(&session, 0, SignedDuration::ZERO), Refresh::End(_)));
    }

    #[test]
    fn generation_ahead_of_record_ends_session() {
        assert!(matches!(decide_after(&at_generation(3), 4, SignedDuration::ZERO), Refresh::End(_)));
    }

    #[test]
    fn refresh_never_extends_session_beyond_maximum() {
        let session = at_generation(3);
        let Refresh::Rotate(next) = decide_after(&session, 3, MAX - SignedDuration::from_mins(1)) else { panic!() };
        assert_eq!(next.expires_at, session.created_at + MAX);
    }
}
