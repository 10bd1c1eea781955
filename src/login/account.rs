//! The login at one MCP endpoint: stored, refreshed, or requested from the user.

use std::{
    io::{self, Write},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use openidconnect::AccessToken;
use secrecy::SecretString;
use tokio::{
    sync::Mutex,
    time::{interval, timeout},
};
use url::Url;

use super::{
    LoginError,
    authorization::{Authorization, AuthorizationError},
    browser,
    callback::{self, AuthorizationResult, CallbackServer},
    discovery::{Discovered, accepts_token, discover},
    http::Http,
    input,
    store::Store,
    tokens::{Login, TokenError, Tokens, register},
};

/// Authorization servers have shorter deadlines.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(15 * 60);

/// How often the store is checked for a login by another process.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

#[derive(Clone, Debug)]
pub struct LoginOptions {
    /// Replaces client registration.
    pub client_id: Option<String>,
    pub port: Option<u16>,
    pub open_browser: bool,
    /// Whether the user may paste the redirect on standard input.
    pub accept_paste: bool,
}

#[derive(Debug)]
pub struct Account {
    pub http: Http,
    pub url: Url,
    store: Store,
    options: LoginOptions,
    /// One task at a time refreshes or logs in. The others then use its tokens.
    mutex: Mutex<()>,
}

/// Whether a user may be prompted if there is no valid login.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Prompt {
    Allowed,
    Never,
}

enum Completed {
    Code(SecretString),
    OtherProcess(Tokens),
}

impl Account {
    pub fn new(url: Url, directory: PathBuf, options: LoginOptions) -> Result<Self, LoginError> {
        let (http, store) = (Http::new(&url)?, Store::new(directory, &url));
        Ok(Self { http, url, store, options, mutex: Mutex::default() })
    }

    /// Returns tokens that are valid for at least another minute. `rejected` is an access token that the endpoint rejected.
    pub async fn tokens(&self, rejected: Option<&AccessToken>, prompt: Prompt) -> Result<Tokens, LoginError> {
        let _guard = self.mutex.lock().await;
        match self.stored_or_refreshed(rejected).await? {
            Some(tokens) => Ok(tokens),
            None => self.log_in(prompt).await,
        }
    }

    /// Logs in without a refresh, for when the endpoint rejects refreshed tokens too: it may use another authorization
    /// server now.
    pub async fn new_tokens(&self, rejected: Option<&AccessToken>, prompt: Prompt) -> Result<Tokens, LoginError> {
        let _guard = self.mutex.lock().await;
        // Another task may have logged in while this one waited.
        match self.fresh_tokens(rejected)? {
            Some(tokens) => Ok(tokens),
            None => self.log_in(prompt).await,
        }
    }

    /// Returns the stored tokens if they need no refresh.
    pub fn fresh_tokens(&self, rejected: Option<&AccessToken>) -> Result<Option<Tokens>, LoginError> {
        let tokens = self.stored_login()?.and_then(|login| login.tokens);
        Ok(tokens.filter(|tokens| tokens.is_fresh(Timestamp::now()) && rejected != Some(&tokens.access_token)))
    }

    /// Returns tokens that the endpoint has just accepted, because the server can end a login at any time. The flag tells
    /// whether a new login was necessary.
    pub async fn verified_tokens(&self, prompt: Prompt) -> Result<(Tokens, bool), LoginError> {
        let mut rejected = None;
        // The stored tokens, then the refreshed ones.
        for _ in 0..2 {
            match self.tokens(rejected.as_ref(), Prompt::Never).await {
                Ok(tokens) if accepts_token(&self.http, &self.url, &tokens.access_token).await? => {
                    return Ok((tokens, false));
                }
                Ok(tokens) => rejected = Some(tokens.access_token),
                Err(LoginError::NotLoggedIn(_)) => break,
                Err(error) => return Err(error),
            }
        }
        let tokens = self.new_tokens(rejected.as_ref(), prompt).await?;
        if accepts_token(&self.http, &self.url, &tokens.access_token).await? {
            return Ok((tokens, true));
        }
        Err(LoginError::TokenRejected(self.url.clone()))
    }

    /// Returns `None` if the login has ended.
    async fn stored_or_refreshed(&self, rejected: Option<&AccessToken>) -> Result<Option<Tokens>, LoginError> {
        if let Some(tokens) = self.fresh_tokens(rejected)? {
            return Ok(Some(tokens));
        }
        if self.stored_login()?.is_none() {
            return Ok(None);
        }
        let lock = self.store.lock().await?;
        // Another process may have refreshed them while this one waited.
        if let Some(tokens) = self.fresh_tokens(rejected)? {
            return Ok(Some(tokens));
        }
        let Some(mut login) = self.stored_login()? else { return Ok(None) };
        let Some(tokens) = login.tokens.take() else { return Ok(None) };
        let Some(refresh_token) = tokens.refresh_token.clone() else { return Ok(None) };
        let (http, store) = (self.http.clone(), self.store.clone());
        // A task of its own: if the caller is cancelled, the rotated refresh token must still be stored.
        let refresh = tokio::spawn(async move {
            match login.refresh(&http, &refresh_token, Timestamp::now()).await {
                Ok(refreshed) => login.tokens = Some(refreshed),
                // Keeps only the registration.
                Err(
                    TokenError::InvalidGrant(message)
                    | TokenError::InvalidClient(message)
                    | TokenError::Refused { message, .. },
                ) => tracing::debug!(reason = message, "the login has ended"),
                Err(error) => return Err(LoginError::from(error)),
            }
            store.write(&lock, &login)?;
            Ok(login.tokens)
        });
        match refresh.await.unwrap_or(Ok(None)) {
            // The old token is still usable for less than a minute.
            Err(error) if tokens.is_valid(Timestamp::now()) && rejected != Some(&tokens.access_token) => {
                tracing::warn!(%error, "cannot refresh the login, using the old token");
                Ok(Some(tokens))
            }
            refreshed => refreshed,
        }
    }

    /// Ignores a login with another client id than `--client-id`.
    fn stored_login(&self) -> Result<Option<Login>, LoginError> {
        let matches = |login: &Login| self.options.client_id.as_ref().is_none_or(|id| login.client_id == *id);
        Ok(self.store.read()?.filter(matches))
    }

    async fn log_in(&self, prompt: Prompt) -> Result<Tokens, LoginError> {
        if prompt == Prompt::Never {
            return Err(LoginError::NotLoggedIn(self.url.clone()));
        }
        let server = discover(&self.http, &self.url).await?;
        let (listener, port) = callback::bind(self.options.port).map_err(LoginError::Port)?;
        let client_id = self.client_id(&server).await?;
        let authorization = Arc::new(Authorization::new(&server, &client_id, port).ok_or(LoginError::NoRandomness)?);
        let mut callbacks = CallbackServer::start(listener, authorization.clone()).map_err(LoginError::Port)?;
        self.print_instructions(&authorization);
        let completed = timeout(LOGIN_TIMEOUT, self.wait_for_user(&authorization, &mut callbacks)).await;
        let code = match completed.map_err(|_| LoginError::TimedOut(self.url.clone()))?? {
            Completed::Code(code) => code,
            Completed::OtherProcess(tokens) => return Ok(tokens),
        };
        let (issuer, token_endpoint, resource) = (server.issuer, server.token_endpoint, server.resource);
        let mut login = Login { url: self.url.clone(), issuer, token_endpoint, resource, client_id, tokens: None };
        let redeemed = login.redeem(&self.http, &code, &authorization, Timestamp::now()).await;
        callbacks.close().await;
        let tokens = redeemed?;
        login.tokens = Some(tokens.clone());
        let lock = self.store.lock().await?;
        self.store.write(&lock, &login)?;
        Ok(tokens)
    }

    /// Returns the configured client id, else the stored one if the server still knows it, else a new one.
    async fn client_id(&self, server: &Discovered) -> Result<String, LoginError> {
        if let Some(id) = &self.options.client_id {
            return Ok(id.clone());
        }
        if let Some(mut login) = self.store.read()?.filter(|login| login.issuer == server.issuer) {
            login.token_endpoint = server.token_endpoint.clone();
            if login.is_client_known(&self.http, Timestamp::now()).await? {
                return Ok(login.client_id);
            }
        }
        Ok(register(&self.http, server.registration_endpoint.as_ref()).await?)
    }

    fn print_instructions(&self, authorization: &Authorization) {
        let opened = self.options.open_browser && browser::open(&authorization.url);
        let open = if opened { "Your browser opens. If it does not, open" } else { "Open" };
        // Not `eprintln!`: it panics if standard error is closed, but the login can still succeed.
        let _ = writeln!(
            io::stderr(),
            "Log in to {}. {open} this URL in a browser:\n\n  {}\n",
            self.url,
            authorization.url
        );
        if self.options.accept_paste {
            let _ = writeln!(
                io::stderr(),
                "If the browser is on another machine, it ends at a page that cannot load: paste the URL of that page here \
                 ({}?...), and press Enter.",
                authorization.redirect_uri
            );
        }
    }

    /// Waits for the redirect, a pasted redirect, or a login by another process.
    async fn wait_for_user(
        &self,
        authorization: &Authorization,
        callbacks: &mut CallbackServer,
    ) -> Result<Completed, AuthorizationError> {
        let mut lines = self.options.accept_paste.then(input::lines);
        let before =
            self.stored_login().ok().flatten().and_then(|login| login.tokens).map(|tokens| tokens.access_token);
        let mut poll = interval(POLL_INTERVAL);
        loop {
            tokio::select! {
                Some(result) = callbacks.results.recv() => return result.map(Completed::Code),
                Some(line) = async { lines.as_mut()?.recv().await } => match parse_pasted(authorization, &line) {
                    Err(error @ AuthorizationError::WrongState) => {
                        let _ = writeln!(io::stderr(), "{error}. Paste the complete URL of the page at which the browser ended.");
                    }
                    result => return result.map(Completed::Code),
                },
                _ = poll.tick() => {
                    if let Ok(Some(tokens)) = self.fresh_tokens(before.as_ref()) {
                        return Ok(Completed::OtherProcess(tokens));
                    }
                }
            }
        }
    }
}

/// Accepts the whole URL of the redirect, or its query.
fn parse_pasted(authorization: &Authorization, line: &str) -> AuthorizationResult {
    let query = line.split_once('?').map_or(line, |(_, query)| query);
    authorization.code(query.split('#').next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::{super::authorization::tests::authorization, *};

    #[test]
    fn redirect_can_be_pasted_whole_or_in_part() {
        let login = authorization(4711);
        let query = "code=good&state=the-state&iss=https%3A%2F%2Fas.example.com";
        for line in [query.to_owned(), format!("http://127.0.0.1:4711/callback?{query}"), format!("?{query}#fragment")]
        {
            assert_eq!(parse_pasted(&login, &line).unwrap().expose_secret(), "good", "{line}");
        }
        for line in ["good", "https://mcp.example.com/", "http://127.0.0.1:4711/callback?code=good"] {
            assert!(matches!(parse_pasted(&login, line), Err(AuthorizationError::WrongState)), "{line}");
        }
    }
}
