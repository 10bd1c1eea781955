//! The authorization code (RFC 6749 §4.1.3): sealed, so that nothing is stored for it; single use comes from the session.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::{OAuthError, authorize::AuthorizationRequest, pkce};
use crate::{
    api::SessionPhase,
    crypto::{Keyring, Purpose},
    session::{Session, SessionId},
};

/// How long a code is good.
const LIFETIME: SignedDuration = SignedDuration::from_secs(60);

/// Until then a second redemption may be the same client trying again because the first answer was lost.
const REPLAY_AFTER: SignedDuration = SignedDuration::from_secs(10);

/// What a code says.
#[derive(Clone, Deserialize, Eq, PartialEq, Serialize)]
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

/// What the client sends along with a code.
#[derive(Clone, Copy)]
pub struct Redemption<'a> {
    /// SHA-256 of its id.
    pub client_id_hash: &'a str,
    /// `redirect_uri`, which may be left out (OAuth 2.1 §4.1.3).
    pub redirect_uri: Option<&'a str>,
    /// `code_verifier`.
    pub verifier: Option<&'a str>,
    /// The audience that `resource` names, if it was sent.
    pub resource: Option<&'a str>,
}

/// A code that was redeemed by whom it was made for; whether it is the first time, the session says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Redeemed {
    /// The session of the login.
    pub session: SessionId,
    /// Whether the client gets refresh tokens.
    pub refreshes: bool,
}

/// What becomes of a session when its code is redeemed.
#[derive(Clone, Debug, PartialEq)]
pub enum Activation {
    /// This is the first time: to be written by compare-and-swap.
    First(Box<Session>),
    /// It has been redeemed a moment ago.
    Lost,
    /// It was redeemed long before, by the right client with the right verifier: somebody has both. The session ends.
    Replay,
}

impl Code {
    /// The code for a login that made `session`.
    pub fn new(session: SessionId, request: &AuthorizationRequest, now: Timestamp) -> Self {
        Self {
            session: session.to_string(),
            client_id_hash: request.client_id_hash.clone(),
            redirect_uri: request.redirect_uri.clone(),
            challenge: request.challenge.clone(),
            resource: request.resource.clone(),
            refreshes: request.refreshes,
            expires_at: (now + LIFETIME).as_second(),
        }
    }

    /// The code as the client gets it.
    pub fn seal(&self, keyring: &Keyring) -> Option<String> {
        keyring.seal(Purpose::Code, self)
    }

    /// Opens a code and checks everything that is in it. Nothing happens to the session when a check fails: a code alone,
    /// without its verifier, ends nothing.
    ///
    /// # Errors
    /// `invalid_grant`, or `invalid_target` for a resource other than the approved one.
    pub fn redeem(code: &str, with: Redemption<'_>, keyring: &Keyring, now: Timestamp) -> Result<Redeemed, OAuthError> {
        let unknown = || OAuthError::invalid_grant("the code is unknown or has expired");
        let code: Self = keyring.open(Purpose::Code, code).ok_or_else(unknown)?;
        if now.as_second() >= code.expires_at {
            return Err(unknown());
        }
        if code.client_id_hash != with.client_id_hash {
            return Err(OAuthError::invalid_grant("the code was issued to another client"));
        }
        if with.redirect_uri.is_some_and(|uri| uri != code.redirect_uri) {
            return Err(OAuthError::invalid_grant("redirect_uri is not the one of the authorization request"));
        }
        if !with.verifier.is_some_and(|verifier| pkce::verifies(verifier, &code.challenge)) {
            return Err(OAuthError::invalid_grant("code_verifier does not fit the code_challenge"));
        }
        if with.resource.is_some_and(|resource| resource != code.resource) {
            return Err(OAuthError::invalid_target("resource is not the one of the authorization request"));
        }
        let session = code.session.parse().map_err(|_| unknown())?;
        Ok(Redeemed { session, refreshes: code.refreshes })
    }
}

/// What becomes of the session whose code was redeemed at `now`. It lives for `lifetime` from then on: as long as a client
/// may go without refreshing or, for one that cannot refresh, as long as its access token.
pub fn activate(session: &Session, now: Timestamp, lifetime: SignedDuration, max: SignedDuration) -> Activation {
    match session.phase {
        SessionPhase::Pending => Activation::First(Box::new(Session {
            phase: SessionPhase::Active,
            rotation: 1,
            rotated_at: now,
            expires_at: (now + lifetime).min(session.created_at + max),
            ..session.clone()
        })),
        // If it has been refreshed meanwhile, `rotated_at` is later than the first redemption: then a replay may pass for the
        // client trying again, but never the other way round.
        SessionPhase::Active if now > session.rotated_at + REPLAY_AFTER => Activation::Replay,
        SessionPhase::Active => Activation::Lost,
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ErrorCode, login::tests::request};
    use super::*;
    use crate::{crypto::testing::keyring, session::tests::session};

    const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
    const HOUR: SignedDuration = SignedDuration::from_hours(1);

    fn good() -> Redemption<'static> {
        Redemption {
            client_id_hash: "hash",
            redirect_uri: Some("http://localhost:1234/callback"),
            verifier: Some(VERIFIER),
            resource: Some("https://mcp.example.com/mcp"),
        }
    }

    #[test]
    fn a12_redemption_must_match_every_field_of_the_request() {
        let (keyring, now) = (keyring(), Timestamp::UNIX_EPOCH);
        let id = session("a").id;
        let code = Code::new(id, &request(), now).seal(&keyring).unwrap();
        let redeem = |with, at| Code::redeem(&code, with, &keyring, at);
        assert_eq!(redeem(good(), now).unwrap(), Redeemed { session: id, refreshes: true });
        assert!(redeem(Redemption { redirect_uri: None, resource: None, ..good() }, now).is_ok());
        for (with, expected) in [
            (Redemption { client_id_hash: "other", ..good() }, ErrorCode::InvalidGrant),
            (Redemption { redirect_uri: Some("http://localhost:1/callback"), ..good() }, ErrorCode::InvalidGrant),
            (Redemption { verifier: None, ..good() }, ErrorCode::InvalidGrant),
            (
                Redemption { verifier: Some("wrong-wrong-wrong-wrong-wrong-wrong-wrong-wrong"), ..good() },
                ErrorCode::InvalidGrant,
            ),
            (
                Redemption { resource: Some("https://mcp.example.com/servers/a/mcp"), ..good() },
                ErrorCode::InvalidTarget,
            ),
        ] {
            assert_eq!(redeem(with, now).unwrap_err().code, expected);
        }
        assert_eq!(redeem(good(), now + LIFETIME).unwrap_err().code, ErrorCode::InvalidGrant);
        assert!(Code::redeem("forged", good(), &keyring, now).is_err());
    }

    #[test]
    fn a11_second_redemption_is_lost_and_late_one_is_replay() {
        let pending = session("a");
        let now = pending.created_at;
        let Activation::First(active) = activate(&pending, now, HOUR, HOUR * 2) else { panic!("the first wins") };
        assert_eq!((active.phase, active.rotation, active.expires_at), (SessionPhase::Active, 1, now + HOUR));
        assert_eq!(activate(&active, now + REPLAY_AFTER, HOUR, HOUR), Activation::Lost);
        let late = now + REPLAY_AFTER + SignedDuration::from_secs(1);
        assert_eq!(activate(&active, late, HOUR, HOUR), Activation::Replay);
        // The winner of fifty at once may have refreshed before the last of them arrives.
        let refreshed = Session { rotation: 2, ..*active };
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
