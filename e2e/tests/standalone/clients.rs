//! Real clients over the life of a login (docs/clients.md): lost access tokens, a restarted proxy, an ended session.
//! Expiry is in `expiry.rs`.

use anyhow::{Context, Result, ensure};
use e2e::peers::{
    browser::Browser,
    claude_code::ClaudeCode,
    context_forge::TOOL,
    inspector::Inspector,
    json_lines::User,
    mcp_remote::McpRemote,
    sdk::{CallResult, Sdk, SdkVersion},
};
use serde_json::json;

use crate::{
    ALICE,
    bed::{self, Bed},
    dedicated_proxy::DedicatedProxy,
};

/// An installed client with its store.
pub trait Client {
    /// Starts the client, lets it use the server, and returns the number of logins. Without a user, a login is an
    /// error.
    async fn use_server(&self, url: &str, user: Option<User<'_>>) -> Result<usize>;

    /// Replaces the stored access token by an invalid one.
    fn invalidate_stored_token(&self) -> Result<()>;
}

/// A client's reaction to a start with an invalid access token.
#[derive(Clone, Copy, Eq, PartialEq)]
pub enum OnInvalidToken {
    /// It uses its refresh token.
    Refreshes,
    /// It requests a login, although it has a refresh token.
    LogsIn,
}

/// Checks the life of a login. Each step restarts the client.
async fn check_login_lifecycle(
    bed: &Bed,
    proxy: &DedicatedProxy,
    client: &impl Client,
    on_invalid_token: OnInvalidToken,
) {
    let browser = Browser::start(&bed.run).await.unwrap();
    let alice = User { browser: &browser, email: ALICE };
    let url = proxy.url();

    assert_eq!(client.use_server(&url, Some(alice)).await.unwrap(), 1, "the login");
    assert_eq!(client.use_server(&url, None).await.unwrap(), 0, "the next start");
    assert_eq!(proxy.registrations(), 1);

    invalidate_stored_token(proxy, client, on_invalid_token, alice).await;

    let before = proxy.token_requests();
    proxy.restart().await;
    assert_eq!(client.use_server(&url, None).await.unwrap(), 0, "a restart of the proxy");
    assert_eq!(proxy.token_requests(), before, "the access token was invalid after a restart");
    invalidate_stored_token(proxy, client, on_invalid_token, alice).await;

    assert!(proxy.delete_sessions().await > 0);
    assert_eq!(client.use_server(&url, Some(alice)).await.unwrap(), 1, "the session was ended");
    assert_eq!(client.use_server(&url, None).await.unwrap(), 0, "the start after the new login");
    assert_eq!(proxy.registrations(), 1, "the client has registered again");
    assert_eq!(proxy.clients().len(), 1, "the client has logged in with another client id");
    browser.close().await.unwrap();
}

async fn invalidate_stored_token(
    proxy: &DedicatedProxy,
    client: &impl Client,
    on_invalid_token: OnInvalidToken,
    alice: User<'_>,
) {
    let before = proxy.token_requests();
    client.invalidate_stored_token().unwrap();
    match on_invalid_token {
        OnInvalidToken::Refreshes => assert_eq!(client.use_server(&proxy.url(), None).await.unwrap(), 0),
        OnInvalidToken::LogsIn => assert_eq!(client.use_server(&proxy.url(), Some(alice)).await.unwrap(), 1),
    }
    assert_eq!(proxy.token_requests(), before + 1, "one token request");
}

impl Client for McpRemote {
    async fn use_server(&self, url: &str, user: Option<User<'_>>) -> Result<usize> {
        let mut connection = self.connect(url, user, &[]).await?;
        let text = connection.call(TOOL, json!({"message": "hello"})).await?;
        ensure!(text == "Echo: hello", "{text}");
        Ok(connection.logins())
    }

    fn invalidate_stored_token(&self) -> Result<()> {
        self.invalidate_access_tokens()
    }
}

#[tokio::test]
async fn mcp_remote_logs_in_again_only_after_its_session_ended() {
    let bed = bed::shared().await;
    let proxy = DedicatedProxy::up(&bed, "mcp-remote", &bed.tap.address).await;
    let client = McpRemote::install(&bed.run, "life").await.unwrap();
    check_login_lifecycle(&bed, &proxy, &client, OnInvalidToken::Refreshes).await;
}

impl Client for Sdk {
    async fn use_server(&self, url: &str, user: Option<User<'_>>) -> Result<usize> {
        logins(&self.call(url, user, TOOL, &json!({"message": "hello"})).await?)
    }

    fn invalidate_stored_token(&self) -> Result<()> {
        self.invalidate_access_token()
    }
}

fn logins(called: &CallResult) -> Result<usize> {
    ensure!(called.text == ["Echo: hello"] && !called.error, "{called:?}");
    Ok(called.logins)
}

#[tokio::test]
async fn typescript_sdk_1_logs_in_again_only_after_its_session_ended() {
    let bed = bed::shared().await;
    let proxy = DedicatedProxy::up(&bed, "typescript-1", &bed.tap.address).await;
    let client = Sdk::install(&bed.run, SdkVersion::TypeScript1, "typescript-1").await.unwrap();
    check_login_lifecycle(&bed, &proxy, &client, OnInvalidToken::Refreshes).await;
}

#[tokio::test]
async fn typescript_sdk_2_logs_in_again_only_after_its_session_ended() {
    let bed = bed::shared().await;
    let proxy = DedicatedProxy::up(&bed, "typescript-2", &bed.tap.address).await;
    let client = Sdk::install(&bed.run, SdkVersion::TypeScript2, "typescript-2").await.unwrap();
    check_login_lifecycle(&bed, &proxy, &client, OnInvalidToken::Refreshes).await;
}

/// The Python SDK does not store the expiry of its access token, and reacts to 401 with a login instead of a refresh.
/// So it refreshes only in the process that received the token.
async fn check_python_login_lifecycle(kind: SdkVersion, name: &str) {
    let bed = bed::shared().await;
    let proxy = DedicatedProxy::up(&bed, name, &bed.tap.address).await;
    let client = Sdk::install(&bed.run, kind, name).await.unwrap();
    check_login_lifecycle(&bed, &proxy, &client, OnInvalidToken::LogsIn).await;

    let before = proxy.token_requests();
    let called = client.call_before_and_after_expiry(&proxy.url(), TOOL, &json!({"message": "hello"})).await.unwrap();
    assert_eq!(logins(&called).unwrap(), 0);
    assert_eq!(proxy.token_requests(), before + 1);
}

#[tokio::test]
async fn python_sdk_1_refreshes_while_running_and_logs_in_after_a_start_with_an_expired_token() {
    check_python_login_lifecycle(SdkVersion::Python1, "python-1").await;
}

#[tokio::test]
async fn python_sdk_2_refreshes_while_running_and_logs_in_after_a_start_with_an_expired_token() {
    check_python_login_lifecycle(SdkVersion::Python2, "python-2").await;
}

impl Client for Inspector {
    async fn use_server(&self, url: &str, user: Option<User<'_>>) -> Result<usize> {
        let (text, logins) = self.call(url, user, "echo", "message=hello").await?;
        ensure!(text == "Echo: hello", "{text}");
        Ok(logins)
    }

    fn invalidate_stored_token(&self) -> Result<()> {
        self.invalidate_access_token()
    }
}

#[tokio::test]
async fn inspector_logs_in_again_only_after_its_session_ended() {
    let bed = bed::shared().await;
    // The Inspector sets the server's log level, which Context Forge allows only to administrators.
    let proxy = DedicatedProxy::up(&bed, "inspector", &bed.context_forge.everything).await;
    let client = Inspector::install(&bed.run, "life").await.unwrap();
    check_login_lifecycle(&bed, &proxy, &client, OnInvalidToken::Refreshes).await;
}

impl Client for ClaudeCode {
    async fn use_server(&self, _: &str, user: Option<User<'_>>) -> Result<usize> {
        if self.is_connected().await? {
            return Ok(0);
        }
        let user = user.context("Claude Code needs a login")?;
        let logins = self.log_in(user).await?;
        ensure!(self.is_connected().await?, "Claude Code has logged in but is not connected");
        Ok(logins)
    }

    fn invalidate_stored_token(&self) -> Result<()> {
        self.invalidate_access_token()
    }
}

#[tokio::test]
async fn claude_code_logs_in_again_only_after_its_session_ended() {
    let bed = bed::shared().await;
    let proxy = DedicatedProxy::up(&bed, "claude-code", &bed.tap.address).await;
    let client = ClaudeCode::install(&bed.run, "life").await.unwrap();
    client.add(&proxy.url()).await.unwrap();
    check_login_lifecycle(&bed, &proxy, &client, OnInvalidToken::Refreshes).await;

    let requests = bed.tap.requests().unwrap();
    let is_ours = |agent: &&str| agent.starts_with("claude-code/");
    let ours: Vec<_> = requests.iter().filter(|request| request.header("user-agent").iter().any(is_ours)).collect();
    assert!(ours.iter().any(|request| request.method == "POST"), "{requests:#?}");
    assert!(ours.iter().all(|request| request.header("x-forwarded-user") == [ALICE]), "{ours:#?}");
}
