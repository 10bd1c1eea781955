//! From the issuer's response to a session.

use std::{net::IpAddr, sync::Arc};

use super::{AuthorizationServer, recheck};
use crate::{
    access::check_email,
    api::{SessionClaims, SessionUser},
    crypto::Keyring,
    end_reasons::SessionEndReason,
    oauth::{OAuthError, code::Code, login::Login},
    proxy::{
        identity_provider::{ClientCredentials, Identity, IssuerError},
        observability::{audit, metrics::OAuthOutcome},
        sessions::StoreError,
    },
    session::{Session, SessionId},
};

/// The parameters of the issuer's redirect (RFC 6749 §4.1.2, RFC 9207).
pub struct IssuerResponse {
    pub code: Option<String>,
    pub error: Option<String>,
    pub error_description: Option<String>,
    pub iss: Option<String>,
}

/// Why a login fails, by where the error is reported.
pub enum LoginFailure {
    /// On a page.
    Page(OAuthError),
    /// On a page. The access rules refuse the user with this e-mail address or subject.
    Denied(String, OAuthError),
    /// By a redirect to the client.
    Client(OAuthError),
    /// On a page: the login was used before.
    Used,
}

impl LoginFailure {
    fn error(&self) -> OAuthError {
        match self {
            Self::Page(error) | Self::Denied(_, error) | Self::Client(error) => error.clone(),
            Self::Used => OAuthError::invalid_request("the login has been used"),
        }
    }
}

impl From<OAuthError> for LoginFailure {
    fn from(error: OAuthError) -> Self {
        Self::Page(error)
    }
}

impl AuthorizationServer {
    /// Verifies the issuer's response, applies the access rules and stores the session. Returns the code for the client.
    pub async fn finish_login(
        self: Arc<Self>,
        login: Login,
        response: IssuerResponse,
        client_ip: Option<IpAddr>,
    ) -> Result<String, LoginFailure> {
        let result = self.create_session(&login, response, client_ip).await;
        self.metrics.logins.count(OAuthOutcome(result.as_ref().err().map(|failure| failure.error().code)));
        if let Err(failure) = &result {
            let user = if let LoginFailure::Denied(user, _) = failure { Some(user.as_str()) } else { None };
            audit::login_refused(&login.request.session_client(), user, &failure.error(), client_ip);
        }
        result
    }

    async fn create_session(
        self: &Arc<Self>,
        login: &Login,
        response: IssuerResponse,
        client_ip: Option<IpAddr>,
    ) -> Result<String, LoginFailure> {
        let IssuerResponse { code, error, error_description, iss } = response;
        // RFC 9207: the response of another issuer is a mix-up attack.
        if iss.is_some_and(|iss| iss != self.config.identity_provider.issuer_url.as_str()) {
            return Err(OAuthError::invalid_request("the response comes from another identity provider").into());
        }
        let (Some(code), None) = (code, &error) else {
            return Err(LoginFailure::Client(issuer_refusal(error.as_deref(), error_description.as_deref())));
        };
        let secrets = self.secrets.load_full();
        let credentials = ClientCredentials { client_id: &secrets.client_id, client_secret: &secrets.client_secret };
        let identity = self.issuer.redeem_code(code, login, &credentials, self.now()).await;
        let session = self.new_session(&secrets.keyring, login, identity.map_err(|error| issuer_error(&error))?)?;
        let sessions = &self.config.sessions;
        if let Some(not_before) = sessions.not_before.filter(|not_before| session.created_at < *not_before) {
            tracing::error!(%not_before, "login refused: sessions.notBefore is in the future");
            return Err(OAuthError::temporarily_unavailable(format!("logins are disabled until {not_before}")).into());
        }
        if self.sessions.live().len() >= sessions.max.get() as usize {
            tracing::error!(max = sessions.max.get(), "login refused: sessions.max is reached");
            return Err(OAuthError::temporarily_unavailable("the server's session limit is reached").into());
        }
        self.store.create(&session).await.map_err(|error| {
            let message = "the login could not be stored";
            if !matches!(error, StoreError::Exists) {
                tracing::error!(%error, "storing a session failed");
            }
            match error {
                StoreError::Exists => LoginFailure::Used,
                StoreError::Refused(_) => OAuthError::server_error(message).into(),
                _ => OAuthError::temporarily_unavailable(message).into(),
            }
        })?;
        // Spawned, so that the browser does not wait for it.
        self.control.spawn(self.clone().end_surplus(session.clone()));
        audit::login(&session, client_ip);
        let code = Code::seal(session.id, &login.request, &secrets.keyring, self.now());
        Ok(code.ok_or_else(OAuthError::no_randomness)?)
    }

    /// Ends the user's sessions beyond `sessions.maxPerUser` that have not been refreshed for longest.
    async fn end_surplus(self: Arc<Self>, new: Session) {
        for id in self.sessions.live().surplus(&new, self.config.sessions.max_per_user.get() as usize) {
            let end = async {
                let Some(stored) = self.read(id).await? else { return Ok(()) };
                self.end(
                    &stored,
                    SessionEndReason::Surplus,
                    "the user has more than sessions.maxPerUser sessions",
                    None,
                )
                .await
            };
            if let Err(error) = end.await {
                // Not an error of the new login. The next login retries.
                tracing::warn!(%error, session = %id, "ending a surplus session failed");
            }
        }
    }

    fn new_session(&self, keyring: &Keyring, login: &Login, identity: Identity) -> Result<Session, LoginFailure> {
        let Identity { user, refresh_token } = identity;
        let email = match (check_email(&user.email), self.rules.check(&user)) {
            (Ok(email), Ok(())) => email,
            (Ok(email), Err(denied)) => {
                let error = OAuthError::access_denied(format!("You logged in as {email}, but {denied}."));
                return Err(LoginFailure::Denied(email, error));
            }
            (Err(denied), _) => {
                let error = OAuthError::access_denied(format!("You logged in, but {denied}."));
                return Err(LoginFailure::Denied(user.subject, error));
            }
        };
        let claims = SessionClaims {
            hosted_domain: user.hosted_domain,
            email_verified: user.email_verified,
            groups: user.groups,
        };
        let user = SessionUser { issuer: user.issuer, subject: user.subject, email };
        let id = SessionId::of_nonce(keyring, &login.nonce);
        let issuer_refresh_token = refresh_token.map(|token| recheck::seal(id, &token, keyring)).transpose()?;
        Ok(Session { issuer_refresh_token, ..login.session(id, user, claims, self.now()) })
    }
}

/// Maps an error response of the issuer (RFC 6749 §4.1.2.1). An error about this server's own request is for the operator and
/// is only logged.
fn issuer_refusal(error: Option<&str>, description: Option<&str>) -> OAuthError {
    match error {
        Some("access_denied") => OAuthError::access_denied("the login at the identity provider was not completed"),
        Some("temporarily_unavailable") => {
            OAuthError::temporarily_unavailable("the identity provider is not available")
        }
        other => {
            tracing::warn!(error = other, description, "the identity provider rejected the authorization request");
            OAuthError::server_error("the identity provider refused this server's request")
        }
    }
}

/// Logs why a login at the issuer failed and maps it to an error without details.
pub(super) fn issuer_error(error: &IssuerError) -> OAuthError {
    match error {
        IssuerError::Refused(_) => tracing::warn!(%error, "login failed"),
        _ => {
            tracing::error!(%error, "login failed because of the issuer or the configuration; all logins are affected");
        }
    }
    match error {
        IssuerError::Unavailable(_) => OAuthError::temporarily_unavailable("the identity provider cannot be reached"),
        IssuerError::Misconfigured(_) => {
            OAuthError::server_error("the identity provider rejects this server's client ID or secret")
        }
        IssuerError::NoRefreshToken => {
            OAuthError::server_error("the identity provider returned no refresh token, which this server requires")
        }
        IssuerError::Refused(_) => OAuthError::invalid_request("the identity provider's response was rejected"),
    }
}
