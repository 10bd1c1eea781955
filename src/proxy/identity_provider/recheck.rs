//! Checks with the issuer's refresh token whether the user still exists (OIDC Core §12).

use openidconnect::{
    Nonce, OAuth2TokenResponse, RefreshToken, RequestTokenError, SubjectIdentifier, TokenResponse,
    core::CoreErrorResponseType,
};
use secrecy::{ExposeSecret, SecretString};
use thiserror::Error;

use super::{
    ClientCredentials, Identity, Issuer, IssuerError, METADATA_VALID, OidcProviderMetadata, OidcTokens, token_error,
};
use crate::access::UserClaims;

/// Why a recheck did not confirm the user.
#[derive(Debug, Error)]
pub enum RecheckError {
    /// The issuer rejected the refresh token (`invalid_grant`).
    #[error("the identity provider no longer knows the login")]
    Gone,
    /// The issuer gave no usable response about the user.
    #[error("{error}")]
    Failed {
        #[source]
        error: IssuerError,
        /// The new refresh token, if the issuer rotated it before the failure.
        refresh_token: Option<SecretString>,
    },
}

impl From<IssuerError> for RecheckError {
    fn from(error: IssuerError) -> Self {
        Self::Failed { error, refresh_token: None }
    }
}

impl Issuer {
    /// Redeems the refresh token and updates `user` from the response.
    pub async fn recheck(
        &self,
        refresh_token: &SecretString,
        user: UserClaims,
        credentials: &ClientCredentials<'_>,
    ) -> Result<Identity, RecheckError> {
        let metadata = self.metadata(METADATA_VALID).await?;
        let client = self.client(&metadata, credentials);
        let response = client
            .exchange_refresh_token(&RefreshToken::new(refresh_token.expose_secret().to_owned()))
            .map_err(IssuerError::from)?
            .request_async(&*self.http.load_full())
            .await
            .map_err(|error| match error {
                RequestTokenError::ServerResponse(response)
                    if *response.error() == CoreErrorResponseType::InvalidGrant =>
                {
                    RecheckError::Gone
                }
                error => token_error(error).into(),
            })?;
        let refresh_token = response.refresh_token().map(|token| token.secret().clone().into());
        match self.updated_user(user, &response, &metadata, credentials).await {
            Ok(user) => Ok(Identity { user, refresh_token }),
            Err(error) => Err(RecheckError::Failed { error, refresh_token }),
        }
    }

    /// Fetches the issuer's metadata, if it is not cached.
    pub async fn prepare(&self) -> Result<(), IssuerError> {
        self.metadata(METADATA_VALID).await.map(drop)
    }

    /// Claims come from the ID token, which is optional in a refresh, and missing ones from the userinfo endpoint.
    async fn updated_user(
        &self,
        mut user: UserClaims,
        response: &OidcTokens,
        metadata: &OidcProviderMetadata,
        credentials: &ClientCredentials<'_>,
    ) -> Result<UserClaims, IssuerError> {
        let client = self.client(metadata, credentials);
        let subject = SubjectIdentifier::new(user.subject.clone());
        let (mut has_email, mut groups) = (false, None);
        if let Some(id_token) = response.id_token() {
            let claims = self.verify(id_token, &client, credentials, any_nonce).await?;
            if *claims.subject() != subject {
                return Err(IssuerError::Refused("its ID token has another subject".to_owned()));
            }
            if let Some(email) = claims.email() {
                has_email = true;
                email.as_str().clone_into(&mut user.email);
                user.email_verified = claims.email_verified().unwrap_or(false);
                user.hosted_domain.clone_from(&claims.additional_claims().hd);
            }
            groups = self.groups(claims.additional_claims());
        }
        if (!has_email || (self.groups_claim.is_some() && groups.is_none()))
            && let Some(info) = self.userinfo(&client, response.access_token(), &subject).await?
        {
            if let (false, Some(email)) = (has_email, info.email()) {
                email.as_str().clone_into(&mut user.email);
                user.email_verified = info.email_verified().unwrap_or(false);
                user.hosted_domain.clone_from(&info.additional_claims().hd);
            }
            groups = groups.or_else(|| self.groups(info.additional_claims()));
        }
        // A missing claim in an ID token means no groups; a response without an ID token leaves the groups unchanged.
        if self.groups_claim.is_some() && (response.id_token().is_some() || groups.is_some()) {
            user.groups = groups.unwrap_or_default();
        }
        Ok(user)
    }
}

/// OIDC Core §12.2: the ID token of a refresh should have no nonce.
#[expect(clippy::unnecessary_wraps, reason = "the signature is the library's")]
fn any_nonce(_: Option<&Nonce>) -> Result<(), String> {
    Ok(())
}
