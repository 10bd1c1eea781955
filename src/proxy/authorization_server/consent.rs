//! From the authorization request to the user's decision on the consent page.

use std::{net::IpAddr, sync::Arc};

use super::{AuthorizationServer, login::issuer_error};
use crate::{
    crypto::random_token,
    oauth::{
        OAuthError,
        authorize::{self, AuthorizationError, AuthorizationRequest},
        client_registry::ResolvedClient,
        login::{ConsentForm, Login},
        parameters::Parameters,
    },
    proxy::{
        identity_provider::ClientCredentials,
        observability::{audit, metrics::ConsentOutcome},
        secrets::Secrets,
    },
};

/// The content of a consent page.
pub struct ConsentPrompt {
    pub client: ResolvedClient,
    pub request: AuthorizationRequest,
    /// The sealed form and its binding to the browser, see [`ConsentForm::seal`].
    pub form: String,
    pub binding: String,
    /// The value of the browser cookie.
    pub browser: String,
}

pub struct ApprovedLogin {
    /// The `state` at the issuer.
    pub state: String,
    /// The value of the login cookie.
    pub cookie: String,
    /// The authorization request at the issuer.
    pub url: String,
}

impl AuthorizationServer {
    /// Checks an authorization request and seals it into the form of a consent page. `browser` is the browser cookie of the
    /// request.
    pub async fn authorize(
        self: &Arc<Self>,
        query: &Parameters,
        browser: Option<&str>,
    ) -> Result<ConsentPrompt, AuthorizationError> {
        let secrets = self.secrets.load_full();
        let client = self.resolve_client(&secrets, query.required("client_id")?).await?;
        let request = authorize::check(query, &client, &self.config.clients.redirects, &self.resources)?;
        if !Login::fits(&request) {
            let error = "state and redirect_uri are too long: shorten state, the login does not fit in its cookie";
            return Err(OAuthError::invalid_request(error).into());
        }
        let browser = browser.map(str::to_owned).or_else(random_token).ok_or_else(OAuthError::no_randomness)?;
        let (form, binding) = ConsentForm::seal(request.clone(), &browser, &secrets.keyring, self.now())
            .ok_or_else(OAuthError::no_randomness)?;
        Ok(ConsentPrompt { client, request, form, binding, browser })
    }

    async fn resolve_client(self: &Arc<Self>, secrets: &Secrets, id: &str) -> Result<ResolvedClient, OAuthError> {
        let registry = self.client_registry(secrets);
        if let Some(client) = registry.find(id) {
            return Ok(client);
        }
        let url = registry.document_url(id)?;
        let host = url.host().to_owned();
        let client = self.run(|server| async move { server.documents.client(&url, server.now()).await }).await?;
        Ok(ResolvedClient::Document { host, client })
    }

    /// The user approved: prepares the login at the issuer. Nothing is stored.
    pub async fn approve(
        &self,
        request: AuthorizationRequest,
        client_ip: Option<IpAddr>,
    ) -> Result<ApprovedLogin, OAuthError> {
        let client = request.session_client();
        let begin_login = async {
            let random = || random_token().ok_or_else(OAuthError::no_randomness);
            let login = Login::new(request, random()?, random()?, random()?, self.now());
            let secrets = self.secrets.load_full();
            let credentials =
                ClientCredentials { client_id: &secrets.client_id, client_secret: &secrets.client_secret };
            let url = self.issuer.login_url(&login, &credentials).await.map_err(|error| issuer_error(&error))?;
            let cookie = login.seal(&secrets.keyring).ok_or_else(OAuthError::no_randomness)?;
            Ok(ApprovedLogin { state: login.state, cookie, url })
        };
        let approved = begin_login.await;
        self.metrics.consents.count(if approved.is_ok() { ConsentOutcome::Approved } else { ConsentOutcome::Failed });
        if let Err(error) = &approved {
            audit::login_refused(&client, None, error, client_ip);
        }
        approved
    }

    pub fn deny(&self, request: &AuthorizationRequest, client_ip: Option<IpAddr>) -> OAuthError {
        let error = OAuthError::access_denied("the user denied the request");
        self.metrics.consents.count(ConsentOutcome::Denied);
        audit::login_refused(&request.session_client(), None, &error, client_ip);
        error
    }
}
