//! Slow tests: expired access tokens, rotation of the encryption key, and loss of all keys. All real clients run
//! together, so that they share the waiting time.

use std::time::Duration;

use anyhow::{Context, Result};
use e2e::peers::{
    browser::Browser,
    claude_code::ClaudeCode,
    inspector::Inspector,
    json_lines::User,
    mcp_remote::McpRemote,
    sdk::{Sdk, SdkVersion},
};
use futures::future::LocalBoxFuture;
use serde_json::json;

use crate::{
    ALICE,
    bed::{self, Bed},
    clients::{Client, OnInvalidToken},
    dedicated_proxy::DedicatedProxy,
};

/// A client's reaction to an unknown client id.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum OnUnknownClient {
    /// It registers again and requests a login.
    Registers,
    /// It requests a login with the unknown client id.
    Fails,
}

/// An object-safe version of [`Client`].
trait DynClient {
    fn use_server<'a>(&'a self, url: &'a str, user: Option<User<'a>>) -> LocalBoxFuture<'a, Result<usize>>;
}

impl<C: Client> DynClient for C {
    fn use_server<'a>(&'a self, url: &'a str, user: Option<User<'a>>) -> LocalBoxFuture<'a, Result<usize>> {
        Box::pin(Client::use_server(self, url, user))
    }
}

struct InstalledClient<'a> {
    name: &'static str,
    client: Box<dyn DynClient>,
    proxy: &'a DedicatedProxy,
    on_invalid_token: OnInvalidToken,
    on_unknown_client: OnUnknownClient,
}

impl InstalledClient<'_> {
    /// Lets the client use the server and returns the number of logins.
    async fn use_server(&self, user: Option<User<'_>>) -> Result<usize> {
        self.client.use_server(&self.proxy.url(), user).await.with_context(|| self.name.to_owned())
    }
}

async fn install<'a>(
    bed: &Bed,
    proxy: &'a DedicatedProxy,
    everything_proxy: &'a DedicatedProxy,
) -> Vec<InstalledClient<'a>> {
    let (run, name_prefix) = (&bed.run, "expiry");
    let installed = |name, client, on_invalid_token, on_unknown_client| InstalledClient {
        name,
        client,
        proxy,
        on_invalid_token,
        on_unknown_client,
    };
    let mut all = Vec::new();
    for (name, kind, on_invalid_token, on_unknown_client) in [
        ("TypeScript SDK 1", SdkVersion::TypeScript1, OnInvalidToken::Refreshes, OnUnknownClient::Registers),
        ("TypeScript SDK 2", SdkVersion::TypeScript2, OnInvalidToken::Refreshes, OnUnknownClient::Registers),
        ("Python SDK 1", SdkVersion::Python1, OnInvalidToken::LogsIn, OnUnknownClient::Fails),
        ("Python SDK 2", SdkVersion::Python2, OnInvalidToken::LogsIn, OnUnknownClient::Fails),
    ] {
        let client = Sdk::install(run, kind, &format!("{name_prefix}-{kind:?}")).await.unwrap();
        all.push(installed(name, Box::new(client) as Box<dyn DynClient>, on_invalid_token, on_unknown_client));
    }
    let mcp_remote = Box::new(McpRemote::install(run, name_prefix).await.unwrap());
    all.push(installed("mcp-remote", mcp_remote, OnInvalidToken::Refreshes, OnUnknownClient::Registers));
    let claude = ClaudeCode::install(run, name_prefix).await.unwrap();
    claude.add(&proxy.url()).await.unwrap();
    all.push(installed("Claude Code", Box::new(claude), OnInvalidToken::Refreshes, OnUnknownClient::Registers));
    let inspector = Box::new(Inspector::install(run, name_prefix).await.unwrap());
    let inspector = installed("Inspector", inspector, OnInvalidToken::Refreshes, OnUnknownClient::Registers);
    all.push(InstalledClient { proxy: everything_proxy, ..inspector });
    all
}

#[tokio::test]
async fn clients_survive_encryption_key_rotation_and_token_expiry() {
    let bed = bed::shared().await;
    let browser = Browser::start(&bed.run).await.unwrap();
    let alice = User { browser: &browser, email: ALICE };
    // The shortest allowed lifetime: tokens expire before the proxy seals with the new key, which is five minutes after
    // loading it.
    let settings = [("tokens", json!({"accessTTL": "2m"}))];
    let proxy = DedicatedProxy::with(&bed, "expiry", &bed.tap.address, &settings).await;
    let everything = DedicatedProxy::with(&bed, "expiry-everything", &bed.context_forge.everything, &settings).await;
    let clients = install(&bed, &proxy, &everything).await;

    for proxy in [&proxy, &everything] {
        proxy.process().change_encryption_key().unwrap();
    }
    for client in &clients {
        assert_eq!(client.use_server(Some(alice)).await.unwrap(), 1, "{}: the login", client.name);
    }
    for proxy in [&proxy, &everything] {
        let active = "the new encryption key is used for sealing";
        proxy.process().wait_until_logged(active, Duration::from_secs(360)).unwrap();
    }

    for client in &clients {
        let before = client.proxy.token_requests();
        let (user, logins) = match client.on_invalid_token {
            OnInvalidToken::Refreshes => (None, 0),
            OnInvalidToken::LogsIn => (Some(alice), 1),
        };
        assert_eq!(client.use_server(user).await.unwrap(), logins, "{}: with an expired token", client.name);
        // Claude Code refreshes before each request if its token is valid for less than five minutes.
        assert!(client.proxy.token_requests() > before, "{}: with an expired token", client.name);
        // With tokens that the new key sealed.
        assert_eq!(client.use_server(None).await.unwrap(), 0, "{}: the next start", client.name);
    }
    assert_eq!(proxy.registrations() + everything.registrations(), clients.len(), "a client has registered again");

    // All keys are lost, the last row of the table in docs/clients.md.
    for proxy in [&proxy, &everything] {
        proxy.process().replace_encryption_key().await.unwrap();
    }
    for client in &clients {
        let before = client.proxy.registrations();
        let result = client.use_server(Some(alice)).await;
        let registered = client.proxy.registrations() - before;
        let details = format!("{}: {result:?}, {registered} registrations", client.name);
        match client.on_unknown_client {
            OnUnknownClient::Registers => assert!(matches!(result, Ok(1)) && registered == 1, "{details}"),
            OnUnknownClient::Fails => assert!(result.is_err() && registered == 0, "{details}"),
        }
    }
    browser.close().await.unwrap();
}
