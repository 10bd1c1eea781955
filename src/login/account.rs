//! One person's login at one MCP endpoint: kept, renewed without them, and made anew with them.

use std::{
    io::{self, IsTerminal, Write},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::{Mutex, mpsc};
use url::Url;

use super::{
    LoginError,
    authorization::{AnswerError, Authorization},
    browser,
    discovery::{self, Server, discover},
    http::Http,
    input,
    listener::{Answer, Listener, Waiting},
    store::{Login, Store},
    tokens::{Asking, TokenError, Tokens, register},
};

/// How long a person may take. Authorization servers give them less.
const PATIENCE: Duration = Duration::from_secs(15 * 60);

/// How often the store is looked at for a login by another process.
const LOOK: Duration = Duration::from_millis(500);

/// How a person is asked to log in.
#[derive(Clone, Debug)]
pub struct Asks {
    /// The client id to use, instead of a registration.
    pub client_id: Option<String>,
    /// The loopback port.
    pub port: Option<u16>,
    /// Whether to open a browser.
    pub browser: bool,
    /// Whether the answer may be pasted on standard input.
    pub pasted: bool,
}

/// The login at an endpoint.
#[derive(Debug)]
pub struct Account {
    /// How servers are asked.
    pub http: Http,
    /// The endpoint.
    pub url: Url,
    store: Store,
    asks: Asks,
    /// One task at a time renews or logs in; the others find its tokens.
    alone: Mutex<()>,
}

/// What is done when there is no login that works.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Otherwise {
    /// A person is asked.
    LogIn,
    /// An error.
    Fail,
}

impl Account {
    /// The login at an endpoint, kept in `folder`.
    ///
    /// # Errors
    /// When there are no certificate authorities.
    pub fn new(url: Url, folder: PathBuf, asks: Asks) -> Result<Self, LoginError> {
        let (http, store) = (Http::new(&url)?, Store::new(folder, &url));
        Ok(Self { http, url, store, asks, alone: Mutex::default() })
    }

    /// An access token that is good for another minute, as far as is known here. `refused` is one that the endpoint did not
    /// take.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn token(&self, refused: Option<&SecretString>, otherwise: Otherwise) -> Result<Tokens, LoginError> {
        let _alone = self.alone.lock().await;
        let kept = self.kept(refused).await?;
        if let Some(tokens) = kept {
            return Ok(tokens);
        }
        match otherwise {
            Otherwise::LogIn => self.log_in().await,
            Otherwise::Fail => Err(LoginError::NotLoggedIn(self.url.clone())),
        }
    }

    /// Tokens of a new login, because those that were renewed have been refused too: the endpoint may have moved to another
    /// authorization server.
    ///
    /// # Errors
    /// Why there are none.
    pub async fn anew(&self, refused: Option<&SecretString>, otherwise: Otherwise) -> Result<Tokens, LoginError> {
        let _alone = self.alone.lock().await;
        // Whoever has waited may find what another task has got.
        if let Some(tokens) = self.live(refused)? {
            return Ok(tokens);
        }
        match otherwise {
            Otherwise::LogIn => self.log_in().await,
            Otherwise::Fail => Err(LoginError::NotLoggedIn(self.url.clone())),
        }
    }

    /// The kept tokens, if they are good as they are.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn live(&self, refused: Option<&SecretString>) -> Result<Option<Tokens>, LoginError> {
        let good = |tokens: &Tokens| tokens.last(Timestamp::now()) && !same(refused, &tokens.access_token);
        Ok(self.login()?.and_then(|login| login.tokens).filter(good))
    }

    /// An access token as [`Self::token`] gives it, after asking the endpoint whether it takes it: a login may have been ended from the other side. Says also
    /// whether a person had to log in.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn working_token(&self, otherwise: Otherwise) -> Result<(Tokens, bool), LoginError> {
        let mut refused = None;
        // Once as it is kept, once renewed.
        for _ in 0..2 {
            match self.token(refused.as_ref(), Otherwise::Fail).await {
                Ok(tokens) if discovery::takes(&self.http, &self.url, tokens.access_token.expose_secret()).await? => {
                    return Ok((tokens, false));
                }
                Ok(tokens) => refused = Some(tokens.access_token),
                Err(LoginError::NotLoggedIn(_)) => break,
                Err(error) => return Err(error),
            }
        }
        let tokens = self.anew(refused.as_ref(), otherwise).await?;
        if discovery::takes(&self.http, &self.url, tokens.access_token.expose_secret()).await? {
            return Ok((tokens, true));
        }
        Err(LoginError::NotTaken(self.url.clone()))
    }

    /// The kept tokens, renewed if need be; none if that is over.
    async fn kept(&self, refused: Option<&SecretString>) -> Result<Option<Tokens>, LoginError> {
        if let Some(tokens) = self.live(refused)? {
            return Ok(Some(tokens));
        }
        if self.login()?.is_none() {
            return Ok(None);
        }
        let lock = self.store.lock().await?;
        // Another process may have renewed it meanwhile.
        if let Some(tokens) = self.live(refused)? {
            return Ok(Some(tokens));
        }
        let Some(mut login) = self.login()? else { return Ok(None) };
        let Some(tokens) = login.tokens.take() else { return Ok(None) };
        let Some(refresh) = tokens.refresh_token.clone() else { return Ok(None) };
        let (http, store) = (self.http.clone(), self.store.clone());
        // Apart: whoever does not wait for it any longer must not take the server's next refresh token with them.
        let renewing = tokio::spawn(async move {
            match asking(&login).refresh(&http, &refresh, Timestamp::now()).await {
                Ok(renewed) => {
                    login.tokens = Some(renewed.clone());
                    store.write(&lock, &login)?;
                    Ok(Some(renewed))
                }
                // What is left is the registration.
                Err(
                    TokenError::InvalidGrant(reason)
                    | TokenError::InvalidClient(reason)
                    | TokenError::Refused { message: reason, .. },
                ) => {
                    tracing::debug!(reason, "the login has ended");
                    store.write(&lock, &login)?;
                    Ok(None)
                }
                Err(error) => Err(LoginError::from(error)),
            }
        });
        match renewing.await.unwrap_or(Ok(None)) {
            // Better the last minute of this one than none.
            Err(error) if tokens.live(Timestamp::now()) && !same(refused, &tokens.access_token) => {
                tracing::warn!(%error, "the login cannot be refreshed now");
                Ok(Some(tokens))
            }
            renewed => renewed,
        }
    }

    /// What is kept, if it is of the client that is asked for.
    fn login(&self) -> Result<Option<Login>, LoginError> {
        let ours = |login: &Login| self.asks.client_id.as_ref().is_none_or(|id| login.client_id == *id);
        Ok(self.store.read()?.filter(ours))
    }

    /// Asks a person.
    async fn log_in(&self) -> Result<Tokens, LoginError> {
        let server = discover(&self.http, &self.url).await?;
        let listener = Listener::open(self.asks.port).map_err(LoginError::Port)?;
        let port = listener.port().map_err(LoginError::Port)?;
        let mut login = Login {
            url: self.url.clone(),
            client_id: self.client(&server).await?,
            issuer: server.issuer.clone(),
            token_endpoint: server.token_endpoint.clone(),
            resource: server.resource.clone(),
            tokens: None,
        };
        let authorization = Arc::new(Authorization::new(&server, &login.client_id, port)?);
        let mut waiting = listener.wait(authorization.clone()).map_err(LoginError::Port)?;
        self.ask(&authorization);
        let code = match tokio::time::timeout(PATIENCE, self.answer(&authorization, &mut waiting)).await {
            Ok(Came::Code(code)) => code?,
            Ok(Came::Elsewhere(tokens)) => return Ok(*tokens),
            Err(_) => return Err(LoginError::NobodyCame(self.url.clone())),
        };
        let redeemed = asking(&login)
            .redeem(&self.http, &code, &authorization.verifier, &authorization.redirect_uri, Timestamp::now())
            .await;
        waiting.close().await;
        let tokens = redeemed?;
        login.tokens = Some(tokens.clone());
        let lock = self.store.lock().await?;
        self.store.write(&lock, &login)?;
        Ok(tokens)
    }

    /// Who we are at this server: as told, as registered before if it still knows that, or as registered now.
    async fn client(&self, server: &Server) -> Result<String, LoginError> {
        if let Some(id) = &self.asks.client_id {
            return Ok(id.clone());
        }
        if let Some(login) = self.store.read()?.filter(|login| login.issuer == server.issuer) {
            let asking = Asking { endpoint: &server.token_endpoint, ..asking(&login) };
            if asking.is_known(&self.http, Timestamp::now()).await? {
                return Ok(login.client_id);
            }
        }
        Ok(register(&self.http, server.registration_endpoint.as_ref()).await?)
    }

    /// Shows a person where to go.
    fn ask(&self, authorization: &Authorization) {
        let opened = self.asks.browser && browser::open(&authorization.url);
        let how = if opened {
            "Your browser opens. If it does not, open this address in one"
        } else {
            "Open this address in a browser"
        };
        // Whoever reads this may be gone, and the login goes on by the browser.
        let mut to_person = io::stderr();
        let _ = writeln!(to_person, "Log in to {}. {how}:\n\n  {}\n", self.url, authorization.url);
        if self.asks.pasted {
            let _ = writeln!(
                to_person,
                "If the browser is on another machine, it ends at a page that cannot be reached: paste the address of that \
                 page here ({}?...), and press Enter.",
                authorization.redirect_uri
            );
        }
    }

    /// The first answer: in the browser, pasted, or by another process that logged in.
    async fn answer(&self, authorization: &Authorization, waiting: &mut Waiting) -> Came {
        let mut lines = self.asks.pasted.then(input::lines);
        let before = self.login().ok().flatten().and_then(|login| login.tokens);
        let mut look = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                answer = waiting.answer() => return Came::Code(answer),
                line = next(&mut lines) => match pasted(authorization, &line) {
                    Err(error @ AnswerError::Foreign) => {
                        let _ = writeln!(io::stderr(), "{error}. Paste the whole address that the browser ends at.");
                    }
                    answer => return Came::Code(answer),
                },
                _ = look.tick() => {
                    let now = self.login().ok().flatten().and_then(|login| login.tokens);
                    let new = now.filter(|now| !same(before.as_ref().map(|before| &before.access_token), &now.access_token));
                    if let Some(tokens) = new.filter(|tokens| tokens.last(Timestamp::now())) {
                        return Came::Elsewhere(Box::new(tokens));
                    }
                }
            }
        }
    }
}

/// How a login came about.
enum Came {
    Code(Answer),
    Elsewhere(Box<Tokens>),
}

/// The next pasted line; when no more can come, none ever does.
async fn next(lines: &mut Option<mpsc::Receiver<String>>) -> String {
    if let Some(receiver) = lines
        && let Some(line) = receiver.recv().await
    {
        return line;
    }
    std::future::pending().await
}

/// The code in a pasted address, or in the part of it after the question mark.
fn pasted(authorization: &Authorization, line: &str) -> Answer {
    let query = line.split_once('?').map_or(line, |(_, query)| query);
    authorization.code(query.split('#').next().unwrap_or_default())
}

fn asking(login: &Login) -> Asking<'_> {
    Asking { endpoint: &login.token_endpoint, client_id: &login.client_id, resource: &login.resource }
}

fn same(one: Option<&SecretString>, other: &SecretString) -> bool {
    one.is_some_and(|one| one.expose_secret() == other.expose_secret())
}

/// Whether somebody is there to log in: a script that runs at night must fail, and not wait for them.
pub fn somebody_is_there() -> bool {
    io::stdin().is_terminal() || io::stderr().is_terminal()
}

#[cfg(test)]
mod tests {
    use super::{super::authorization::tests::authorization, *};

    #[test]
    fn redirect_can_be_pasted_whole_or_in_part() {
        let login = authorization(4711);
        let query = "code=good&state=the-state&iss=https%3A%2F%2Fas.example.com";
        for line in [query.to_owned(), format!("http://127.0.0.1:4711/callback?{query}"), format!("?{query}#fragment")]
        {
            assert_eq!(pasted(&login, &line).unwrap().expose_secret(), "good", "{line}");
        }
        for line in ["good", "https://mcp.example.com/", "http://127.0.0.1:4711/callback?code=good"] {
            assert!(matches!(pasted(&login, line), Err(AnswerError::Foreign)), "{line}");
        }
    }
}
