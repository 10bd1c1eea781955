//! Checks with the issuer at each refresh that the user still exists (`identityProvider.recheckOnRefresh`).
//!
//! An issuer may rotate its refresh token at each use and treat an old one as stolen. So the first replica writes a short lease
//! into the session, and others wait for its result. The issuer's new token and our new generation are written together. If
//! the issuer is down, the lease is released, the client gets 503, and its refresh token stays valid.

use std::{net::IpAddr, time::Duration};

use jiff::{SignedDuration, Timestamp};
use secrecy::{ExposeSecret, SecretString};

use super::AuthorizationServer;
use crate::end_reasons::SessionEndReason;
use crate::{
    access::{UserClaims, check_email},
    api::SessionClaims,
    crypto::{Keyring, Purpose},
    oauth::{OAuthError, refresh},
    proxy::{
        identity_provider::{ClientCredentials, IssuerError, RecheckError},
        secrets::Secrets,
        sessions::Stored,
    },
    session::{Session, SessionId},
};

/// Longer than the deadlines of the issuer's token, userinfo and key requests and of the store together.
const LEASE: SignedDuration = SignedDuration::from_secs(60);

const LEASE_POLL_INTERVAL: Duration = Duration::from_millis(500);
const LEASE_POLLS: usize = 30;

/// Attempts at a write that contains the issuer's only valid refresh token.
const WRITE_ATTEMPTS: usize = 3;
const WRITE_RETRY_DELAY: Duration = Duration::from_secs(1);

/// Seals the issuer's refresh token for the record of the session `id` only.
pub(super) fn seal(id: SessionId, token: &SecretString, keyring: &Keyring) -> Result<String, OAuthError> {
    keyring
        .seal(Purpose::IssuerRefreshToken, &(id.to_string(), token.expose_secret()))
        .ok_or_else(OAuthError::no_randomness)
}

fn open(session: &Session, keyring: &Keyring) -> Option<SecretString> {
    let (id, token): (String, String) =
        keyring.open(Purpose::IssuerRefreshToken, session.issuer_refresh_token.as_deref()?)?;
    (id == session.id.to_string()).then(|| token.into())
}

fn unavailable(stored: &Stored, error: &IssuerError) -> OAuthError {
    tracing::error!(%error, session = %stored.session.id, "refresh postponed: the identity provider cannot be reached");
    OAuthError::temporarily_unavailable("the identity provider cannot be reached: try again")
}

impl AuthorizationServer {
    /// Whether a repeated response requires a recheck. Otherwise a user who was removed at the issuer could keep using an older
    /// refresh token.
    pub(super) fn recheck_is_due(&self, session: &Session, now: Timestamp) -> bool {
        self.config.identity_provider.rechecks() && now > session.rotated_at + self.refresh_grace()
    }

    /// Replaces `stored` by `next`, with `recheckOnRefresh` after the issuer has confirmed the user. `false` if another writer
    /// was first. The session has ended if the error is `invalid_grant`.
    pub(super) async fn write_rechecked(
        &self,
        secrets: &Secrets,
        stored: Stored,
        next: Session,
        client_ip: Option<IpAddr>,
    ) -> Result<bool, OAuthError> {
        if !self.config.identity_provider.rechecks() {
            return self.replace(&stored, &next).await;
        }
        let now = self.now();
        if stored.session.leased_until.is_some_and(|until| now < until) {
            return self.wait_for_lease(stored.session.id).await;
        }
        let Some(token) = open(&stored.session, &secrets.keyring) else {
            let why = "it cannot be rechecked at the identity provider: it was created before identityProvider.recheckOnRefresh was enabled";
            return self.end_rechecked(&stored, SessionEndReason::Issuer, why, client_ip).await;
        };
        self.issuer.prepare().await.map_err(|error| unavailable(&stored, &error))?;
        let leased = Session { leased_until: Some(now + LEASE), ..stored.session.clone() };
        if !self.replace(&stored, &leased).await? {
            return Ok(false);
        }
        // Read again to get its version, which the next write needs.
        let Some(stored) = self.read(leased.id).await?.filter(|stored| stored.session == leased) else {
            return Ok(false);
        };
        let credentials = ClientCredentials { client_id: &secrets.client_id, client_secret: &secrets.client_secret };
        let identity = match self.issuer.recheck(&token, UserClaims::of_session(&stored.session), &credentials).await {
            Ok(identity) => identity,
            Err(RecheckError::Gone) => {
                let why = "the identity provider no longer knows the login";
                return self.end_rechecked(&stored, SessionEndReason::Issuer, why, client_ip).await;
            }
            Err(RecheckError::Failed { error, refresh_token }) => {
                let token = refresh_token.unwrap_or(token);
                let issuer_refresh_token = Some(seal(stored.session.id, &token, &secrets.keyring)?);
                let released = Session { leased_until: None, issuer_refresh_token, ..stored.session.clone() };
                self.replace_with_retries(&stored, &released).await?;
                return Err(unavailable(&stored, &error));
            }
        };
        let user = identity.user;
        if check_email(&user.email).as_ref() != Ok(&stored.session.user.email) {
            let why = "the e-mail address of the account has changed at the identity provider";
            return self.end_rechecked(&stored, SessionEndReason::Issuer, why, client_ip).await;
        }
        if let Err(denied) = self.rules.check(&user) {
            let why = denied.reason();
            return self.end_rechecked(&stored, SessionEndReason::Rules, &why, client_ip).await;
        }
        let token = identity.refresh_token.unwrap_or(token);
        let issuer_refresh_token = Some(seal(next.id, &token, &secrets.keyring)?);
        let claims = SessionClaims {
            hosted_domain: user.hosted_domain,
            email_verified: user.email_verified,
            groups: user.groups,
        };
        let next = Session { issuer_refresh_token, claims, leased_until: None, ..next };
        self.replace_with_retries(&stored, &next).await
    }

    async fn replace_with_retries(&self, stored: &Stored, new: &Session) -> Result<bool, OAuthError> {
        for _ in 1..WRITE_ATTEMPTS {
            if let Ok(written) = self.replace(stored, new).await {
                return Ok(written);
            }
            tokio::time::sleep(WRITE_RETRY_DELAY).await;
        }
        self.replace(stored, new).await
    }

    /// Waits for the result of the lease holder. `Ok(false)`: the record is to be read again.
    async fn wait_for_lease(&self, id: SessionId) -> Result<bool, OAuthError> {
        for _ in 0..LEASE_POLLS {
            tokio::time::sleep(LEASE_POLL_INTERVAL).await;
            let leased = self.read(id).await?.and_then(|stored| stored.session.leased_until);
            if leased.is_none_or(|until| until <= self.now()) {
                return Ok(false);
            }
        }
        Err(OAuthError::temporarily_unavailable("the identity provider has not responded yet: try again"))
    }

    /// Ends the session if its record is unchanged. If the lease expired during the query, another replica may have queried the
    /// issuer since.
    async fn end_rechecked(
        &self,
        stored: &Stored,
        why: SessionEndReason,
        detail: &str,
        client_ip: Option<IpAddr>,
    ) -> Result<bool, OAuthError> {
        let current = self.read(stored.session.id).await?;
        if current.is_some_and(|current| current.version != stored.version) {
            return Ok(false);
        }
        self.end(stored, why, detail, client_ip).await?;
        Err(refresh::ended())
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use serde_json::Value;

    use super::*;
    use crate::{
        api::proxy::RecheckOnRefresh,
        testing::authorization_server::{Bed, REFRESHES, error},
    };

    /// A bed with an unreachable issuer.
    async fn bed() -> Bed {
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        Bed::with(&REFRESHES, |config| {
            config.identity_provider.recheck_on_refresh = RecheckOnRefresh::Enabled;
            config.identity_provider.issuer_url = format!("http://{closed}").parse().unwrap();
        })
        .await
    }

    async fn with_token(bed: &Bed, token: Option<&str>, leased_until: Option<Timestamp>) -> Value {
        let (_, tokens) = bed.redeem().await;
        let stored = bed.server.store.get(bed.session.id).await.unwrap().unwrap();
        let keyring = bed.server.secrets.load().keyring.clone();
        let issuer_refresh_token = token.map(|token| seal(bed.session.id, &token.into(), &keyring).unwrap());
        let session = Session { issuer_refresh_token, leased_until, ..stored.session.clone() };
        bed.server.store.replace(&stored, &session).await.unwrap();
        tokens["refresh_token"].clone()
    }

    #[tokio::test]
    async fn recheck_with_issuer_down_keeps_the_refresh_token() {
        let bed = bed().await;
        let refresh_token = with_token(&bed, Some("the issuer's"), None).await;
        let before = bed.stored().await.unwrap();
        let response = bed.refresh(&refresh_token).await;
        assert_eq!(error(&response), (503, "temporarily_unavailable"));
        assert_eq!(bed.stored().await.unwrap(), before, "nothing is written");
        assert!(!format!("{before:?} {response:?}").contains("the issuer's"));
    }

    #[tokio::test]
    async fn recheck_without_usable_issuer_refresh_token_ends_the_session() {
        for token in [None, Some("of another session")] {
            let bed = bed().await;
            let refresh_token = with_token(&bed, None, None).await;
            if let Some(token) = token {
                let keyring = bed.server.secrets.load().keyring.clone();
                let other = SessionId::of_nonce(&keyring, "another");
                let stored = bed.server.store.get(bed.session.id).await.unwrap().unwrap();
                let issuer_refresh_token = Some(seal(other, &token.into(), &keyring).unwrap());
                let moved = Session { issuer_refresh_token, ..stored.session.clone() };
                bed.server.store.replace(&stored, &moved).await.unwrap();
            }
            assert_eq!(error(&bed.refresh(&refresh_token).await), (400, "invalid_grant"));
            assert!(bed.stored().await.is_none());
        }
    }

    #[tokio::test]
    async fn abandoned_recheck_lease_expires() {
        let bed = bed().await;
        let now = bed.server.now();
        let refresh_token = with_token(&bed, Some("the issuer's"), Some(now + LEASE)).await;
        bed.wait(LEASE);
        // The unreachable issuer is queried at once: the lease has expired.
        assert_eq!(error(&bed.refresh(&refresh_token).await), (503, "temporarily_unavailable"));
        assert_eq!(bed.stored().await.unwrap().generation, 1);
    }

    #[tokio::test]
    async fn repeated_refresh_after_grace_is_rechecked() {
        let bed = bed().await;
        let refresh_token = with_token(&bed, Some("the issuer's"), None).await;
        let stored = bed.server.store.get(bed.session.id).await.unwrap().unwrap();
        // As after a rechecked refresh whose response was lost.
        let rotated = Session { generation: stored.session.generation + 1, ..stored.session.clone() };
        bed.server.store.replace(&stored, &rotated).await.unwrap();
        assert_eq!(bed.refresh(&refresh_token).await.0, 200);
        bed.wait(bed.server.refresh_grace() + SignedDuration::from_secs(1));
        assert_eq!(error(&bed.refresh(&refresh_token).await), (503, "temporarily_unavailable"));
    }
}
