//! The consent form and the approved login on its way through the issuer: both travel with the browser, sealed.

use std::fmt;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::authorize::{AuthorizationRequest, granted_scopes};
use crate::{
    api::{SessionClaims, SessionPhase, SessionUser},
    crypto::{Keyring, Purpose},
    session::{Session, SessionId},
};

/// How long a person may take from the consent page to the end of the login.
pub const LIFETIME: SignedDuration = SignedDuration::from_mins(10);

/// The most bytes that a login's cookie may have. Browsers take 4,096 with name and attributes, and three of ours at
/// once must stay under the header limits of servers in front (8 KiB).
pub const MAX_COOKIE: usize = 2500;

/// What the consent page shows and its form brings back.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ConsentForm {
    #[serde(rename = "q")]
    request: AuthorizationRequest,
    #[serde(rename = "e")]
    expires_at: i64,
}

impl ConsentForm {
    /// A form that is good from `now` on.
    pub fn new(request: AuthorizationRequest, now: Timestamp) -> Self {
        Self { request, expires_at: (now + LIFETIME).as_second() }
    }

    /// The sealed form, and the proof that binds it to the browser with this cookie.
    pub fn seal(&self, keyring: &Keyring, browser: &str) -> Option<(String, String)> {
        let form = keyring.seal(Purpose::ConsentForm, self)?;
        let binding = keyring.mac_text(Purpose::ConsentBinding, &[form.as_bytes(), browser.as_bytes()]);
        Some((form, binding))
    }

    /// What was approved: `None` if the form is not ours, was shown in another browser, or is too old.
    pub fn open(
        form: &str,
        binding: &str,
        browser: &str,
        keyring: &Keyring,
        now: Timestamp,
    ) -> Option<AuthorizationRequest> {
        let bound = keyring.verify_mac_text(Purpose::ConsentBinding, &[form.as_bytes(), browser.as_bytes()], binding);
        let form: Self = bound.then(|| keyring.open(Purpose::ConsentForm, form))??;
        (now.as_second() < form.expires_at).then_some(form.request)
    }
}

/// How long a session waits for its code to be redeemed.
const PENDING: SignedDuration = SignedDuration::from_mins(2);

/// An approved login: what the callback needs to finish it.
#[derive(Clone, Deserialize, Eq, PartialEq, Serialize)]
pub struct Login {
    /// What was approved.
    #[serde(rename = "q")]
    pub request: AuthorizationRequest,
    /// Our state at the issuer.
    #[serde(rename = "s")]
    pub state: String,
    /// The nonce of the ID token; it names the session.
    #[serde(rename = "n")]
    pub nonce: String,
    /// The PKCE verifier for the issuer.
    #[serde(rename = "v")]
    pub verifier: String,
    #[serde(rename = "e")]
    expires_at: i64,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").field("expires_at", &self.expires_at).finish_non_exhaustive()
    }
}

impl Login {
    /// A login that begins at `now`; `state`, `nonce` and `verifier` are random values of 43 characters.
    pub fn new(request: AuthorizationRequest, state: String, nonce: String, verifier: String, now: Timestamp) -> Self {
        Self { request, state, nonce, verifier, expires_at: (now + LIFETIME).as_second() }
    }

    /// The cookie's value.
    pub fn seal(&self, keyring: &Keyring) -> Option<String> {
        keyring.seal(Purpose::Login, self)
    }

    /// The login of a cookie: `None` if it is not ours or too old.
    pub fn open(cookie: &str, keyring: &Keyring, now: Timestamp) -> Option<Self> {
        keyring.open::<Self>(Purpose::Login, cookie).filter(|login| now.as_second() < login.expires_at)
    }

    /// When it ends; the earliest is the one to give up if there are too many.
    pub const fn expires_at(&self) -> i64 {
        self.expires_at
    }

    /// Whether the cookie of a login for this request will be small enough.
    pub fn fits(request: &AuthorizationRequest) -> bool {
        let random = "r".repeat(43);
        let login = Self::new(request.clone(), random.clone(), random.clone(), random, Timestamp::MAX - LIFETIME);
        Keyring::sealed_len(&login).is_some_and(|length| length <= MAX_COOKIE)
    }

    /// The session that this login makes at `now`.
    pub fn session(&self, id: SessionId, user: SessionUser, claims: SessionClaims, now: Timestamp) -> Session {
        Session {
            id,
            user,
            client: self.request.session_client(),
            scopes: granted_scopes(),
            resource: self.request.resource.clone(),
            created_at: now,
            phase: SessionPhase::Pending,
            rotation: 0,
            rotated_at: now,
            expires_at: now + PENDING,
            claims,
            upstream_token: None,
            leased_until: None,
        }
    }

    /// The last part of the cookie's name: which login it is, without its state.
    pub fn cookie_suffix(state: &str) -> String {
        super::sha256_text(state).chars().take(16).collect()
    }
}

#[cfg(test)]
pub mod tests {
    use super::super::authorize::tests::CHALLENGE;
    use super::*;
    use crate::crypto::testing::keyring;

    pub fn request() -> AuthorizationRequest {
        AuthorizationRequest {
            client_name: "Test".to_owned(),
            client_id_hash: "hash".to_owned(),
            redirect_uri: "http://localhost:1234/callback".to_owned(),
            state: Some("client-state".to_owned()),
            challenge: CHALLENGE.to_owned(),
            resource: "https://mcp.example.com/mcp".to_owned(),
            refreshes: true,
        }
    }

    #[test]
    fn a5_form_is_valid_for_its_browser_and_ten_minutes() {
        let (keyring, now) = (keyring(), Timestamp::UNIX_EPOCH);
        let (form, binding) = ConsentForm::new(request(), now).seal(&keyring, "browser").unwrap();
        let open = |binding: &str, browser: &str, at| ConsentForm::open(&form, binding, browser, &keyring, at);
        assert_eq!(open(&binding, "browser", now), Some(request()));
        assert_eq!(open(&binding, "another", now), None);
        assert_eq!(open("", "browser", now), None);
        assert_eq!(open(&binding, "browser", now + LIFETIME), None);
    }

    #[test]
    fn login_expires_after_ten_minutes() {
        let (keyring, now) = (keyring(), Timestamp::UNIX_EPOCH);
        let login = Login::new(request(), "s".to_owned(), "n".to_owned(), "v".to_owned(), now);
        let cookie = login.seal(&keyring).unwrap();
        assert_eq!(Login::open(&cookie, &keyring, now), Some(login));
        assert_eq!(Login::open(&cookie, &keyring, now + LIFETIME), None);
    }

    #[test]
    fn oversized_login_cookie_is_detected_in_advance() {
        let keyring = keyring();
        let sized = |length| AuthorizationRequest { state: Some("x".repeat(length)), ..request() };
        assert!(Login::fits(&sized(512)));
        assert!(!Login::fits(&sized(2000)));
        let login = Login::new(sized(512), "s".to_owned(), "n".to_owned(), "v".to_owned(), Timestamp::UNIX_EPOCH);
        assert_eq!(Keyring::sealed_len(&login), Some(login.seal(&keyring).unwrap().len()));
    }
}
