//! Token requests and responses.

use jiff::Timestamp;
use serde::Serialize;

use super::{OAuthError, refresh::RefreshToken};
use crate::{
    crypto::{AccessClaims, Keyring, SigningRing, now_seconds},
    session::Session,
};

/// The parameters of a token request (RFC 6749 §4.1.3 and §6, RFC 7636 §4.5, RFC 8707 §2.2).
#[derive(Default)]
pub struct TokenRequest {
    pub grant_type: Option<String>,
    pub code: Option<String>,
    pub redirect_uri: Option<String>,
    pub code_verifier: Option<String>,
    pub refresh_token: Option<String>,
    pub resource: Option<String>,
}

/// The response to a token request (RFC 6749 §5.1).
#[derive(Serialize)]
pub struct TokenResponse {
    pub access_token: String,
    /// `Bearer` (RFC 6750).
    pub token_type: &'static str,
    /// Lifetime of the access token in seconds.
    pub expires_in: u64,
    pub scope: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refresh_token: Option<String>,
}

pub struct TokenIssuer<'a> {
    pub signing: &'a SigningRing,
    pub keyring: &'a Keyring,
    /// Public URL of this server, the `iss` claim.
    pub issuer: &'a str,
    pub access_ttl: u64,
}

impl TokenIssuer<'_> {
    /// Builds the token response for a session before the session is stored. A code or refresh token is thus consumed
    /// only if its response exists. `jti` distinguishes tokens issued in the same second.
    pub fn issue(
        &self,
        session: &Session,
        client_id: &str,
        refreshes: bool,
        jti: String,
        now: Timestamp,
    ) -> Result<TokenResponse, OAuthError> {
        let unavailable = || OAuthError::temporarily_unavailable("no token can be signed: try again");
        let issued = now_seconds(now);
        // A token is refused after its session ends, so it must not claim a later expiry.
        let expires = (issued + self.access_ttl).min(now_seconds(session.expires_at));
        let scope = session.scopes.join(" ");
        let claims = AccessClaims {
            iss: self.issuer.into(),
            sub: session.user.subject.as_str().into(),
            aud: session.resource.as_str().into(),
            exp: expires,
            iat: issued,
            jti: jti.into(),
            client_id: client_id.into(),
            sid: session.id.to_string().into(),
            scope: scope.as_str().into(),
        };
        let access_token = self.signing.sign(&claims, now).map_err(|error| {
            tracing::error!(%error, "signing an access token failed");
            unavailable()
        })?;
        let refresh_token = match refreshes {
            true => Some(RefreshToken::current(session, self.keyring).ok_or_else(unavailable)?),
            false => None,
        };
        let expires_in = expires.saturating_sub(issued);
        Ok(TokenResponse { access_token, token_type: "Bearer", expires_in, scope, refresh_token })
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;
    use crate::testing::{keyring, ring, session};

    #[test]
    fn access_token_never_outlives_its_session() {
        let (signing, keyring) = (ring(), keyring());
        let issuer = "https://mcp.example.com";
        let tokens = TokenIssuer { signing: &signing, keyring: &keyring, issuer, access_ttl: 3600 };
        let session = session("a");
        let at = |now| tokens.issue(&session, "client", true, "jti".to_owned(), now).unwrap();
        let minute_before = session.expires_at - SignedDuration::from_mins(1);
        assert_eq!(at(minute_before).expires_in, 60);
        let response = at(session.expires_at - SignedDuration::from_hours(2));
        assert_eq!((response.expires_in, &*response.scope), (3600, "mcp"));
        assert_eq!(RefreshToken::open(&response.refresh_token.unwrap(), &keyring), Some((session.id, 0)));
        let (token, mut buffer) = (&response.access_token, Vec::new());
        let claims = signing.verify(token, issuer, now_seconds(minute_before) - 6000, &mut buffer).unwrap();
        assert_eq!((&*claims.sid, &*claims.aud), (&*session.id.to_string(), &*session.resource));
    }

    #[test]
    fn client_without_refresh_grant_gets_no_refresh_token() {
        let (signing, keyring) = (ring(), keyring());
        let tokens =
            TokenIssuer { signing: &signing, keyring: &keyring, issuer: "https://mcp.example.com", access_ttl: 3600 };
        let session = session("a");
        let response = tokens.issue(&session, "client", false, "jti".to_owned(), session.created_at).unwrap();
        assert_eq!(response.refresh_token, None);
    }
}
