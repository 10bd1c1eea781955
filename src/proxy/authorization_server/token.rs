use std::{net::IpAddr, sync::Arc};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use jiff::Timestamp;

use super::AuthorizationServer;
use crate::{
    access::Verdict,
    crypto::random_bytes,
    oauth::{
        OAuthError, client_id_hash,
        code::{self, Activation, Code, Redemption},
        refresh::{self, Refresh, RefreshToken},
        tokens::{Mint, TokenResponse},
    },
    proxy::{
        observability::{
            audit,
            metrics::{Grant, OAuthOutcome},
        },
        secrets::Secrets,
        sessions::Stored,
    },
    reasons::SessionEnd,
    session::Session,
};

/// How often a refresh is decided again after another writer was first.
const ATTEMPTS: usize = 5;

/// A token request of an authenticated client (RFC 6749 §4.1.3 and §6, RFC 7636 §4.5, RFC 8707 §2.2).
pub struct TokenRequest {
    pub client_id: String,
    pub grant_type: Option<String>,
    pub code: Option<String>,
    pub redirect_uri: Option<String>,
    pub code_verifier: Option<String>,
    pub refresh_token: Option<String>,
    pub resource: Option<String>,
    /// What the client was authenticated with: the response is made with the same.
    pub secrets: Arc<Secrets>,
    pub client_ip: Option<IpAddr>,
}

impl TokenRequest {
    fn grant(&self) -> Grant {
        match self.grant_type.as_deref() {
            Some("authorization_code") => Grant::AuthorizationCode,
            Some("refresh_token") => Grant::RefreshToken,
            _ => Grant::Other,
        }
    }
}

/// A parameter that must be there.
fn required<'a>(name: &str, value: Option<&'a String>) -> Result<&'a str, OAuthError> {
    value.map(String::as_str).ok_or_else(|| OAuthError::invalid_request(format!("{name} is missing")))
}

impl AuthorizationServer {
    /// Redeems a code or a refresh token. Tokens are issued only against the store's current record, never from memory.
    ///
    /// # Errors
    /// With the codes of RFC 6749 §5.2; `temporarily_unavailable` if the store or the issuer cannot be reached.
    pub async fn token(&self, request: TokenRequest) -> Result<TokenResponse, OAuthError> {
        let grant = request.grant();
        let result = self.redeem(&request, grant).await;
        self.metrics.count_token_request(grant, OAuthOutcome::of(&result));
        if let Err(error) = &result {
            let token = request.refresh_token.as_deref();
            let session = token.and_then(|token| RefreshToken::open(token, &request.secrets.keyring));
            let (client, session) = (client_id_hash(&request.client_id), session.map(|(session, _)| session));
            audit::tokens_refused(grant, Some(&client), session, error, request.client_ip);
        }
        result
    }

    /// Counts a token request whose client was not authenticated or whose body could not be read.
    pub fn token_rejected(&self, error: &OAuthError, from: Option<IpAddr>) {
        self.metrics.count_token_request(Grant::Other, OAuthOutcome(Some(error.code)));
        audit::tokens_refused(Grant::Other, None, None, error, from);
    }

    async fn redeem(&self, request: &TokenRequest, grant: Grant) -> Result<TokenResponse, OAuthError> {
        let resource = request.resource.as_deref();
        let resource = resource.map(|resource| self.resources.resolve(Some(resource))).transpose()?;
        required("grant_type", request.grant_type.as_ref())?;
        match grant {
            Grant::AuthorizationCode => self.redeem_code(request, resource.as_deref()).await,
            Grant::RefreshToken => self.refresh(request, resource.as_deref()).await,
            Grant::Other => {
                Err(OAuthError::unsupported_grant_type("grant_type must be authorization_code or refresh_token"))
            }
        }
    }

    async fn redeem_code(&self, request: &TokenRequest, resource: Option<&str>) -> Result<TokenResponse, OAuthError> {
        let (secrets, client_id) = (&*request.secrets, request.client_id.as_str());
        let code = required("code", request.code.as_ref())?;
        let with = Redemption {
            client_id_hash: &client_id_hash(client_id),
            redirect_uri: request.redirect_uri.as_deref(),
            verifier: request.code_verifier.as_deref(),
            resource,
        };
        let now = self.now();
        let redeemed = Code::redeem(code, with, &secrets.keyring, now)?;
        let used = || OAuthError::invalid_grant("the code has been used");
        let stored = self.read(redeemed.session).await?.ok_or_else(used)?;
        self.check_rules(&stored, request.client_ip).await?;
        // Without refresh tokens the session has no use after the access token.
        let lifetime = if redeemed.refreshes { self.idle_ttl() } else { self.access_ttl() };
        match code::activate(&stored.session, now, lifetime, self.max_ttl()) {
            Activation::First(active) => {
                let response = self.issue(secrets, &active, client_id, redeemed.refreshes, now)?;
                if !self.replace(&stored, &active).await? {
                    return Err(used());
                }
                audit::tokens(&active, Grant::AuthorizationCode, request.client_ip);
                Ok(response)
            }
            Activation::Lost => Err(used()),
            Activation::Replay => {
                let detail = "its authorization code was used again";
                self.end(&stored, SessionEnd::Replay, detail, request.client_ip).await?;
                Err(used())
            }
        }
    }

    async fn refresh(&self, request: &TokenRequest, resource: Option<&str>) -> Result<TokenResponse, OAuthError> {
        let (secrets, client_id, from) = (&*request.secrets, request.client_id.as_str(), request.client_ip);
        let token = required("refresh_token", request.refresh_token.as_ref())?;
        let (id, generation) = RefreshToken::open(token, &secrets.keyring).ok_or_else(refresh::ended)?;
        for _ in 0..ATTEMPTS {
            let now = self.now();
            let stored = self.read(id).await?.ok_or_else(refresh::ended)?;
            let session = &stored.session;
            refresh::check(session, &client_id_hash(client_id), resource, now)?;
            self.check_rules(&stored, from).await?;
            let (grace, idle, max) = (self.refresh_grace(), self.idle_ttl(), self.max_ttl());
            let next = match refresh::decide(session, generation, now, grace, idle, max) {
                Refresh::Rotate(next) => *next,
                Refresh::Repeat if self.recheck_is_due(session, now) => session.clone(),
                Refresh::Repeat => {
                    let response = self.issue(secrets, session, client_id, true, now)?;
                    audit::tokens(session, Grant::RefreshToken, from);
                    return Ok(response);
                }
                Refresh::End(reason) => {
                    self.end(&stored, SessionEnd::Replay, reason, from).await?;
                    return Err(refresh::ended());
                }
            };
            // The tokens first: without randomness for them nothing is written.
            let response = self.issue(secrets, &next, client_id, true, now)?;
            if self.write_rechecked(secrets, stored, next.clone(), from).await? {
                audit::tokens(&next, Grant::RefreshToken, from);
                return Ok(response);
            }
            // Another replica, or another process of the client, was first: its record decides.
        }
        Err(OAuthError::temporarily_unavailable("too many refreshes at once: try again"))
    }

    /// Ends a session that the access rules no longer allow.
    async fn check_rules(&self, stored: &Stored, from: Option<IpAddr>) -> Result<(), OAuthError> {
        match self.rules.evaluate(&stored.session) {
            Verdict::Allow => Ok(()),
            Verdict::Withhold => {
                Err(OAuthError::temporarily_unavailable("the access rules are being changed: try again in a minute"))
            }
            Verdict::End(reason) => {
                self.end(stored, SessionEnd::Rules, &reason, from).await?;
                Err(refresh::ended())
            }
        }
    }

    fn issue(
        &self,
        secrets: &Secrets,
        session: &Session,
        client_id: &str,
        refreshes: bool,
        now: Timestamp,
    ) -> Result<TokenResponse, OAuthError> {
        let random = random_bytes::<16>()
            .ok_or_else(|| OAuthError::temporarily_unavailable("this server has no randomness to give"))?;
        let mint = Mint {
            signing: &secrets.signing,
            keyring: &secrets.keyring,
            issuer: self.public_url.as_str(),
            access_ttl: self.config.tokens.access_ttl.as_secs(),
        };
        mint.issue(session, client_id, refreshes, BASE64_URL_SAFE_NO_PAD.encode(random), now)
    }
}
