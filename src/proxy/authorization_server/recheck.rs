//! Asks the issuer at a refresh whether the person is still there (`identityProvider.recheckOnRefresh`).
//!
//! Issuers may change their refresh token at each use, and take an old one for stolen. So whoever asks first writes a short
//! lease into the session; the others wait for what comes of it. The issuer's new token and our new generation are written
//! together. If the issuer is down, nothing is lost: the lease is given back, and the client is told to come again.

use std::{net::IpAddr, time::Duration};

use jiff::{SignedDuration, Timestamp};
use secrecy::{ExposeSecret, SecretString};

use super::AuthorizationServer;
use crate::reasons::SessionEnd;
use crate::{
    access::{Person, check_email},
    api::SessionClaims,
    crypto::{Keyring, Purpose},
    oauth::{OAuthError, refresh},
    proxy::{
        identity_provider::{Credentials, LoginError, RecheckError},
        secrets::Secrets,
        sessions::Stored,
    },
    session::{Session, SessionId},
};

/// How long a lease lasts that is not given back: longer than the issuer may take for tokens, userinfo and keys, and the store
/// for what comes of it.
const LEASE: SignedDuration = SignedDuration::from_secs(60);

/// How often, and how long, whoever finds a lease looks again before the client is told to come back.
const LOOK: Duration = Duration::from_millis(500);
const LOOKS: usize = 30;

/// How often a write is tried that must not be lost: with it goes the issuer's only good token.
const WRITES: usize = 3;
const WRITE_AGAIN: Duration = Duration::from_secs(1);

/// The issuer's refresh token as a session's record holds it. It cannot be opened as that of another session.
pub(super) fn seal(id: SessionId, token: &SecretString, keyring: &Keyring) -> Result<String, OAuthError> {
    keyring
        .seal(Purpose::UpstreamToken, &(id.to_string(), token.expose_secret()))
        .ok_or_else(|| OAuthError::temporarily_unavailable("this server has no randomness to give"))
}

fn open(session: &Session, keyring: &Keyring) -> Option<SecretString> {
    let (id, token): (String, String) = keyring.open(Purpose::UpstreamToken, session.upstream_token.as_deref()?)?;
    (id == session.id.to_string()).then(|| token.into())
}

fn cannot_ask(stored: &Stored, error: &LoginError) -> OAuthError {
    tracing::error!(%error, session = %stored.session.id, "refresh refused for now: the identity provider cannot be reached");
    OAuthError::temporarily_unavailable("the identity provider cannot be reached: try again")
}

impl AuthorizationServer {
    /// Whether a repeated response needs the issuer's word too. Without it, somebody who has been locked out at the issuer
    /// could live on an older refresh token for as long as the newest is not used.
    pub(super) fn recheck_is_due(&self, session: &Session, now: Timestamp) -> bool {
        self.config.identity_provider.rechecks() && now > session.rotated_at + self.refresh_grace()
    }

    /// Writes `next` over `stored`, after the issuer has confirmed the person if the configuration demands that. `false` if
    /// another writer was first: its record decides.
    ///
    /// # Errors
    /// `invalid_grant` when the person is gone or no longer allowed; the session has ended then.
    /// `temporarily_unavailable` when the issuer does not respond or the store cannot be reached.
    pub(super) async fn write_rechecked(
        &self,
        secrets: &Secrets,
        stored: Stored,
        next: Session,
        from: Option<IpAddr>,
    ) -> Result<bool, OAuthError> {
        if !self.config.identity_provider.rechecks() {
            return self.replace(&stored, &next).await;
        }
        let now = self.now();
        if stored.session.leased_until.is_some_and(|until| now < until) {
            return self.wait_for_lease(stored.session.id).await;
        }
        let Some(token) = open(&stored.session, &secrets.keyring) else {
            let why =
                "the identity provider cannot be asked about it: it was begun before identityProvider.recheckOnRefresh";
            return self.end_rechecked(&stored, SessionEnd::Issuer, why, from).await;
        };
        self.issuer.prepare().await.map_err(|error| cannot_ask(&stored, &error))?;
        let leased = Session { leased_until: Some(now + LEASE), ..stored.session.clone() };
        if !self.replace(&stored, &leased).await? {
            return Ok(false);
        }
        // Its version, for the next write.
        let Some(stored) = self.read(leased.id).await?.filter(|stored| stored.session == leased) else {
            return Ok(false);
        };
        let credentials = Credentials { client_id: &secrets.client_id, client_secret: &secrets.client_secret };
        let rechecked = match self.issuer.recheck(&token, Person::of_session(&stored.session), &credentials).await {
            Ok(rechecked) => rechecked,
            Err(RecheckError::Gone) => {
                let why = "the identity provider no longer knows the login";
                return self.end_rechecked(&stored, SessionEnd::Issuer, why, from).await;
            }
            Err(RecheckError::Failed { error, refresh_token }) => {
                let token = refresh_token.unwrap_or(token);
                let upstream_token = Some(seal(stored.session.id, &token, &secrets.keyring)?);
                let given_back = Session { leased_until: None, upstream_token, ..stored.session.clone() };
                self.insist(&stored, &given_back).await?;
                return Err(cannot_ask(&stored, &error));
            }
        };
        let person = rechecked.person;
        if check_email(&person.email).as_ref() != Ok(&stored.session.user.email) {
            let why = "the account has another address at the identity provider now";
            return self.end_rechecked(&stored, SessionEnd::Issuer, why, from).await;
        }
        if let Err(denied) = self.check_access(&person) {
            let why = format!("the access rules do not let this person in: {denied}");
            return self.end_rechecked(&stored, SessionEnd::Rules, &why, from).await;
        }
        let token = rechecked.refresh_token.unwrap_or(token);
        let upstream_token = Some(seal(next.id, &token, &secrets.keyring)?);
        let claims = SessionClaims {
            hosted_domain: person.hosted_domain,
            email_verified: person.email_verified,
            groups: person.groups,
        };
        let next = Session { upstream_token, claims, leased_until: None, ..next };
        self.insist(&stored, &next).await
    }

    /// Writes what must survive a short failure of the store. `false` if another writer was first.
    async fn insist(&self, stored: &Stored, new: &Session) -> Result<bool, OAuthError> {
        let mut tried = 1;
        loop {
            match self.replace(stored, new).await {
                Err(_) if tried < WRITES => {
                    tried += 1;
                    tokio::time::sleep(WRITE_AGAIN).await;
                }
                written => return written,
            }
        }
    }

    /// Waits until the holder of the lease has written the result.
    async fn wait_for_lease(&self, id: SessionId) -> Result<bool, OAuthError> {
        for _ in 0..LOOKS {
            tokio::time::sleep(LOOK).await;
            let leased = self.read(id).await?.and_then(|stored| stored.session.leased_until);
            if leased.is_none_or(|until| until <= self.now()) {
                return Ok(false);
            }
        }
        Err(OAuthError::temporarily_unavailable("the identity provider has not responded yet: try again"))
    }

    /// Ends the session if its record is still the one that the issuer was queried about: a holder that was slower than its
    /// lease may find that another one has queried the issuer since.
    async fn end_rechecked(
        &self,
        stored: &Stored,
        why: SessionEnd,
        detail: &str,
        from: Option<IpAddr>,
    ) -> Result<bool, OAuthError> {
        let current = self.read(stored.session.id).await?;
        if current.is_some_and(|current| current.version != stored.version) {
            return Ok(false);
        }
        self.end(stored, why, detail, from).await?;
        Err(refresh::ended())
    }
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, sync::Arc};

    use serde_json::Value;

    use super::super::http::testing::{Bed, REFRESHES, error};
    use super::*;
    use crate::{api::proxy::RecheckOnRefresh, http_client::HttpClient, proxy::identity_provider::Issuer};

    /// A bed whose proxy asks an issuer that nobody runs.
    async fn bed() -> Bed {
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        Bed::with(&REFRESHES, |proxy| {
            proxy.config.identity_provider.recheck_on_refresh = RecheckOnRefresh::Enabled;
            proxy.config.identity_provider.issuer_url = format!("http://{closed}").parse().unwrap();
            let http = HttpClient::new(proxy.config.identity_provider.issuer_url.is_https(), None).unwrap();
            proxy.issuer = Arc::new(Issuer::new(&proxy.config, &proxy.public_url, http).unwrap());
        })
        .await
    }

    async fn with_token(bed: &Bed, token: Option<&str>, leased_until: Option<Timestamp>) -> Value {
        let (_, tokens) = bed.redeem().await;
        let stored = bed.proxy.store.get(bed.session.id).await.unwrap().unwrap();
        let keyring = bed.proxy.secrets.load().keyring.clone();
        let upstream_token = token.map(|token| seal(bed.session.id, &token.into(), &keyring).unwrap());
        let session = Session { upstream_token, leased_until, ..stored.session.clone() };
        bed.proxy.store.replace(&stored, &session).await.unwrap();
        tokens["refresh_token"].clone()
    }

    #[tokio::test]
    async fn recheck_with_issuer_down_keeps_the_refresh_token() {
        let bed = bed().await;
        let refresh_token = with_token(&bed, Some("the issuer's"), None).await;
        let before = bed.stored().await.unwrap();
        let answer = bed.refresh(&refresh_token).await;
        assert_eq!(error(&answer), (503, "temporarily_unavailable"));
        assert_eq!(bed.stored().await.unwrap(), before, "nothing is written");
        assert!(!format!("{before:?} {answer:?}").contains("the issuer's"));
    }

    #[tokio::test]
    async fn recheck_without_usable_upstream_token_ends_the_session() {
        for token in [None, Some("of another session")] {
            let bed = bed().await;
            let refresh_token = with_token(&bed, None, None).await;
            if let Some(token) = token {
                let keyring = bed.proxy.secrets.load().keyring.clone();
                let other = SessionId::of_nonce(&keyring, "another");
                let stored = bed.proxy.store.get(bed.session.id).await.unwrap().unwrap();
                let upstream_token = Some(seal(other, &token.into(), &keyring).unwrap());
                let moved = Session { upstream_token, ..stored.session.clone() };
                bed.proxy.store.replace(&stored, &moved).await.unwrap();
            }
            assert_eq!(error(&bed.refresh(&refresh_token).await), (400, "invalid_grant"));
            assert!(bed.stored().await.is_none());
        }
    }

    #[tokio::test]
    async fn abandoned_recheck_lease_expires() {
        let bed = bed().await;
        let now = bed.proxy.now();
        let refresh_token = with_token(&bed, Some("the issuer's"), Some(now + LEASE)).await;
        bed.wait(LEASE);
        // It is asked again, and not found: the lease did not hold us up.
        assert_eq!(error(&bed.refresh(&refresh_token).await), (503, "temporarily_unavailable"));
        assert_eq!(bed.stored().await.unwrap().rotation, 1);
    }

    #[tokio::test]
    async fn repeated_refresh_after_grace_is_rechecked() {
        let bed = bed().await;
        let refresh_token = with_token(&bed, Some("the issuer's"), None).await;
        let stored = bed.proxy.store.get(bed.session.id).await.unwrap().unwrap();
        // As if it had been refreshed with the issuer's word a moment ago, and the answer been lost.
        let rotated = Session { rotation: stored.session.rotation + 1, ..stored.session.clone() };
        bed.proxy.store.replace(&stored, &rotated).await.unwrap();
        assert_eq!(bed.refresh(&refresh_token).await.0, 200);
        bed.wait(bed.server.refresh_grace() + SignedDuration::from_secs(1));
        assert_eq!(error(&bed.refresh(&refresh_token).await), (503, "temporarily_unavailable"));
    }
}
