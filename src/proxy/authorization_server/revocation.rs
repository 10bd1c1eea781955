use std::{net::IpAddr, sync::Arc};

use super::AuthorizationServer;
use crate::{
    crypto::now_seconds,
    oauth::{OAuthError, client_id_hash, refresh::RefreshToken},
    proxy::{
        observability::{audit, metrics::OAuthOutcome},
        secrets::Secrets,
    },
    reasons::SessionEnd,
    session::SessionId,
};

/// A revocation request of an authenticated client (RFC 7009 §2.1). The hint is not needed: neither kind of token can be
/// mistaken for the other.
pub struct RevocationRequest {
    pub client_id: String,
    pub token: Option<String>,
    /// What the client was authenticated with.
    pub secrets: Arc<Secrets>,
    pub client_ip: Option<IpAddr>,
}

impl AuthorizationServer {
    /// A client logs out: either of its tokens ends the session, and with it the other token.
    ///
    /// # Errors
    /// `invalid_request` without a token, `invalid_grant` for a token of another client, `temporarily_unavailable` if the
    /// store cannot be reached.
    pub async fn revoke(&self, request: RevocationRequest) -> Result<(), OAuthError> {
        let result = self.end_session_of(&request).await;
        self.metrics.revocations.count(OAuthOutcome::of(&result));
        if let Err(error) = &result {
            audit::revocation_refused(Some(&client_id_hash(&request.client_id)), error, request.client_ip);
        }
        result
    }

    /// Counts a revocation request whose client was not authenticated or whose body could not be read.
    pub fn revocation_rejected(&self, error: &OAuthError, from: Option<IpAddr>) {
        self.metrics.revocations.count(OAuthOutcome(Some(error.code)));
        audit::revocation_refused(None, error, from);
    }

    /// A token that is not, or no longer, one of ours counts as revoked (RFC 7009 §2.2).
    async fn end_session_of(&self, request: &RevocationRequest) -> Result<(), OAuthError> {
        let token = request.token.as_deref().ok_or_else(|| OAuthError::invalid_request("token is missing"))?;
        let Some(id) = self.session_of(&request.secrets, token) else { return Ok(()) };
        let Some(stored) = self.read(id).await? else { return Ok(()) };
        if stored.session.client.id_hash != client_id_hash(&request.client_id) {
            return Err(OAuthError::invalid_grant("the token was issued to another client"));
        }
        self.end(&stored, SessionEnd::LoggedOut, "its client has logged out", request.client_ip).await
    }

    /// The session of a refresh token of any generation, or of an access token that has not expired.
    fn session_of(&self, secrets: &Secrets, token: &str) -> Option<SessionId> {
        if let Some((id, _)) = RefreshToken::open(token, &secrets.keyring) {
            return Some(id);
        }
        let (issuer, now, mut room) = (self.public_url.as_str(), now_seconds(self.now()), Vec::new());
        let claims = secrets.signing.verify(token, issuer, now, &mut room).ok()?;
        claims.sid.parse().ok()
    }
}
