//! Asks the issuer, with the refresh token of a login, whether the person is still there (OIDC Core §12).

use openidconnect::{
    Nonce, OAuth2TokenResponse, RefreshToken, RequestTokenError, TokenResponse, core::CoreErrorResponseType,
};
use secrecy::{ExposeSecret, SecretString};
use thiserror::Error;

use super::{Credentials, Issuer, LoginError, METADATA_VALID, OidcProviderMetadata, OidcTokens, refused};
use crate::access::Person;

/// What the issuer says now.
pub struct Rechecked {
    /// The person, as the issuer describes them now.
    pub person: Person,
    /// With what it is asked next time, if no longer with the same.
    pub refresh_token: Option<SecretString>,
}

/// Why the issuer does not say that the person is still there.
#[derive(Debug, Error)]
pub enum RecheckError {
    /// It has said that the login is no more.
    #[error("the identity provider no longer knows the login")]
    Gone,
    /// It has said nothing about the person.
    #[error("{error}")]
    Failed {
        /// Why.
        #[source]
        error: LoginError,
        /// With what it is asked next time, if it has got so far as to change that.
        refresh_token: Option<SecretString>,
    },
}

impl From<LoginError> for RecheckError {
    fn from(error: LoginError) -> Self {
        Self::Failed { error, refresh_token: None }
    }
}

impl Issuer {
    /// Asks with the refresh token of the login of `before`.
    ///
    /// # Errors
    /// Whether the person is gone, or the issuer, or we.
    pub async fn recheck(
        &self,
        refresh_token: &SecretString,
        before: Person,
        credentials: &Credentials<'_>,
    ) -> Result<Rechecked, RecheckError> {
        let metadata = self.metadata(METADATA_VALID).await?;
        let client = self.client(&metadata, credentials);
        let answer = client
            .exchange_refresh_token(&RefreshToken::new(refresh_token.expose_secret().to_owned()))
            .map_err(|error| LoginError::Unavailable(format!("its metadata names no token endpoint: {error}")))?
            .request_async(&*self.http.load_full())
            .await
            .map_err(|error| match error {
                RequestTokenError::ServerResponse(answer) if *answer.error() == CoreErrorResponseType::InvalidGrant => {
                    RecheckError::Gone
                }
                error => refused(error).into(),
            })?;
        let refresh_token = answer.refresh_token().map(|token| token.secret().clone().into());
        match self.describe_anew(before, &answer, &metadata, credentials).await {
            Ok(person) => Ok(Rechecked { person, refresh_token }),
            Err(error) => Err(RecheckError::Failed { error, refresh_token }),
        }
    }

    /// Fetches what is needed to ask, if it is not known yet.
    ///
    /// # Errors
    /// When the issuer's metadata cannot be had.
    pub async fn prepare(&self) -> Result<(), LoginError> {
        self.metadata(METADATA_VALID).await.map(drop)
    }

    /// The person by the ID token of a refresh, which issuers may leave out, and what it lacks by the userinfo endpoint.
    async fn describe_anew(
        &self,
        before: Person,
        answer: &OidcTokens,
        metadata: &OidcProviderMetadata,
        credentials: &Credentials<'_>,
    ) -> Result<Person, LoginError> {
        let client = self.client(metadata, credentials);
        let mut person = before;
        let subject = openidconnect::SubjectIdentifier::new(person.subject.clone());
        let groups_claim = self.groups_claim.as_ref().filter(|_| !self.groups.is_empty());
        let (mut has_email, mut groups) = (false, None);
        if let Some(id_token) = answer.id_token() {
            let claims = self.verify(id_token, &client, credentials, any_nonce).await?;
            if *claims.subject() != subject {
                return Err(LoginError::Refused("its ID token is about somebody else".to_owned()));
            }
            if let Some(email) = claims.email() {
                has_email = true;
                email.as_str().clone_into(&mut person.email);
                person.email_verified = claims.email_verified().unwrap_or(false);
                person.hosted_domain.clone_from(&claims.additional_claims().hd);
            }
            groups = groups_claim.and_then(|claim| claims.additional_claims().groups(claim, &self.groups));
        }
        if (!has_email || (groups_claim.is_some() && groups.is_none()))
            && let Some(info) = self.userinfo(&client, answer.access_token(), &subject).await?
        {
            if let (false, Some(email)) = (has_email, info.email()) {
                email.as_str().clone_into(&mut person.email);
                person.email_verified = info.email_verified().unwrap_or(false);
                person.hosted_domain.clone_from(&info.additional_claims().hd);
            }
            groups =
                groups.or_else(|| groups_claim.and_then(|claim| info.additional_claims().groups(claim, &self.groups)));
        }
        // Who is in no group any more may have no claim either; but an answer without an ID token says nothing of that.
        if groups_claim.is_some() && (answer.id_token().is_some() || groups.is_some()) {
            person.groups = groups.unwrap_or_default();
        }
        Ok(person)
    }
}

/// OIDC Core §12.2: the ID token of a refresh should have no nonce.
#[expect(clippy::unnecessary_wraps, reason = "the signature is the library's")]
fn any_nonce(_: Option<&Nonce>) -> Result<(), String> {
    Ok(())
}
