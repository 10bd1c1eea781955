//! The authorization code (RFC 6749 §4.1.3). It is sealed instead of stored; the session makes it single-use.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::{OAuthError, authorize::AuthorizationRequest, pkce, tokens::TokenRequest};
use crate::{
    api::SessionPhase,
    crypto::{Keyring, Purpose},
    session::{Session, SessionId},
};

const LIFETIME: SignedDuration = SignedDuration::from_secs(60);

/// A second redemption within this time may be a retry of the client after a lost response.
const REPLAY_AFTER: SignedDuration = SignedDuration::from_secs(10);

#[derive(Deserialize, Serialize)]
pub struct Code {
    #[serde(rename = "i")]
    session: String,
    #[serde(rename = "c")]
    client_id_hash: String,
    #[serde(rename = "r")]
    redirect_uri: String,
    #[serde(rename = "p")]
    challenge: String,
    #[serde(rename = "a")]
    resource: String,
    #[serde(rename = "f")]
    refreshes: bool,
    #[serde(rename = "e")]
    expires_at: i64,
}

/// A valid code, perhaps used before: [`activate`] decides that.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Redeemed {
    pub session: SessionId,
    pub refreshes: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Activation {
    /// First use: the active session, to be written by compare-and-swap.
    First(Box<Session>),
    /// Used within [`REPLAY_AFTER`].
    Lost,
    /// Used earlier. The request has the right verifier, so both were stolen: the session ends.
    Replay,
}

impl Code {
    /// Returns the sealed code of a login that created `session`; `None` without randomness.
    pub fn seal(
        session: SessionId,
        request: &AuthorizationRequest,
        keyring: &Keyring,
        now: Timestamp,
    ) -> Option<String> {
        let code = Self {
            session: session.to_string(),
            client_id_hash: request.client_id_hash.clone(),
            redirect_uri: request.redirect_uri.clone(),
            challenge: request.challenge.clone(),
            resource: request.resource.clone(),
            refreshes: request.refreshes,
            expires_at: (now + LIFETIME).as_second(),
        };
        keyring.seal(Purpose::Code, &code)
    }

    /// Opens a code and compares every field. A failure does not end the session: a stolen code without its verifier must
    /// not end it.
    pub fn redeem(
        request: &TokenRequest,
        client_id_hash: &str,
        keyring: &Keyring,
        now: Timestamp,
    ) -> Result<Redeemed, OAuthError> {
        let unknown = || OAuthError::invalid_grant("the code is unknown or has expired");
        let code = request.code.as_deref().ok_or_else(|| OAuthError::missing("code"))?;
        let code: Self = keyring.open(Purpose::Code, code).ok_or_else(unknown)?;
        if now.as_second() >= code.expires_at {
            return Err(unknown());
        }
        if code.client_id_hash != client_id_hash {
            return Err(OAuthError::invalid_grant("the code was issued to another client"));
        }
        // Optional since OAuth 2.1 §4.1.3.
        if request.redirect_uri.as_ref().is_some_and(|uri| *uri != code.redirect_uri) {
            return Err(OAuthError::invalid_grant("redirect_uri differs from that of the authorization request"));
        }
        if !request.code_verifier.as_ref().is_some_and(|verifier| pkce::verifies(verifier, &code.challenge)) {
            return Err(OAuthError::invalid_grant("code_verifier does not match the code_challenge"));
        }
        if request.resource.as_ref().is_some_and(|resource| *resource != code.resource) {
            return Err(OAuthError::invalid_target("resource differs from that of the authorization request"));
        }
        let session = code.session.parse().map_err(|_| unknown())?;
        Ok(Redeemed { session, refreshes: code.refreshes })
    }
}

/// Activates the session of a redeemed code for `lifetime`: the idle TTL, or the access token's TTL for a client without
/// refresh tokens.
pub fn activate(session: &Session, now: Timestamp, lifetime: SignedDuration, max: SignedDuration) -> Activation {
    match session.phase {
        SessionPhase::Pending => Activation::First(Box::new(Session {
            phase: SessionPhase::Active,
            generation: 1,
            rotated_at: now,
            expires_at: (now + lifetime).min(session.created_at + max),
            ..session.clone()
        })),
        // A refresh sets `rotated_at` later than the first redemption. A replay may then count as a retry, but never a retry
        // as a replay.
        SessionPhase::Active if now > session.rotated_at + REPLAY_AFTER => Activation::Replay,
        SessionPhase::Active => Activation::Lost,
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ErrorCode, login::tests::request};
    use super::*;
    use crate::testing::{keyring, session};

    const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
    const HOUR: SignedDuration = SignedDuration::from_hours(1);

    fn good(code: &str) -> TokenRequest {
        TokenRequest {
            code: Some(code.to_owned()),
            redirect_uri: Some("http://localhost:1234/callback".to_owned()),
            code_verifier: Some(VERIFIER.to_owned()),
            resource: Some("https://mcp.example.com/mcp".to_owned()),
            ..TokenRequest::default()
        }
    }

    #[test]
    fn a12_redemption_must_match_every_field_of_the_request() {
        let (keyring, now) = (keyring(), Timestamp::UNIX_EPOCH);
        let id = session("a").id;
        let code = Code::seal(id, &request(), &keyring, now).unwrap();
        let redeem = |request: &TokenRequest, at| Code::redeem(request, "hash", &keyring, at);
        let good = || good(&code);
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(redeem(&good(), now).unwrap(), Redeemed { session: id, refreshes: true });
        assert!(redeem(&TokenRequest { redirect_uri: None, resource: None, ..good() }, now).is_ok());
        assert_eq!(Code::redeem(&good(), "other", &keyring, now).unwrap_err().code, ErrorCode::InvalidGrant);
        for (request, expected) in [
            (TokenRequest { redirect_uri: some("http://localhost:1/callback"), ..good() }, ErrorCode::InvalidGrant),
            (TokenRequest { code_verifier: None, ..good() }, ErrorCode::InvalidGrant),
            (
                TokenRequest { code_verifier: some("wrong-wrong-wrong-wrong-wrong-wrong-wrong-wrong"), ..good() },
                ErrorCode::InvalidGrant,
            ),
            (
                TokenRequest { resource: some("https://mcp.example.com/servers/a/mcp"), ..good() },
                ErrorCode::InvalidTarget,
            ),
        ] {
            assert_eq!(redeem(&request, now).unwrap_err().code, expected);
        }
        assert_eq!(redeem(&good(), now + LIFETIME).unwrap_err().code, ErrorCode::InvalidGrant);
        assert!(redeem(&TokenRequest { code: some("forged"), ..good() }, now).is_err());
    }

    #[test]
    fn a11_second_redemption_is_lost_and_late_one_is_replay() {
        let pending = session("a");
        let now = pending.created_at;
        let Activation::First(active) = activate(&pending, now, HOUR, HOUR * 2) else { panic!("the first wins") };
        assert_eq!((active.phase, active.generation, active.expires_at), (SessionPhase::Active, 1, now + HOUR));
        assert_eq!(activate(&active, now + REPLAY_AFTER, HOUR, HOUR), Activation::Lost);
        let late = now + REPLAY_AFTER + SignedDuration::from_secs(1);
        assert_eq!(activate(&active, late, HOUR, HOUR), Activation::Replay);
        // The winner of fifty concurrent redemptions may refresh before the last one arrives.
        let refreshed = Session { generation: 2, ..*active };
        assert_eq!(activate(&refreshed, now, HOUR, HOUR), Activation::Lost);
        assert_eq!(activate(&refreshed, late, HOUR, HOUR), Activation::Replay);
    }

    #[test]
    fn session_never_outlives_its_maximum() {
        let pending = session("a");
        let Activation::First(active) = activate(&pending, pending.created_at, HOUR * 3, HOUR) else { panic!() };
        assert_eq!(active.expires_at, pending.created_at + HOUR);
    }
}
