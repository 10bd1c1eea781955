//! OpenID Connect client of the issuer: discovery, login and recheck.

mod claims;
mod client;
mod discovery;
mod key;
mod recheck;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use jiff::Timestamp;
use openidconnect::{
    AccessToken, AuthorizationCode, ClaimsVerificationError, Client, ClientId, ClientSecret, ConfigurationError,
    CsrfToken, IssuerUrl, Nonce, NonceVerifier, OAuth2TokenResponse, PkceCodeChallenge, PkceCodeVerifier, RedirectUrl,
    RequestTokenError, Scope, SignatureVerificationError, StandardErrorResponse, SubjectIdentifier, UserInfoError,
    core::{CoreAuthenticationFlow, CoreErrorResponseType},
};
use secrecy::{ExposeSecret, SecretString};
use thiserror::Error;

use self::{
    claims::{ExtraClaims, OidcClaims, OidcClient, OidcIdToken, OidcProviderMetadata, OidcTokens, OidcUserInfo},
    client::IssuerClient,
    discovery::{Discovery, METADATA_VALID, REFETCH_AFTER},
};
pub use self::{client::http_client, recheck::RecheckError};
use crate::{
    access::{GOOGLE, UserClaims},
    api::PublicUrl,
    config::{ProxyConfig, RecheckStatus},
    error_chain::error_chain,
    http_client::{HttpClient, HttpError},
    oauth::{OFFLINE_ACCESS, login::Login},
    proxy::observability::metrics::{Counts, IssuerOutcome},
};

#[derive(Clone, Debug, Error)]
pub enum IssuerError {
    #[error("the identity provider is unavailable: {0}")]
    Unavailable(String),
    #[error("the identity provider rejects the proxy's client id or secret: {0}")]
    Misconfigured(String),
    /// The recheck is configured, but the issuer returned no refresh token.
    #[error(
        "identityProvider.recheckOnRefresh needs a refresh token, and the identity provider returned none: enable refresh tokens for this client, or add what the provider requires to scopes (offline_access) and authorizeParameters"
    )]
    NoRefreshToken,
    /// The issuer's response is invalid or an error.
    #[error("the identity provider's response was rejected: {0}")]
    Refused(String),
}

/// The proxy's client credentials at the issuer.
pub struct ClientCredentials<'a> {
    pub client_id: &'a str,
    pub client_secret: &'a SecretString,
}

/// The OpenID Connect issuer. Nothing is fetched before the first login.
#[derive(Debug)]
pub struct Issuer {
    url: IssuerUrl,
    scopes: Vec<Scope>,
    redirect: RedirectUrl,
    /// The groups claim, if the access rules contain groups.
    groups_claim: Option<String>,
    groups: Vec<String>,
    /// `recheckOnRefresh`.
    rechecks: bool,
    parameters: BTreeMap<String, String>,
    http: ArcSwap<IssuerClient>,
    discovery: Discovery,
    given: AtomicI64,
    missing: AtomicI64,
}

/// A user as the issuer describes them.
pub struct Identity {
    pub user: UserClaims,
    /// The issuer's refresh token. At a login `None` if rechecks are disabled, at a recheck if it was not rotated.
    pub refresh_token: Option<SecretString>,
}

impl Issuer {
    /// The redirect URI is `/callback` of `public_url`.
    pub fn new(config: &ProxyConfig, public_url: &PublicUrl, client: HttpClient) -> Result<Self, url::ParseError> {
        let groups = config.access.groups.clone();
        let config = &config.identity_provider;
        Ok(Self {
            url: IssuerUrl::new(config.issuer_url.to_string())?,
            // The library adds the scope openid.
            scopes: config.scopes.iter().filter(|scope| *scope != "openid").cloned().map(Scope::new).collect(),
            redirect: RedirectUrl::new(public_url.join("/callback"))?,
            groups_claim: config.groups_claim.clone().filter(|_| !groups.is_empty()),
            groups,
            rechecks: config.rechecks(),
            parameters: config.authorize_parameters.clone(),
            http: ArcSwap::from_pointee(IssuerClient { client, responses: Arc::default() }),
            discovery: Discovery::default(),
            given: AtomicI64::default(),
            missing: AtomicI64::default(),
        })
    }

    /// Replaces the HTTP client, for example when the trusted root certificates change. Its counters continue.
    pub fn set_http_client(&self, client: HttpClient) {
        self.http.store(Arc::new(IssuerClient { client, responses: self.response_counts() }));
    }

    pub fn response_counts(&self) -> Arc<Counts<IssuerOutcome>> {
        self.http.load().responses.clone()
    }

    /// When a login last returned a refresh token, and when one was last missing.
    pub fn recheck_status(&self) -> RecheckStatus {
        RecheckStatus { given: self.given.load(Ordering::Relaxed), missing: self.missing.load(Ordering::Relaxed) }
    }

    /// Returns the URL of the authorization request at the issuer.
    pub async fn login_url(&self, login: &Login, credentials: &ClientCredentials<'_>) -> Result<String, IssuerError> {
        let metadata = self.metadata(METADATA_VALID).await?;
        let client = self.client(&metadata, credentials);
        let verifier = PkceCodeVerifier::new(login.verifier.clone());
        let (state, nonce) = (login.state.clone(), login.nonce.clone());
        let mut request = client
            .authorize_url(CoreAuthenticationFlow::AuthorizationCode, || CsrfToken::new(state), || Nonce::new(nonce))
            .add_scopes(self.scopes.iter().cloned())
            .set_pkce_challenge(PkceCodeChallenge::from_code_verifier_sha256(&verifier));
        let mut parameters = self.parameters.clone();
        for &(name, value) in self.refresh_token_parameters(&metadata) {
            if name == "scope" {
                request = request.add_scope(Scope::new(value.to_owned()));
                continue;
            }
            let configured = parameters.entry(name.to_owned()).or_default();
            // A prompt is a list (OIDC Core §3.1.2.1), and the refresh token requires consent in it.
            if configured.is_empty() {
                value.clone_into(configured);
            } else if name == "prompt" && !configured.split(' ').any(|word| word == value) {
                *configured = format!("{configured} {value}");
            }
        }
        for (name, value) in parameters {
            request = request.add_extra_param(name, value);
        }
        Ok(request.url().0.into())
    }

    /// Parameters that make the issuer return a refresh token: Google has its own parameter and, like OpenID Connect (Core
    /// §11), requires consent each time; others use the scope `offline_access` or need nothing.
    fn refresh_token_parameters(&self, metadata: &OidcProviderMetadata) -> &[(&'static str, &'static str)] {
        let offered = || metadata.scopes_supported().is_some_and(|all| all.iter().any(|s| **s == OFFLINE_ACCESS));
        if self.rechecks && self.url.as_str() == GOOGLE {
            &[("access_type", "offline"), ("prompt", "consent")]
        } else if self.rechecks && offered() && !self.scopes.iter().any(|scope| **scope == OFFLINE_ACCESS) {
            &[("scope", OFFLINE_ACCESS), ("prompt", "consent")]
        } else {
            &[]
        }
    }

    /// Redeems the issuer's code and verifies the ID token (OIDC Core §3.1.3.7): signature, issuer, audience, times and
    /// the login's nonce.
    pub async fn redeem_code(
        &self,
        code: String,
        login: &Login,
        credentials: &ClientCredentials<'_>,
        now: Timestamp,
    ) -> Result<Identity, IssuerError> {
        let metadata = self.metadata(METADATA_VALID).await?;
        let client = self.client(&metadata, credentials);
        let response = client
            .exchange_code(AuthorizationCode::new(code))
            .map_err(IssuerError::from)?
            .set_pkce_verifier(PkceCodeVerifier::new(login.verifier.clone()))
            .request_async(&*self.http.load_full())
            .await
            .map_err(token_error)?;
        let id_token =
            response.extra_fields().id_token().ok_or_else(|| IssuerError::Refused("it has no ID token".to_owned()))?;
        let nonce = Nonce::new(login.nonce.clone());
        let claims = self.verify(id_token, &client, credentials, &nonce).await?;
        let mut groups = self.groups(claims.additional_claims());
        if self.groups_claim.is_some() && groups.is_none() {
            let userinfo = self.userinfo(&client, response.access_token(), claims.subject()).await?;
            groups = userinfo.and_then(|info| self.groups(info.additional_claims()));
        }
        let user = UserClaims {
            groups: groups.unwrap_or_default(),
            issuer: self.url.as_str().to_owned(),
            subject: claims.subject().as_str().to_owned(),
            email: claims.email().map(|email| email.as_str().to_owned()).unwrap_or_default(),
            email_verified: claims.email_verified().unwrap_or(false),
            hosted_domain: claims.additional_claims().hd.clone(),
        };
        Ok(Identity { user, refresh_token: self.refresh_token(&response, now)? })
    }

    /// The user's groups in the access rules; `None` without rules for groups or without the claim.
    fn groups(&self, claims: &ExtraClaims) -> Option<Vec<String>> {
        claims.groups(self.groups_claim.as_ref()?, &self.groups)
    }

    /// The refresh token of a login's token response, if rechecks are enabled.
    fn refresh_token(&self, response: &OidcTokens, now: Timestamp) -> Result<Option<SecretString>, IssuerError> {
        if !self.rechecks {
            return Ok(None);
        }
        let Some(token) = response.refresh_token() else {
            self.missing.store(now.as_second(), Ordering::Relaxed);
            return Err(IssuerError::NoRefreshToken);
        };
        self.given.store(now.as_second(), Ordering::Relaxed);
        Ok(Some(token.secret().clone().into()))
    }

    /// Verifies an ID token. If its key ID is unknown, the issuer's keys are fetched again, at most once per [`REFETCH_AFTER`].
    async fn verify<N: NonceVerifier + Copy>(
        &self,
        id_token: &OidcIdToken,
        client: &OidcClient,
        credentials: &ClientCredentials<'_>,
        nonce: N,
    ) -> Result<OidcClaims, IssuerError> {
        let mut claims = id_token.claims(&client.id_token_verifier(), nonce).cloned();
        if matches!(
            claims,
            Err(ClaimsVerificationError::SignatureVerification(SignatureVerificationError::NoMatchingKey))
        ) {
            let metadata = self.metadata(REFETCH_AFTER).await?;
            claims = id_token.claims(&self.client(&metadata, credentials).id_token_verifier(), nonce).cloned();
        }
        claims.map_err(|error| IssuerError::Refused(format!("its ID token is invalid: {error}")))
    }

    /// The userinfo response (OIDC Core §5.3); `None` if the issuer has no such endpoint.
    async fn userinfo(
        &self,
        client: &OidcClient,
        token: &AccessToken,
        subject: &SubjectIdentifier,
    ) -> Result<Option<OidcUserInfo>, IssuerError> {
        let Ok(request) = client.user_info(token.clone(), Some(subject.clone())) else { return Ok(None) };
        request.request_async(&*self.http.load_full()).await.map(Some).map_err(|error| match error {
            UserInfoError::Request(error) => IssuerError::Unavailable(error_chain(&error)),
            error => IssuerError::Refused(format!("its userinfo response is invalid: {}", error_chain(&error))),
        })
    }

    async fn metadata(&self, valid: Duration) -> Result<Arc<OidcProviderMetadata>, IssuerError> {
        self.discovery.metadata(&self.url, &self.http, valid).await
    }

    fn client(&self, metadata: &OidcProviderMetadata, credentials: &ClientCredentials<'_>) -> OidcClient {
        Client::from_provider_metadata(
            metadata.clone(),
            ClientId::new(credentials.client_id.to_owned()),
            Some(ClientSecret::new(credentials.client_secret.expose_secret().to_owned())),
        )
        .set_redirect_uri(self.redirect.clone())
    }
}

impl From<ConfigurationError> for IssuerError {
    fn from(error: ConfigurationError) -> Self {
        Self::Unavailable(format!("its metadata has no token endpoint: {error}"))
    }
}

/// Classifies an error of the token endpoint, at a login and at a refresh.
fn token_error(error: RequestTokenError<HttpError, StandardErrorResponse<CoreErrorResponseType>>) -> IssuerError {
    match error {
        RequestTokenError::ServerResponse(response) => match response.error() {
            code @ (CoreErrorResponseType::InvalidClient | CoreErrorResponseType::UnauthorizedClient) => {
                IssuerError::Misconfigured(code.as_ref().to_owned())
            }
            code => IssuerError::Refused(format!("its token endpoint refused the request: {}", code.as_ref())),
        },
        RequestTokenError::Request(error) => IssuerError::Unavailable(error_chain(&error)),
        _ => IssuerError::Unavailable("its token endpoint returned no token response".to_owned()),
    }
}
