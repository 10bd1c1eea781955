//! `login`: a command-line MCP client. It stores a login, prints its access token, or bridges stdio to the MCP server.
//!
//! It works with any MCP server that uses OAuth, and uses neither `operator` nor `proxy`.

mod account;
mod authorization;
mod bridge;
mod browser;
mod callback;
mod challenge;
mod discovery;
mod http;
mod input;
mod store;
mod tokens;

use std::{
    io::{self, IsTerminal, Write},
    path::PathBuf,
};

use thiserror::Error;
use tokio_util::sync::CancellationToken;
use url::Url;

use account::{Account, LoginOptions, Prompt};
use authorization::AuthorizationError;
use discovery::DiscoveryError;
use http::{HttpError, secure_url};
use store::StoreError;
use tokens::{TokenError, Tokens};

use crate::private_file::default_state_dir;

/// Part of `--help`.
pub const EXAMPLES: &str = "\
Examples:
  mcp-oauth-operator login https://mcp.example.com/mcp
      logs in with a browser, on this or another machine
  curl -H \"Authorization: Bearer $(mcp-oauth-operator login https://mcp.example.com/mcp --print-token)\" ...
      sends a valid token, refreshed if necessary
  {\"command\": \"mcp-oauth-operator\", \"args\": [\"login\", \"https://mcp.example.com/mcp\", \"--bridge\"]}
      configures an MCP client that can only start local servers

See docs/login.md.";

#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// URL of the MCP endpoint, such as https://mcp.example.com/mcp
    url: String,

    /// Print only a valid access token on standard output
    #[arg(long)]
    print_token: bool,

    /// Act as an MCP server on standard input and output, for clients that can only start local servers
    #[arg(long, conflicts_with = "print_token")]
    bridge: bool,

    /// Never prompt for a login: fail if no valid login is stored
    #[arg(long)]
    no_login: bool,

    /// Print the login URL and open no browser
    #[arg(long)]
    no_browser: bool,

    /// Local port of the redirect URI [default: a free port]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,

    /// Client id, for servers without client registration
    #[arg(long, value_name = "ID")]
    client_id: Option<String>,

    /// Directory of stored logins [default: ~/.local/state/mcp-oauth-operator/login]
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
}

#[derive(Debug, Error)]
pub enum LoginError {
    #[error(transparent)]
    Http(#[from] HttpError),
    #[error(transparent)]
    Discovery(#[from] DiscoveryError),
    #[error(transparent)]
    Authorization(#[from] AuthorizationError),
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the system's random number generator failed")]
    NoRandomness,
    #[error("cannot listen for the redirect: {0}; choose another port with --port, or omit it")]
    Port(#[source] io::Error),
    #[error("no valid login to {0} is stored: run `mcp-oauth-operator login {0}`")]
    NotLoggedIn(Url),
    #[error("the login to {0} was not completed within 15 minutes: try again")]
    TimedOut(Url),
    #[error("{0} rejects a token that was just issued for it: the server's administrator must check the server's log")]
    TokenRejected(Url),
    #[error("interrupted before the login was completed")]
    Interrupted,
    #[error("cannot write to standard output: {0}")]
    Output(#[source] io::Error),
}

/// Runs until the command is done or `shutdown` is cancelled.
pub async fn run(options: Options, shutdown: CancellationToken) -> Result<(), LoginError> {
    let url = secure_url(&options.url)?;
    let directory = options.store.or_else(|| default_state_dir("login")).ok_or(StoreError::NoHome)?;
    let login_options = LoginOptions {
        client_id: options.client_id,
        port: options.port,
        open_browser: !options.no_browser,
        // The bridge reads MCP messages from standard input, and a script that wants a token may read its own data from it.
        accept_paste: !options.bridge && (io::stdin().is_terminal() || !options.print_token),
    };
    let account = Account::new(url, directory, login_options)?;
    // Without a terminal, a script that needs a token must fail rather than wait.
    let is_interactive = io::stdin().is_terminal() || io::stderr().is_terminal();
    let may_prompt = !options.no_login && (!options.print_token || is_interactive);
    let prompt = if may_prompt { Prompt::Allowed } else { Prompt::Never };
    if options.bridge {
        bridge::run(account, prompt, shutdown).await;
        return Ok(());
    }
    let (tokens, is_new) = tokio::select! {
        result = account.verified_tokens(prompt) => result?,
        () = shutdown.cancelled() => return Err(LoginError::Interrupted),
    };
    let line = if options.print_token {
        format!("{}\n", tokens.access_token.secret())
    } else {
        format!("{}logged in to {}, {}\n", if is_new { "" } else { "already " }, account.url, expiry(&tokens))
    };
    io::stdout().lock().write_all(line.as_bytes()).map_err(LoginError::Output)
}

fn expiry(tokens: &Tokens) -> String {
    let end = tokens.expires_at.map_or_else(|| "the server ends the session".to_owned(), |time| format!("{time:.0}"));
    format!("until {end}{}", if tokens.refresh_token.is_some() { "; refreshed automatically" } else { "" })
}

#[cfg(test)]
mod tests {
    use super::{tokens::tests::tokens, *};

    #[test]
    fn printed_login_contains_no_token() {
        let line = expiry(&tokens("access-secret", 1_800_000_000));
        assert_eq!(line, "until 2027-01-15T08:00:00Z; refreshed automatically");
    }
}
