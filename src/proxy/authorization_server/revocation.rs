use std::net::IpAddr;

use super::{AuthenticatedClient, AuthorizationServer};
use crate::{
    crypto::now_seconds,
    end_reasons::SessionEndReason,
    oauth::{OAuthError, client_id_hash, refresh::RefreshToken},
    proxy::{
        observability::{audit, metrics::OAuthOutcome},
        secrets::Secrets,
    },
    session::SessionId,
};

impl AuthorizationServer {
    /// Ends the session of a refresh or access token, and so revokes both (RFC 7009). `token_type_hint` is not needed: the two
    /// kinds of tokens cannot be confused.
    pub async fn revoke(&self, client: AuthenticatedClient, token: Option<String>) -> Result<(), OAuthError> {
        let end_session = async {
            let token = token.ok_or_else(|| OAuthError::missing("token"))?;
            // An unknown or expired token counts as revoked (RFC 7009 §2.2).
            let Some(id) = self.session_of(&client.secrets, &token) else { return Ok(()) };
            let Some(stored) = self.read(id).await? else { return Ok(()) };
            if stored.session.client.id_hash != client_id_hash(&client.id) {
                return Err(OAuthError::invalid_grant("the token was issued to another client"));
            }
            self.end(&stored, SessionEndReason::LoggedOut, "the client logged out", client.ip).await
        };
        let result = end_session.await;
        self.metrics.revocations.count(OAuthOutcome::of(&result));
        if let Err(error) = &result {
            audit::revocation_refused(Some(&client_id_hash(&client.id)), error, client.ip);
        }
        result
    }

    /// Counts a revocation request whose client was not authenticated or whose body could not be read.
    pub fn revocation_rejected(&self, error: &OAuthError, client_ip: Option<IpAddr>) {
        self.metrics.revocations.count(OAuthOutcome(Some(error.code)));
        audit::revocation_refused(None, error, client_ip);
    }

    /// The session of a refresh token of any generation, or of an access token that has not expired.
    fn session_of(&self, secrets: &Secrets, token: &str) -> Option<SessionId> {
        if let Some((id, _)) = RefreshToken::open(token, &secrets.keyring) {
            return Some(id);
        }
        let (issuer, now, mut buffer) = (self.public_url.as_str(), now_seconds(self.now()), Vec::new());
        secrets.signing.verify(token, issuer, now, &mut buffer).ok()?.sid.parse().ok()
    }
}
