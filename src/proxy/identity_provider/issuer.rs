mod claims;
mod client;
mod key;
#[cfg(test)]
mod lying;
mod recheck;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use jiff::Timestamp;
use openidconnect::{
    AccessToken, AuthorizationCode, ClaimsVerificationError, Client, ClientId, ClientSecret, CsrfToken, IssuerUrl,
    Nonce, NonceVerifier, OAuth2TokenResponse, PkceCodeChallenge, PkceCodeVerifier, RedirectUrl, RequestTokenError,
    Scope, SignatureVerificationError, StandardErrorResponse, SubjectIdentifier, UserInfoError,
    core::{CoreAuthenticationFlow, CoreErrorResponseType},
};
use secrecy::{ExposeSecret, SecretString};
use thiserror::Error;
use tokio::sync::Mutex;

use self::claims::{OidcClaims, OidcClient, OidcIdToken, OidcProviderMetadata, OidcTokens, OidcUserInfo};
use self::client::IssuerClient;
pub use self::recheck::RecheckError;
use crate::{
    access::{GOOGLE, Person},
    http_client::{HttpClient, HttpError},
};
use crate::{
    api::PublicUrl,
    config::{ProxyConfig, RecheckStatus},
    oauth::{OFFLINE_ACCESS, login::Login},
    proxy::observability::metrics::{Counts, IssuerAnswer},
};

/// How long a discovery document and its keys are used before they are fetched again.
const METADATA_VALID: Duration = Duration::from_secs(3600);

/// How soon they may be fetched again because a key is unknown: the issuer has rotated, or somebody makes us ask.
const REFETCH_AFTER: Duration = Duration::from_secs(10);

/// How long a failure to fetch them is answered without another try: who logs in meanwhile does not queue.
const FAILURE_VALID: Duration = Duration::from_secs(5);

/// Why a login at the issuer came to nothing.
#[derive(Clone, Debug, Error)]
pub enum LoginError {
    /// The issuer cannot be reached or does not speak OpenID Connect: a matter of time, or of configuration.
    #[error("the identity provider cannot be used: {0}")]
    Unavailable(String),
    /// It does not accept us as its client: a matter of configuration.
    #[error("the identity provider does not accept the client id and secret that this proxy has for it: {0}")]
    Misconfigured(String),
    /// The configuration wants the issuer asked at each refresh, and it gives us nothing to ask with: a matter of
    /// configuration.
    #[error(
        "identityProvider.recheckOnRefresh needs a refresh token, and the identity provider gave none: let it give this client refresh tokens, or add what it wants to see to scopes (offline_access) and authorizeParameters"
    )]
    NoRefreshToken,
    /// It answered, and the answer is not good.
    #[error("the identity provider's answer was refused: {0}")]
    Refused(String),
}

/// The client id and secret that the issuer gave us.
pub struct Credentials<'a> {
    /// Public.
    pub client_id: &'a str,
    /// Secret.
    pub client_secret: &'a SecretString,
}

/// The issuer that people log in at. Nothing is fetched before the first login.
#[derive(Debug)]
pub struct Issuer {
    url: IssuerUrl,
    scopes: Vec<Scope>,
    redirect: RedirectUrl,
    groups_claim: Option<String>,
    /// The groups that the access rules ask for.
    groups: Vec<String>,
    /// The issuer is asked at refreshes.
    rechecks: bool,
    parameters: BTreeMap<String, String>,
    http: ArcSwap<IssuerClient>,
    metadata: Mutex<Known>,
    given: AtomicI64,
    missing: AtomicI64,
}

/// Who has logged in.
pub struct LoggedIn {
    /// The person.
    pub person: Person,
    /// With what the issuer is asked later whether the person is still there; only if the configuration wants that.
    pub refresh_token: Option<SecretString>,
}

/// What is known of the issuer.
#[derive(Debug, Default)]
struct Known {
    metadata: Option<(Instant, Arc<OidcProviderMetadata>)>,
    failure: Option<(Instant, LoginError)>,
}

impl Issuer {
    /// The issuer of a configuration; people come back to `/callback` of `public_url`.
    ///
    /// # Errors
    /// When an address is not one.
    pub fn new(config: &ProxyConfig, public_url: &PublicUrl, http: HttpClient) -> Result<Self, url::ParseError> {
        let groups = config.access.groups.clone();
        let config = &config.identity_provider;
        Ok(Self {
            groups,
            url: IssuerUrl::new(config.issuer_url.clone())?,
            // openid is asked for by the library itself.
            scopes: config.scopes.iter().filter(|scope| *scope != "openid").cloned().map(Scope::new).collect(),
            redirect: RedirectUrl::new(public_url.join("/callback"))?,
            groups_claim: config.groups_claim.clone(),
            rechecks: config.rechecks(),
            parameters: config.authorize_parameters.clone(),
            http: ArcSwap::from_pointee(IssuerClient::new(http, Arc::default())),
            metadata: Mutex::default(),
            given: AtomicI64::default(),
            missing: AtomicI64::default(),
        })
    }

    /// Goes on with another client, which trusts other roots.
    pub fn use_client(&self, http: HttpClient) {
        self.http.store(Arc::new(IssuerClient::new(http, self.asked())));
    }

    /// What it has answered.
    pub fn asked(&self) -> Arc<Counts<IssuerAnswer>> {
        self.http.load().responses()
    }

    /// Whether it gives refresh tokens, as far as logins have shown.
    pub fn recheck_status(&self) -> RecheckStatus {
        RecheckStatus { given: self.given.load(Ordering::Relaxed), missing: self.missing.load(Ordering::Relaxed) }
    }

    /// Where the browser goes to log in for `login`.
    ///
    /// # Errors
    /// [`LoginError::Unavailable`] when the issuer's metadata cannot be had.
    pub async fn login_url(&self, login: &Login, credentials: &Credentials<'_>) -> Result<String, LoginError> {
        let metadata = self.metadata(METADATA_VALID).await?;
        let client = self.client(&metadata, credentials);
        let verifier = PkceCodeVerifier::new(login.verifier.clone());
        let (state, nonce) = (login.state.clone(), login.nonce.clone());
        let mut request = client
            .authorize_url(CoreAuthenticationFlow::AuthorizationCode, || CsrfToken::new(state), || Nonce::new(nonce))
            .add_scopes(self.scopes.iter().cloned())
            .set_pkce_challenge(PkceCodeChallenge::from_code_verifier_sha256(&verifier));
        let mut parameters = self.parameters.clone();
        for (name, value) in self.for_a_refresh_token(&metadata) {
            match name {
                "scope" => request = request.add_scope(Scope::new(value.to_owned())),
                name => {
                    let configured = parameters.entry(name.to_owned()).or_default();
                    // A prompt is a list (OIDC Core §3.1.2.1), and consent is what the token depends on.
                    if configured.is_empty() {
                        value.clone_into(configured);
                    } else if name == "prompt" && !configured.split(' ').any(|word| word == value) {
                        *configured = format!("{configured} {value}");
                    }
                }
            }
        }
        for (name, value) in parameters {
            request = request.add_extra_param(name, value);
        }
        Ok(request.url().0.into())
    }

    /// What the issuer has to be sent so that it gives a refresh token: Google has a parameter of its own and, like OpenID
    /// Connect (Core §11), wants consent each time; others have a scope, or need nothing.
    fn for_a_refresh_token(&self, metadata: &OidcProviderMetadata) -> Vec<(&'static str, &'static str)> {
        let offered = || metadata.scopes_supported().is_some_and(|all| all.iter().any(|s| **s == OFFLINE_ACCESS));
        if !self.rechecks {
            Vec::new()
        } else if self.url.as_str() == GOOGLE {
            vec![("access_type", "offline"), ("prompt", "consent")]
        } else if offered() && !self.scopes.iter().any(|scope| **scope == OFFLINE_ACCESS) {
            vec![("scope", OFFLINE_ACCESS), ("prompt", "consent")]
        } else {
            Vec::new()
        }
    }

    /// Redeems the issuer's code and verifies the ID token (OIDC Core §3.1.3.7): signature, issuer, audience, times and
    /// the login's nonce.
    ///
    /// # Errors
    /// Which side is at fault.
    pub async fn finish(
        &self,
        code: String,
        login: &Login,
        credentials: &Credentials<'_>,
        now: Timestamp,
    ) -> Result<LoggedIn, LoginError> {
        let metadata = self.metadata(METADATA_VALID).await?;
        let client = self.client(&metadata, credentials);
        let answer = client
            .exchange_code(AuthorizationCode::new(code))
            .map_err(|error| LoginError::Unavailable(format!("its metadata names no token endpoint: {error}")))?
            .set_pkce_verifier(PkceCodeVerifier::new(login.verifier.clone()))
            .request_async(&*self.http.load_full())
            .await
            .map_err(refused)?;
        let id_token = answer
            .extra_fields()
            .id_token()
            .ok_or_else(|| LoginError::Refused("there is no ID token in it".to_owned()))?;
        let nonce = Nonce::new(login.nonce.clone());
        let claims = self.verify(id_token, &client, credentials, &nonce).await?;
        let groups = match self.groups_claim.as_ref().filter(|_| !self.groups.is_empty()) {
            None => Vec::new(),
            Some(claim) => match claims.additional_claims().groups(claim, &self.groups) {
                Some(groups) => groups,
                None => {
                    let userinfo = self.userinfo(&client, answer.access_token(), claims.subject()).await?;
                    let groups = userinfo.and_then(|info| info.additional_claims().groups(claim, &self.groups));
                    groups.unwrap_or_default()
                }
            },
        };
        let person = Person {
            groups,
            issuer: self.url.as_str().to_owned(),
            subject: claims.subject().as_str().to_owned(),
            email: claims.email().map(|email| email.as_str().to_owned()).unwrap_or_default(),
            email_verified: claims.email_verified().unwrap_or(false),
            hosted_domain: claims.additional_claims().hd.clone(),
        };
        Ok(LoggedIn { person, refresh_token: self.refresh_token(&answer, now)? })
    }

    /// The refresh token of a login's answer, if the configuration wants one.
    fn refresh_token(&self, answer: &OidcTokens, now: Timestamp) -> Result<Option<SecretString>, LoginError> {
        if !self.rechecks {
            return Ok(None);
        }
        let Some(token) = answer.refresh_token() else {
            self.missing.store(now.as_second(), Ordering::Relaxed);
            return Err(LoginError::NoRefreshToken);
        };
        self.given.store(now.as_second(), Ordering::Relaxed);
        Ok(Some(token.secret().clone().into()))
    }

    /// Verifies an ID token; when it is signed with a key that is not known yet, with the issuer's keys of now.
    async fn verify<N: NonceVerifier + Copy>(
        &self,
        id_token: &OidcIdToken,
        client: &OidcClient,
        credentials: &Credentials<'_>,
        nonce: N,
    ) -> Result<OidcClaims, LoginError> {
        let mut claims = id_token.claims(&client.id_token_verifier(), nonce).cloned();
        if matches!(
            claims,
            Err(ClaimsVerificationError::SignatureVerification(SignatureVerificationError::NoMatchingKey))
        ) {
            let metadata = self.metadata(REFETCH_AFTER).await?;
            claims = id_token.claims(&self.client(&metadata, credentials).id_token_verifier(), nonce).cloned();
        }
        claims.map_err(|error| LoginError::Refused(format!("its ID token is not good: {error}")))
    }

    /// What the userinfo endpoint says (OIDC Core §5.3); `None` if there is none.
    async fn userinfo(
        &self,
        client: &OidcClient,
        token: &AccessToken,
        subject: &SubjectIdentifier,
    ) -> Result<Option<OidcUserInfo>, LoginError> {
        let Ok(request) = client.user_info(token.clone(), Some(subject.clone())) else { return Ok(None) };
        let answer = request.request_async(&*self.http.load_full()).await.map_err(|error| match error {
            UserInfoError::Request(error) => LoginError::Unavailable(describe(&error)),
            error => LoginError::Refused(format!("its userinfo is not good: {}", describe(&error))),
        })?;
        Ok(Some(answer))
    }

    fn client(&self, metadata: &OidcProviderMetadata, credentials: &Credentials<'_>) -> OidcClient {
        Client::from_provider_metadata(
            metadata.clone(),
            ClientId::new(credentials.client_id.to_owned()),
            Some(ClientSecret::new(credentials.client_secret.expose_secret().to_owned())),
        )
        .set_redirect_uri(self.redirect.clone())
    }

    async fn metadata(&self, valid: Duration) -> Result<Arc<OidcProviderMetadata>, LoginError> {
        // Held during the fetch: a hundred logins at once ask the issuer once.
        let mut known = self.metadata.lock().await;
        if let Some((fetched, metadata)) = &known.metadata
            && fetched.elapsed() < valid
        {
            return Ok(metadata.clone());
        }
        let fetched = match &known.failure {
            Some((failed, error)) if failed.elapsed() < FAILURE_VALID => Err(error.clone()),
            _ => OidcProviderMetadata::discover_async(self.url.clone(), &*self.http.load_full())
                .await
                .map_err(|error| LoginError::Unavailable(describe(&error))),
        };
        match (fetched, &known.metadata) {
            (Ok(metadata), _) => {
                let metadata = Arc::new(metadata);
                *known = Known { metadata: Some((Instant::now(), metadata.clone())), failure: None };
                Ok(metadata)
            }
            (Err(error), old) => {
                let old = old.as_ref().map(|(_, metadata)| metadata.clone());
                if known.failure.as_ref().is_none_or(|(failed, _)| failed.elapsed() >= FAILURE_VALID) {
                    known.failure = Some((Instant::now(), error.clone()));
                }
                // Keys and endpoints that were right an hour ago are better than no login.
                old.ok_or(error)
            }
        }
    }
}

/// What a refusal of the token endpoint means, at a login and at a refresh.
fn refused(error: RequestTokenError<HttpError, StandardErrorResponse<CoreErrorResponseType>>) -> LoginError {
    match error {
        RequestTokenError::ServerResponse(answer) => match answer.error() {
            code @ (CoreErrorResponseType::InvalidClient | CoreErrorResponseType::UnauthorizedClient) => {
                LoginError::Misconfigured(code.as_ref().to_owned())
            }
            code => LoginError::Refused(format!("its token endpoint refused the request: {}", code.as_ref())),
        },
        RequestTokenError::Request(error) => LoginError::Unavailable(describe(&error)),
        _ => LoginError::Unavailable("its token endpoint gave something else than a token".to_owned()),
    }
}

/// An error with its causes: the outermost alone says little.
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
