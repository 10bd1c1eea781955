use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use openidconnect::{
    AccessToken, AuthorizationCode, ClaimsVerificationError, Client, ClientId, ClientSecret, CsrfToken,
    EmptyExtraTokenFields, EndpointMaybeSet, EndpointNotSet, EndpointSet, IdTokenFields, IssuerUrl, Nonce,
    OAuth2TokenResponse, PkceCodeChallenge, PkceCodeVerifier, RedirectUrl, RequestTokenError, Scope,
    SignatureVerificationError, StandardErrorResponse, StandardTokenResponse, SubjectIdentifier, UserInfoClaims,
    UserInfoError,
    core::{
        CoreAuthDisplay, CoreAuthPrompt, CoreAuthenticationFlow, CoreErrorResponseType, CoreGenderClaim,
        CoreJsonWebKey, CoreJweContentEncryptionAlgorithm, CoreJwsSigningAlgorithm, CoreProviderMetadata,
        CoreRevocableToken, CoreRevocationErrorResponse, CoreTokenIntrospectionResponse, CoreTokenType,
    },
};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::sync::Mutex;

use super::{HttpClient, Person};
use crate::{
    api::PublicUrl,
    proxy::{config::ProxyConfig, oauth::login::Login},
};

/// How long a discovery document and its keys are used before they are fetched again.
const METADATA_VALID: Duration = Duration::from_secs(3600);

/// How soon they may be fetched again because a key is unknown: the issuer has rotated, or somebody makes us ask.
const REFETCH_AFTER: Duration = Duration::from_secs(10);

/// Claims beyond the standard ones.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct ExtraClaims {
    /// Google's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hd: Option<String>,
    /// Any other; the groups are among them.
    #[serde(flatten)]
    others: HashMap<String, serde_json::Value>,
}

impl ExtraClaims {
    /// Those of the groups `asked` for that a claim names: a list, or one alone. `None` if the claim is not there. A person may
    /// have hundreds of others, and a session is a small object.
    fn groups(&self, claim: &str, asked: &[String]) -> Option<Vec<String>> {
        let named = match self.others.get(claim)? {
            serde_json::Value::Array(values) => values.iter().filter_map(serde_json::Value::as_str).collect(),
            serde_json::Value::String(one) => vec![one.as_str()],
            _ => Vec::new(),
        };
        Some(asked.iter().filter(|group| named.contains(&group.as_str())).cloned().collect())
    }
}

impl openidconnect::AdditionalClaims for ExtraClaims {}

type TokenFields = IdTokenFields<
    ExtraClaims,
    EmptyExtraTokenFields,
    CoreGenderClaim,
    CoreJweContentEncryptionAlgorithm,
    CoreJwsSigningAlgorithm,
>;

type OidcClient = Client<
    ExtraClaims,
    CoreAuthDisplay,
    CoreGenderClaim,
    CoreJweContentEncryptionAlgorithm,
    CoreJsonWebKey,
    CoreAuthPrompt,
    StandardErrorResponse<CoreErrorResponseType>,
    StandardTokenResponse<TokenFields, CoreTokenType>,
    CoreTokenIntrospectionResponse,
    CoreRevocableToken,
    CoreRevocationErrorResponse,
    EndpointSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointMaybeSet,
    EndpointMaybeSet,
>;

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
    http: HttpClient,
    metadata: Mutex<Known>,
}

/// What is known of the issuer.
#[derive(Debug, Default)]
struct Known {
    metadata: Option<(Instant, Arc<CoreProviderMetadata>)>,
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
            http,
            metadata: Mutex::default(),
        })
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
        let (url, _, _) = client
            .authorize_url(CoreAuthenticationFlow::AuthorizationCode, || CsrfToken::new(state), || Nonce::new(nonce))
            .add_scopes(self.scopes.iter().cloned())
            .set_pkce_challenge(PkceCodeChallenge::from_code_verifier_sha256(&verifier))
            .url();
        Ok(url.into())
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
    ) -> Result<Person, LoginError> {
        let metadata = self.metadata(METADATA_VALID).await?;
        let client = self.client(&metadata, credentials);
        let answer = client
            .exchange_code(AuthorizationCode::new(code))
            .map_err(|error| LoginError::Unavailable(format!("its metadata names no token endpoint: {error}")))?
            .set_pkce_verifier(PkceCodeVerifier::new(login.verifier.clone()))
            .request_async(&self.http)
            .await
            .map_err(|error| match error {
                RequestTokenError::ServerResponse(answer) => match answer.error() {
                    code @ (CoreErrorResponseType::InvalidClient | CoreErrorResponseType::UnauthorizedClient) => {
                        LoginError::Misconfigured(code.as_ref().to_owned())
                    }
                    code => LoginError::Refused(format!("it refused the code: {}", code.as_ref())),
                },
                RequestTokenError::Request(error) => LoginError::Unavailable(describe(&error)),
                _ => LoginError::Unavailable("its token endpoint gave something else than a token".to_owned()),
            })?;
        let id_token = answer
            .extra_fields()
            .id_token()
            .ok_or_else(|| LoginError::Refused("there is no ID token in it".to_owned()))?;
        let nonce = Nonce::new(login.nonce.clone());
        let mut claims = id_token.claims(&client.id_token_verifier(), &nonce).cloned();
        if matches!(
            claims,
            Err(ClaimsVerificationError::SignatureVerification(SignatureVerificationError::NoMatchingKey))
        ) {
            let metadata = self.metadata(REFETCH_AFTER).await?;
            claims = id_token.claims(&self.client(&metadata, credentials).id_token_verifier(), &nonce).cloned();
        }
        let claims = claims.map_err(|error| LoginError::Refused(format!("its ID token is not good: {error}")))?;
        let groups = match self.groups_claim.as_ref().filter(|_| !self.groups.is_empty()) {
            None => Vec::new(),
            Some(claim) => match claims.additional_claims().groups(claim, &self.groups) {
                Some(groups) => groups,
                None => self.userinfo_groups(&client, answer.access_token(), claims.subject(), claim).await?,
            },
        };
        Ok(Person {
            groups,
            issuer: self.url.as_str().to_owned(),
            subject: claims.subject().as_str().to_owned(),
            email: claims.email().map(|email| email.as_str().to_owned()).unwrap_or_default(),
            email_verified: claims.email_verified().unwrap_or(false),
            hosted_domain: claims.additional_claims().hd.clone(),
        })
    }

    /// The groups that the userinfo endpoint names (OIDC Core §5.3); none if it, or the issuer, knows no such claim.
    async fn userinfo_groups(
        &self,
        client: &OidcClient,
        token: &AccessToken,
        subject: &SubjectIdentifier,
        claim: &str,
    ) -> Result<Vec<String>, LoginError> {
        let Ok(request) = client.user_info(token.clone(), Some(subject.clone())) else { return Ok(Vec::new()) };
        let answer: UserInfoClaims<ExtraClaims, CoreGenderClaim> =
            request.request_async(&self.http).await.map_err(|error| match error {
                UserInfoError::Request(error) => LoginError::Unavailable(describe(&error)),
                error => LoginError::Refused(format!("its userinfo is not good: {}", describe(&error))),
            })?;
        Ok(answer.additional_claims().groups(claim, &self.groups).unwrap_or_default())
    }

    fn client(&self, metadata: &CoreProviderMetadata, credentials: &Credentials<'_>) -> OidcClient {
        Client::from_provider_metadata(
            metadata.clone(),
            ClientId::new(credentials.client_id.to_owned()),
            Some(ClientSecret::new(credentials.client_secret.expose_secret().to_owned())),
        )
        .set_redirect_uri(self.redirect.clone())
    }

    async fn metadata(&self, valid: Duration) -> Result<Arc<CoreProviderMetadata>, LoginError> {
        // Held during the fetch: a hundred logins at once ask the issuer once.
        let mut known = self.metadata.lock().await;
        if let Some((fetched, metadata)) = &known.metadata
            && fetched.elapsed() < valid
        {
            return Ok(metadata.clone());
        }
        let fetched = match &known.failure {
            Some((failed, error)) if failed.elapsed() < FAILURE_VALID => Err(error.clone()),
            _ => CoreProviderMetadata::discover_async(self.url.clone(), &self.http)
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn of_a_persons_groups_those_are_kept_that_the_rules_ask_for() {
        let asked = ["a".to_owned(), "c".to_owned()];
        let groups = |claims: serde_json::Value| {
            serde_json::from_value::<ExtraClaims>(claims).unwrap().groups("https://example.com/groups", &asked)
        };
        assert_eq!(groups(json!({"hd": "x"})), None);
        assert_eq!(groups(json!({"https://example.com/groups": ["b", 1, "a"]})), Some(vec!["a".into()]));
        assert_eq!(groups(json!({"https://example.com/groups": "c"})), Some(vec!["c".into()]));
        assert_eq!(groups(json!({"https://example.com/groups": null})), Some(vec![]));
        let mut many: Vec<String> = (0..1000).map(|number| number.to_string()).collect();
        many.push("c".to_owned());
        assert_eq!(groups(json!({"https://example.com/groups": many})), Some(vec!["c".into()]));
    }
}
