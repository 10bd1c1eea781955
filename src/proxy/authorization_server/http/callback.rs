use std::{net::IpAddr, sync::Arc};

use axum::{
    extract::{RawQuery, State},
    http::{HeaderMap, StatusCode, header},
    response::Response,
};
use url::form_urlencoded;

use super::{
    client_request::From,
    cookies::Cookies,
    respond::{login_failed, page, page_error, redirect_error, redirect_to_client},
};
use crate::reasons::SessionEnd;
use crate::{
    access::check_email,
    api::{SessionClaims, SessionUser},
    crypto::Keyring,
    oauth::{ErrorCode, OAuthError, code::Code, login::Login},
    proxy::{
        authorization_server::AuthorizationServer,
        identity_provider::{Credentials, LoggedIn, LoginError},
        observability::{audit, metrics::Answer},
        sessions::StoreError,
    },
    session::{Session, SessionId},
};

/// How a login ends that does not succeed.
enum Failure {
    /// On a page.
    Page(OAuthError),
    /// On a page, for a person with this address or identifier at the issuer: the rules do not let them in.
    Denied(String, OAuthError),
    /// At the client.
    Client(OAuthError),
    /// The login has been used before.
    Used,
}

impl Failure {
    fn error(&self) -> OAuthError {
        match self {
            Self::Page(error) | Self::Denied(_, error) | Self::Client(error) => error.clone(),
            Self::Used => OAuthError::invalid_request("the login has been used"),
        }
    }
}

/// `GET /callback`: the issuer has sent the browser back. Its answer is verified, the access rules are applied, and only
/// then something is stored: the session.
pub async fn callback(
    State(proxy): State<Arc<AuthorizationServer>>,
    From(from): From,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Response {
    let query: Vec<(String, String)> =
        form_urlencoded::parse(query.unwrap_or_default().as_bytes()).into_owned().collect();
    let get = |name: &str| query.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
    let keyring = proxy.secrets.load().keyring.clone();
    let cookies = Cookies::read(&headers, &proxy.public_url);
    let state = get("state").unwrap_or_default();
    let login = cookies
        .login(state)
        .and_then(|cookie| Login::open(cookie, &keyring, proxy.now()))
        .filter(|login| login.state == state);
    let Some(login) = login else {
        proxy.metrics.logins.count(Answer(Some(ErrorCode::InvalidRequest)));
        return page(
            StatusCode::FORBIDDEN,
            "This login cannot be finished",
            "It was not begun in this browser, took longer than ten minutes, or its cookie is gone.",
            "Go back to your MCP client and connect again: nothing was lost.",
        );
    };
    let finished = match (get("code"), get("error"), get("iss")) {
        // RFC 9207: an answer of another issuer is a mix-up.
        (_, _, Some(issuer)) if issuer != proxy.config.identity_provider.issuer_url => {
            Err(Failure::Page(OAuthError::invalid_request("the answer comes from another identity provider")))
        }
        (Some(code), None, _) => finish(&proxy, &keyring, &login, code.to_owned(), from).await,
        (_, error, _) => Err(Failure::Client(refused_by_issuer(error, get("error_description")))),
    };
    proxy.metrics.logins.count(Answer(finished.as_ref().err().map(|failure| failure.error().code)));
    if let Err(failure) = &finished {
        let user = if let Failure::Denied(user, _) = failure { Some(user.as_str()) } else { None };
        audit::login_refused(&login.request.session_client(), user, &failure.error(), from);
    }
    let mut response = answer(finished, &proxy, &headers, &login);
    if let Some(cookie) = cookies.clear_login(state) {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    response
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
            tracing::warn!(error = other, description, "the identity provider refuses our request");
            OAuthError::server_error("the identity provider refused this server's request")
        }
    }
}

/// What the browser is told: the client's code, or why there is none.
fn answer(
    finished: Result<String, Failure>,
    proxy: &AuthorizationServer,
    headers: &HeaderMap,
    login: &Login,
) -> Response {
    let (request, issuer) = (&login.request, proxy.public_url.as_str());
    let (to, state) = (&*request.redirect_uri, request.state.as_deref());
    match finished {
        Ok(code) => redirect_to_client(to, &[("code", &code)], state, issuer),
        Err(Failure::Client(error)) => redirect_error(to, state, issuer, &error),
        Err(Failure::Page(error) | Failure::Denied(_, error)) => page_error(headers, &error),
        Err(Failure::Used) => page(
            StatusCode::CONFLICT,
            "This login has been used",
            "It was finished before, perhaps in another tab.",
            "If your MCP client is not connected, connect again from there.",
        ),
    }
}

/// The code for the client, once the session is stored.
async fn finish(
    proxy: &Arc<AuthorizationServer>,
    keyring: &Keyring,
    login: &Login,
    issuer_code: String,
    from: Option<IpAddr>,
) -> Result<String, Failure> {
    let session = log_in(proxy, keyring, login, issuer_code).await?;
    audit::login(&session, from);
    Code::new(session.id, &login.request, proxy.now())
        .seal(keyring)
        .ok_or_else(|| Failure::Page(OAuthError::temporarily_unavailable("this server has no randomness to give")))
}

async fn log_in(
    proxy: &Arc<AuthorizationServer>,
    keyring: &Keyring,
    login: &Login,
    issuer_code: String,
) -> Result<Session, Failure> {
    let (worker, wanted) = (proxy.clone(), login.clone());
    let now = proxy.now();
    let logged_in = proxy
        .on_control(async move {
            let secrets = worker.secrets.load_full();
            let credentials = Credentials { client_id: &secrets.client_id, client_secret: &secrets.client_secret };
            worker.issuer.finish(issuer_code, &wanted, &credentials, now).await
        })
        .await
        .unwrap_or_else(|| Err(LoginError::Unavailable("this server is shutting down".to_owned())))
        .map_err(|error| Failure::Page(login_failed(&error)))?;
    let session = new_session(proxy, keyring, login, logged_in)?;
    if let Some(not_before) = proxy.config.sessions.not_before.filter(|not_before| session.created_at < *not_before) {
        tracing::error!(%not_before, "nobody can log in: sessions.notBefore lies ahead");
        let wait = format!("nobody can log in before {not_before}");
        return Err(Failure::Page(OAuthError::temporarily_unavailable(wait)));
    }
    if proxy.sessions.live().len() >= proxy.config.sessions.max as usize {
        tracing::error!(max = proxy.config.sessions.max, "nobody new can log in: sessions.max is reached");
        return Err(Failure::Page(OAuthError::temporarily_unavailable(
            "as many people are logged in as this server takes",
        )));
    }
    let (store, new) = (proxy.store.clone(), session.clone());
    match proxy.on_control(async move { store.create(&new).await }).await {
        Some(Ok(())) => {
            // Apart: the browser need not wait for it.
            proxy.control.spawn(make_room(proxy.clone(), session.clone()));
            Ok(session)
        }
        Some(Err(StoreError::Exists)) => Err(Failure::Used),
        Some(Err(error)) => {
            tracing::error!(%error, "a login could not be stored");
            Err(Failure::Page(match error {
                StoreError::Refused(_) => OAuthError::server_error("the login could not be stored"),
                _ => OAuthError::temporarily_unavailable("the login could not be stored"),
            }))
        }
        None => Err(Failure::Page(OAuthError::temporarily_unavailable("this server is shutting down"))),
    }
}

/// Ends what a person has too many of: the sessions that have gone longest without a refresh.
async fn make_room(proxy: Arc<AuthorizationServer>, new: Session) {
    let surplus = proxy.sessions.live().surplus(&new, proxy.config.sessions.max_per_user as usize);
    for id in surplus {
        let ended = match proxy.read(id).await {
            Ok(Some(stored)) => {
                let why = "the person has more than sessions.maxPerUser";
                proxy.end(&stored, SessionEnd::Surplus, why, None).await
            }
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = ended {
            // The login itself is good; the next one makes room.
            tracing::warn!(%error, session = %id, "a surplus session could not be ended");
        }
    }
}

fn new_session(
    proxy: &AuthorizationServer,
    keyring: &Keyring,
    login: &Login,
    logged_in: LoggedIn,
) -> Result<Session, Failure> {
    let LoggedIn { person, refresh_token } = logged_in;
    let email = check_email(&person.email);
    let allowed = proxy.check_access(&person);
    let email = match (email, allowed) {
        (Ok(email), Ok(())) => email,
        (Ok(email), Err(denied)) => {
            let error = OAuthError::access_denied(format!("You logged in as {email}, but {denied}."));
            return Err(Failure::Denied(email, error));
        }
        (Err(denied), _) => {
            let error = OAuthError::access_denied(format!("You logged in, but {denied}."));
            return Err(Failure::Denied(person.subject, error));
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
        Some(token) => Some(super::super::recheck::seal(id, &token, keyring).map_err(Failure::Page)?),
        None => None,
    };
    Ok(Session { upstream_token, ..login.session(id, user, claims, proxy.now()) })
}
