//! A login: from the approved consent to the issuer, and from the issuer's response to a session.

use std::{net::IpAddr, sync::Arc};

use super::{AuthorizationServer, recheck};
use crate::{
    access::check_email,
    api::{SessionClaims, SessionUser},
    crypto::{Keyring, random_token},
    oauth::{OAuthError, authorize::AuthorizationRequest, code::Code, login::Login},
    proxy::{
        identity_provider::{Credentials, LoggedIn, LoginError},
        observability::{
            audit,
            metrics::{Answer, Consent},
        },
        sessions::StoreError,
    },
    reasons::SessionEnd,
    session::{Session, SessionId},
};

/// A login on its way to the issuer.
pub struct Approved {
    /// The `state` of the authorization request at the issuer.
    pub state: String,
    /// The sealed login, for the browser's cookie.
    pub cookie: String,
    /// The authorization request at the issuer.
    pub url: String,
}

/// What the issuer's redirect says (RFC 6749 §4.1.2, RFC 9207).
#[derive(Default)]
pub struct IssuerResponse {
    pub code: Option<String>,
    pub error: Option<String>,
    pub error_description: Option<String>,
    pub iss: Option<String>,
}

/// Why a login fails, by where the person learns it.
pub enum LoginFailure {
    /// On a page.
    Page(OAuthError),
    /// On a page: the access rules refuse the person with this e-mail address or subject.
    Denied(String, OAuthError),
    /// At the client.
    Client(OAuthError),
    /// On a page: the login has been used before.
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

fn no_randomness() -> OAuthError {
    OAuthError::temporarily_unavailable("this server has no randomness to give")
}

impl AuthorizationServer {
    /// The person agreed: prepares the authorization request at the issuer. Nothing is stored.
    ///
    /// # Errors
    /// When the issuer cannot be used.
    pub async fn approve(
        &self,
        request: AuthorizationRequest,
        keyring: &Keyring,
        from: Option<IpAddr>,
    ) -> Result<Approved, OAuthError> {
        let client = request.session_client();
        let approved = self.begin_login(request, keyring).await;
        self.metrics.consents.count(if approved.is_ok() { Consent::Approved } else { Consent::Failed });
        if let Err(error) = &approved {
            audit::login_refused(&client, None, error, from);
        }
        approved
    }

    /// The person did not agree.
    pub fn deny(&self, request: &AuthorizationRequest, from: Option<IpAddr>) -> OAuthError {
        let error = OAuthError::access_denied("the person did not agree");
        self.metrics.consents.count(Consent::Denied);
        audit::login_refused(&request.session_client(), None, &error, from);
        error
    }

    async fn begin_login(&self, request: AuthorizationRequest, keyring: &Keyring) -> Result<Approved, OAuthError> {
        let (Some(state), Some(nonce), Some(verifier)) = (random_token(), random_token(), random_token()) else {
            return Err(no_randomness());
        };
        let login = Login::new(request, state, nonce, verifier, self.now());
        let secrets = self.secrets.load_full();
        let credentials = Credentials { client_id: &secrets.client_id, client_secret: &secrets.client_secret };
        let url = self.issuer.login_url(&login, &credentials).await.map_err(|error| login_failed(&error))?;
        let cookie = login.seal(keyring).ok_or_else(no_randomness)?;
        Ok(Approved { state: login.state, cookie, url })
    }

    /// The issuer sent the browser back: verifies its response, applies the access rules and stores the session. Returns
    /// the code for the client.
    ///
    /// # Errors
    /// See [`LoginFailure`].
    pub async fn finish_login(
        self: Arc<Self>,
        login: Login,
        response: IssuerResponse,
        keyring: Arc<Keyring>,
        from: Option<IpAddr>,
    ) -> Result<String, LoginFailure> {
        let finished = self.finish(&login, response, &keyring, from).await;
        self.metrics.logins.count(Answer(finished.as_ref().err().map(|failure| failure.error().code)));
        if let Err(failure) = &finished {
            let user = if let LoginFailure::Denied(user, _) = failure { Some(user.as_str()) } else { None };
            audit::login_refused(&login.request.session_client(), user, &failure.error(), from);
        }
        finished
    }

    async fn finish(
        self: &Arc<Self>,
        login: &Login,
        response: IssuerResponse,
        keyring: &Keyring,
        from: Option<IpAddr>,
    ) -> Result<String, LoginFailure> {
        let IssuerResponse { code, error, error_description, iss } = response;
        // RFC 9207: a response of another issuer is a mix-up.
        if iss.is_some_and(|iss| iss != self.config.identity_provider.issuer_url.as_str()) {
            let error = OAuthError::invalid_request("the answer comes from another identity provider");
            return Err(LoginFailure::Page(error));
        }
        let (Some(code), None) = (code, &error) else {
            return Err(LoginFailure::Client(refused_by_issuer(error.as_deref(), error_description.as_deref())));
        };
        let session = self.log_in(login, code, keyring).await?;
        audit::login(&session, from);
        let code = Code::new(session.id, &login.request, self.now()).seal(keyring);
        code.ok_or_else(|| LoginFailure::Page(no_randomness()))
    }

    async fn log_in(
        self: &Arc<Self>,
        login: &Login,
        issuer_code: String,
        keyring: &Keyring,
    ) -> Result<Session, LoginFailure> {
        let secrets = self.secrets.load_full();
        let credentials = Credentials { client_id: &secrets.client_id, client_secret: &secrets.client_secret };
        let logged_in = self.issuer.finish(issuer_code, login, &credentials, self.now()).await;
        let logged_in = logged_in.map_err(|error| LoginFailure::Page(login_failed(&error)))?;
        let session = self.new_session(keyring, login, logged_in)?;
        let sessions = &self.config.sessions;
        if let Some(not_before) = sessions.not_before.filter(|not_before| session.created_at < *not_before) {
            tracing::error!(%not_before, "nobody can log in: sessions.notBefore lies ahead");
            let wait = format!("nobody can log in before {not_before}");
            return Err(LoginFailure::Page(OAuthError::temporarily_unavailable(wait)));
        }
        if self.sessions.live().len() >= sessions.max.get() as usize {
            tracing::error!(max = sessions.max.get(), "nobody new can log in: sessions.max is reached");
            let full = OAuthError::temporarily_unavailable("the server's session limit is reached");
            return Err(LoginFailure::Page(full));
        }
        match self.store.create(&session).await {
            Ok(()) => {
                // Apart: the browser need not wait for it.
                self.control.spawn(self.clone().end_surplus(session.clone()));
                Ok(session)
            }
            Err(StoreError::Exists) => Err(LoginFailure::Used),
            Err(error) => {
                tracing::error!(%error, "storing a login failed");
                Err(LoginFailure::Page(match error {
                    StoreError::Refused(_) => OAuthError::server_error("the login could not be stored"),
                    _ => OAuthError::temporarily_unavailable("the login could not be stored"),
                }))
            }
        }
    }

    /// Ends the sessions beyond `sessions.maxPerUser`: those that have gone longest without a refresh.
    async fn end_surplus(self: Arc<Self>, new: Session) {
        let surplus = self.sessions.live().surplus(&new, self.config.sessions.max_per_user.get() as usize);
        for id in surplus {
            let ended = match self.read(id).await {
                Ok(Some(stored)) => {
                    let why = "the person has more than sessions.maxPerUser";
                    self.end(&stored, SessionEnd::Surplus, why, None).await
                }
                Ok(None) => Ok(()),
                Err(error) => Err(error),
            };
            if let Err(error) = ended {
                // The login itself is good; the next one ends them.
                tracing::warn!(%error, session = %id, "ending a surplus session failed");
            }
        }
    }

    fn new_session(&self, keyring: &Keyring, login: &Login, logged_in: LoggedIn) -> Result<Session, LoginFailure> {
        let LoggedIn { person, refresh_token } = logged_in;
        let email = check_email(&person.email);
        let allowed = self.check_access(&person);
        let email = match (email, allowed) {
            (Ok(email), Ok(())) => email,
            (Ok(email), Err(denied)) => {
                let error = OAuthError::access_denied(format!("You logged in as {email}, but {denied}."));
                return Err(LoginFailure::Denied(email, error));
            }
            (Err(denied), _) => {
                let error = OAuthError::access_denied(format!("You logged in, but {denied}."));
                return Err(LoginFailure::Denied(person.subject, error));
            }
        };
        let user = SessionUser { issuer: person.issuer, subject: person.subject, email };
        let claims = SessionClaims {
            hosted_domain: person.hosted_domain,
            email_verified: person.email_verified,
            groups: person.groups,
        };
        let id = SessionId::of_nonce(keyring, &login.nonce);
        let upstream_token = match refresh_token {
            Some(token) => Some(recheck::seal(id, &token, keyring).map_err(LoginFailure::Page)?),
            None => None,
        };
        Ok(Session { upstream_token, ..login.session(id, user, claims, self.now()) })
    }
}

/// What the client is told of an error that the issuer sent the browser back with (RFC 6749 §4.1.2.1). What it says of our
/// own request is for whoever runs this server, so it is logged.
fn refused_by_issuer(error: Option<&str>, description: Option<&str>) -> OAuthError {
    match error {
        Some("access_denied") => OAuthError::access_denied("the login at the identity provider was not finished"),
        Some("temporarily_unavailable") => {
            OAuthError::temporarily_unavailable("the identity provider is not available")
        }
        other => {
            tracing::warn!(error = other, description, "the identity provider rejected the authorization request");
            OAuthError::server_error("the identity provider refused this server's request")
        }
    }
}

/// What a person or client is told of a login that failed at the issuer; whoever runs this server finds the cause in the log.
fn login_failed(error: &LoginError) -> OAuthError {
    match error {
        LoginError::Unavailable(_) => {
            tracing::error!(%error, "nobody can log in");
            OAuthError::temporarily_unavailable("the identity provider cannot be reached")
        }
        LoginError::Misconfigured(_) => {
            tracing::error!(%error, "nobody can log in");
            OAuthError::server_error("the identity provider does not accept this server")
        }
        LoginError::NoRefreshToken => {
            tracing::error!(%error, "nobody can log in");
            OAuthError::server_error(
                "the identity provider gave nothing by which this server could ask for the account later",
            )
        }
        LoginError::Refused(_) => {
            tracing::warn!(%error, "a login failed");
            OAuthError::invalid_request("the identity provider's answer was not accepted")
        }
    }
}
