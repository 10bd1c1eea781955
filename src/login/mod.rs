//! `login`: logs in to an MCP server as its client does, for people and programs without one that can. It keeps the login,
//! prints its access token, or stands between a program that speaks MCP on standard input and output and the server.
//!
//! It is a client of any MCP server with OAuth, and knows neither `operator` nor `proxy`.

mod account;
mod authorization;
mod bridge;
mod browser;
mod challenge;
mod discovery;
mod http;
mod input;
mod listener;
mod store;
mod tokens;

use std::{
    io::{self, IsTerminal, Write},
    path::PathBuf,
};

use secrecy::ExposeSecret;
use thiserror::Error;
use tokio_util::sync::CancellationToken;
use url::Url;

use account::{Account, Asks, Otherwise, somebody_is_there};
use authorization::{AnswerError, NoRandomness};
use discovery::DiscoveryError;
use http::{HttpError, secure};
use store::{Store, StoreError};
use tokens::{TokenError, Tokens};

/// For `--help`.
pub const EXAMPLES: &str = "\
Examples:
  mcp-oauth-operator login https://mcp.example.com/mcp
      logs in with a browser, here or on another machine
  curl -H \"Authorization: Bearer $(mcp-oauth-operator login https://mcp.example.com/mcp --print-token)\" ...
      a token that works, renewed when it has ended
  {\"command\": \"mcp-oauth-operator\", \"args\": [\"login\", \"https://mcp.example.com/mcp\", \"--bridge\"]}
      for the configuration of an MCP client that can only start servers

docs/login.md tells more.";

/// What `login` is told.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// The MCP endpoint, such as https://mcp.example.com/mcp
    url: String,

    /// Print an access token that works, and nothing else, on standard output
    #[arg(long)]
    print_token: bool,

    /// Be an MCP server on standard input and output, for a program that can only start servers
    #[arg(long, conflicts_with = "print_token")]
    bridge: bool,

    /// Never ask for a login: fail if there is none that works
    #[arg(long)]
    no_login: bool,

    /// Only print the address to log in at, and open no browser
    #[arg(long)]
    no_browser: bool,

    /// The port of this machine that the browser comes back to [default: a free one]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,

    /// The client to be, at servers where programs cannot register themselves
    #[arg(long, value_name = "ID")]
    client_id: Option<String>,

    /// Where logins are kept [default: ~/.local/state/mcp-oauth-operator/login]
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
}

/// Why there is no login.
#[derive(Debug, Error)]
pub enum LoginError {
    /// A server cannot be asked.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// It is not known where to log in.
    #[error(transparent)]
    Discovery(#[from] DiscoveryError),
    /// The answer that the browser brought.
    #[error(transparent)]
    Answer(#[from] AnswerError),
    /// The authorization server gives no tokens.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// Logins cannot be kept.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No state and verifier.
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
    /// The browser has nowhere to come back to.
    #[error("cannot listen for the browser: {0}; choose another port with --port, or leave it out")]
    Port(#[source] io::Error),
    /// There is no login, and nobody to ask.
    #[error("there is no login to {0} that works: run `mcp-oauth-operator login {0}`")]
    NotLoggedIn(Url),
    /// Nobody logged in.
    #[error("nobody has logged in to {0} for a quarter of an hour: try again")]
    NobodyCame(Url),
    /// A token of the authorization server is not one for the MCP server.
    #[error("{0} refuses the token that was just given for it: whoever runs the server must look at its log")]
    NotTaken(Url),
    /// Ctrl-C.
    #[error("interrupted: nobody has logged in")]
    Interrupted,
    /// Nobody reads what is printed.
    #[error("cannot write to standard output: {0}")]
    Output(#[source] io::Error),
}

/// Logs in, or prints a token, until that is done or `shutdown` comes.
///
/// # Errors
/// Why that is not possible.
pub async fn run(options: Options, shutdown: CancellationToken) -> Result<(), LoginError> {
    let url = secure(&options.url)?;
    let folder = options.store.clone().map_or_else(Store::default_folder, Ok)?;
    let asks = Asks {
        client_id: options.client_id.clone(),
        port: options.port,
        browser: !options.no_browser,
        // The input of a script that only wants a token is the script's, and that of the bridge is MCP.
        pasted: !options.bridge && (io::stdin().is_terminal() || !options.print_token),
    };
    let account = Account::new(url, folder, asks)?;
    let may_ask = !options.no_login && (!options.print_token || somebody_is_there());
    let otherwise = if may_ask { Otherwise::LogIn } else { Otherwise::Fail };
    if options.bridge {
        bridge::run(account, otherwise, shutdown).await;
        return Ok(());
    }
    let (tokens, new) = tokio::select! {
        result = account.working_token(otherwise) => result?,
        () = shutdown.cancelled() => return Err(LoginError::Interrupted),
    };
    let line = if options.print_token {
        format!("{}\n", tokens.access_token.expose_secret())
    } else {
        format!("{}logged in to {}, {}\n", if new { "" } else { "already " }, account.url, until(&tokens))
    };
    io::stdout().lock().write_all(line.as_bytes()).map_err(LoginError::Output)
}

/// Until when a login is good, as far as its client can know.
fn until(tokens: &Tokens) -> String {
    let renewed = if tokens.refresh_token.is_some() { "; it is renewed when it is used" } else { "" };
    match tokens.expires_at {
        Some(end) => format!("until {end:.0}{renewed}"),
        None => format!("until the server ends it{renewed}"),
    }
}

#[cfg(test)]
mod tests {
    use super::{tokens::tests::tokens, *};

    #[test]
    fn printed_login_contains_no_token() {
        let line = until(&tokens("access-secret", 1_800_000_000));
        assert_eq!(line, "until 2027-01-15T08:00:00Z; it is renewed when it is used");
    }
}
