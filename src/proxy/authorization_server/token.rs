use std::net::IpAddr;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use jiff::Timestamp;

use super::{AuthenticatedClient, AuthorizationServer};
use crate::{
    access::Verdict,
    crypto::random_bytes,
    end_reasons::SessionEndReason,
    oauth::{
        OAuthError, client_id_hash,
        code::{self, Activation, Code},
        refresh::{self, Refresh, RefreshToken},
        tokens::{TokenIssuer, TokenRequest, TokenResponse},
    },
    proxy::{
        observability::{
            audit,
            metrics::{Grant, OAuthOutcome},
        },
        secrets::Secrets,
        sessions::Stored,
    },
    session::Session,
};

/// Attempts at a refresh while other writers win the compare-and-swap.
const ATTEMPTS: usize = 5;

impl AuthorizationServer {
    /// Redeems a code or a refresh token. Tokens are issued only against the store's current record, never from memory.
    pub async fn token(
        &self,
        client: AuthenticatedClient,
        mut request: TokenRequest,
    ) -> Result<TokenResponse, OAuthError> {
        let grant = match request.grant_type.as_deref() {
            Some("authorization_code") => Grant::AuthorizationCode,
            Some("refresh_token") => Grant::RefreshToken,
            _ => Grant::Other,
        };
        let redeem = async {
            if let Some(resource) = &mut request.resource {
                *resource = self.resources.resolve(Some(resource.as_str()))?;
            }
            if request.grant_type.is_none() {
                return Err(OAuthError::missing("grant_type"));
            }
            match grant {
                Grant::AuthorizationCode => self.redeem_code(&client, &request).await,
                Grant::RefreshToken => self.refresh(&client, &request).await,
                Grant::Other => {
                    Err(OAuthError::unsupported_grant_type("grant_type must be authorization_code or refresh_token"))
                }
            }
        };
        let result = redeem.await;
        self.metrics.count_token_request(grant, OAuthOutcome::of(&result));
        if let Err(error) = &result {
            let token = request.refresh_token.as_deref();
            let session = token.and_then(|token| RefreshToken::open(token, &client.secrets.keyring));
            let (id_hash, session) = (client_id_hash(&client.id), session.map(|(session, _)| session));
            audit::tokens_refused(grant, Some(&id_hash), session, error, client.ip);
        }
        result
    }

    /// Counts a token request whose client was not authenticated or whose body could not be read.
    pub fn token_rejected(&self, error: &OAuthError, client_ip: Option<IpAddr>) {
        self.metrics.count_token_request(Grant::Other, OAuthOutcome(Some(error.code)));
        audit::tokens_refused(Grant::Other, None, None, error, client_ip);
    }

    async fn redeem_code(
        &self,
        client: &AuthenticatedClient,
        request: &TokenRequest,
    ) -> Result<TokenResponse, OAuthError> {
        let now = self.now();
        let redeemed = Code::redeem(request, &client_id_hash(&client.id), &client.secrets.keyring, now)?;
        let used = || OAuthError::invalid_grant("the code has been used");
        let stored = self.read(redeemed.session).await?.ok_or_else(used)?;
        self.check_rules(&stored, client.ip).await?;
        let (tokens, sessions) = (&self.config.tokens, &self.config.sessions);
        // Without refresh tokens the session has no use after the access token.
        let lifetime = if redeemed.refreshes { sessions.idle_ttl.signed() } else { tokens.access_ttl.signed() };
        match code::activate(&stored.session, now, lifetime, sessions.max_ttl.signed()) {
            Activation::First(active) => {
                let response = self.issue(client, &active, redeemed.refreshes, now)?;
                if !self.replace(&stored, &active).await? {
                    return Err(used());
                }
                audit::tokens(&active, Grant::AuthorizationCode, client.ip);
                Ok(response)
            }
            Activation::Lost => Err(used()),
            Activation::Replay => {
                let detail = "its authorization code was used again";
                self.end(&stored, SessionEndReason::Replay, detail, client.ip).await?;
                Err(used())
            }
        }
    }

    async fn refresh(&self, client: &AuthenticatedClient, request: &TokenRequest) -> Result<TokenResponse, OAuthError> {
        let token = request.refresh_token.as_deref().ok_or_else(|| OAuthError::missing("refresh_token"))?;
        let (id, generation) = RefreshToken::open(token, &client.secrets.keyring).ok_or_else(refresh::ended)?;
        let (idle, max) = (self.config.sessions.idle_ttl.signed(), self.config.sessions.max_ttl.signed());
        for _ in 0..ATTEMPTS {
            let now = self.now();
            let stored = self.read(id).await?.ok_or_else(refresh::ended)?;
            let session = &stored.session;
            refresh::check(session, &client_id_hash(&client.id), request.resource.as_deref(), now)?;
            self.check_rules(&stored, client.ip).await?;
            let next = match refresh::decide(session, generation, now, self.refresh_grace(), idle, max) {
                Refresh::Rotate(next) => *next,
                Refresh::Repeat if self.recheck_is_due(session, now) => session.clone(),
                Refresh::Repeat => {
                    let response = self.issue(client, session, true, now)?;
                    audit::tokens(session, Grant::RefreshToken, client.ip);
                    return Ok(response);
                }
                Refresh::End(reason) => {
                    self.end(&stored, SessionEndReason::Replay, reason, client.ip).await?;
                    return Err(refresh::ended());
                }
            };
            // Issued first: a failure must not consume the refresh token.
            let response = self.issue(client, &next, true, now)?;
            if self.write_rechecked(&client.secrets, stored, next.clone(), client.ip).await? {
                audit::tokens(&next, Grant::RefreshToken, client.ip);
                return Ok(response);
            }
            // Another replica or process of the client was first: retry with its record.
        }
        Err(OAuthError::temporarily_unavailable("too many refreshes at once: try again"))
    }

    async fn check_rules(&self, stored: &Stored, client_ip: Option<IpAddr>) -> Result<(), OAuthError> {
        match self.rules.evaluate(&stored.session) {
            Verdict::Allow => Ok(()),
            Verdict::Withhold => {
                Err(OAuthError::temporarily_unavailable("the access rules are being changed: try again in a minute"))
            }
            Verdict::End(reason) => {
                self.end(stored, SessionEndReason::Rules, &reason, client_ip).await?;
                Err(refresh::ended())
            }
        }
    }

    fn issue(
        &self,
        client: &AuthenticatedClient,
        session: &Session,
        refreshes: bool,
        now: Timestamp,
    ) -> Result<TokenResponse, OAuthError> {
        let jti = BASE64_URL_SAFE_NO_PAD.encode(random_bytes::<16>().ok_or_else(OAuthError::no_randomness)?);
        let Secrets { signing, keyring, .. } = &*client.secrets;
        let access_ttl = self.config.tokens.access_ttl.as_secs();
        TokenIssuer { signing, keyring, issuer: self.public_url.as_str(), access_ttl }
            .issue(session, &client.id, refreshes, jti, now)
    }
}
