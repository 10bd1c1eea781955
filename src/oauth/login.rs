//! The consent form and the approved login. Both are sealed and kept by the browser.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::{SCOPE, authorize::AuthorizationRequest};
use crate::{
    api::{SessionClaims, SessionPhase, SessionUser},
    crypto::{Keyring, Purpose},
    session::{Session, SessionId},
};

/// The time limit for the consent page, and again for the login at the issuer.
pub const LIFETIME: SignedDuration = SignedDuration::from_mins(10);

/// The time limit for redeeming the code.
const PENDING: SignedDuration = SignedDuration::from_mins(2);

/// The largest login cookie in bytes. Browsers accept 4,096 with name and attributes, and three cookies must fit into the
/// header limit of servers in front (8 KiB).
pub const MAX_COOKIE: usize = 2500;

/// The hidden content of the consent page's form.
#[derive(Deserialize, Serialize)]
pub struct ConsentForm {
    #[serde(rename = "q")]
    request: AuthorizationRequest,
    #[serde(rename = "e")]
    expires_at: i64,
}

impl ConsentForm {
    /// Returns the sealed form, and a MAC that binds it to the browser cookie; `None` without randomness.
    pub fn seal(
        request: AuthorizationRequest,
        browser: &str,
        keyring: &Keyring,
        now: Timestamp,
    ) -> Option<(String, String)> {
        let form = Self { request, expires_at: (now + LIFETIME).as_second() };
        let form = keyring.seal(Purpose::ConsentForm, &form)?;
        let binding = keyring.mac_text(Purpose::ConsentBinding, &[form.as_bytes(), browser.as_bytes()]);
        Some((form, binding))
    }

    /// Returns the request of a submitted form; `None` if the form is forged, bound to another browser or expired.
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

/// An approved login on its way through the issuer. It has no `Debug`: all members but the first and last are secrets.
#[derive(Clone, Deserialize, Eq, PartialEq, Serialize)]
pub struct Login {
    #[serde(rename = "q")]
    pub request: AuthorizationRequest,
    /// The `state` at the issuer.
    #[serde(rename = "s")]
    pub state: String,
    /// The nonce of the ID token. The session's id is derived from it.
    #[serde(rename = "n")]
    pub nonce: String,
    /// The PKCE verifier for the issuer.
    #[serde(rename = "v")]
    pub verifier: String,
    #[serde(rename = "e")]
    pub expires_at: i64,
}

impl Login {
    /// `state`, `nonce` and `verifier` are random values of 43 characters.
    pub fn new(request: AuthorizationRequest, state: String, nonce: String, verifier: String, now: Timestamp) -> Self {
        Self { request, state, nonce, verifier, expires_at: (now + LIFETIME).as_second() }
    }

    /// The value of the login cookie.
    pub fn seal(&self, keyring: &Keyring) -> Option<String> {
        keyring.seal(Purpose::Login, self)
    }

    /// Returns the login in a cookie; `None` if it is forged or expired.
    pub fn open(cookie: &str, keyring: &Keyring, now: Timestamp) -> Option<Self> {
        keyring.open::<Self>(Purpose::Login, cookie).filter(|login| now.as_second() < login.expires_at)
    }

    /// Whether the login cookie of a request does not exceed [`MAX_COOKIE`].
    pub fn fits(request: &AuthorizationRequest) -> bool {
        let random = "r".repeat(43);
        let login = Self::new(request.clone(), random.clone(), random.clone(), random, Timestamp::MAX - LIFETIME);
        Keyring::sealed_len(&login).is_some_and(|length| length <= MAX_COOKIE)
    }

    pub fn session(&self, id: SessionId, user: SessionUser, claims: SessionClaims, now: Timestamp) -> Session {
        Session {
            id,
            user,
            client: self.request.session_client(),
            scopes: vec![SCOPE.to_owned()],
            resource: self.request.resource.clone(),
            created_at: now,
            phase: SessionPhase::Pending,
            generation: 0,
            rotated_at: now,
            expires_at: now + PENDING,
            claims,
            issuer_refresh_token: None,
            leased_until: None,
        }
    }

    /// Distinguishes the cookies of concurrent logins without revealing `state`.
    pub fn cookie_suffix(state: &str) -> String {
        super::sha256_text(state).chars().take(16).collect()
    }
}

#[cfg(test)]
pub mod tests {
    use super::super::authorize::tests::CHALLENGE;
    use super::*;
    use crate::testing::keyring;

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
        let (form, binding) = ConsentForm::seal(request(), "browser", &keyring, now).unwrap();
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
        assert!(Login::open(&cookie, &keyring, now) == Some(login));
        assert!(Login::open(&cookie, &keyring, now + LIFETIME).is_none());
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
