//! Slow tests: expired access tokens, rotation of the encryption key, and loss of all keys. All real clients run
//! together, so that they share the waiting time.

use std::time::Duration;

use anyhow::{Context, Result};
use e2e::peers::{
    browser::Browser,
    claude_code::ClaudeCode,
    inspector::Inspector,
    json_lines::Person,
    mcp_remote::McpRemote,
    sdk::{Kind, Sdk},
};
use futures::future::LocalBoxFuture;
use serde_json::json;

use crate::{
    ALICE,
    bed::{self, Bed},
    clients::{Client, Lost},
    own_proxy::OwnProxy,
};

/// A client's reaction to an unknown client id.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Forgotten {
    /// It registers again and requests a login.
    Registers,
    /// It requests a login with the unknown client id.
    Stuck,
}

/// An object-safe version of [`Client`].
trait AnyClient {
    fn work<'a>(&'a self, url: &'a str, person: Option<Person<'a>>) -> LocalBoxFuture<'a, Result<usize>>;
}

impl<C: Client> AnyClient for C {
    fn work<'a>(&'a self, url: &'a str, person: Option<Person<'a>>) -> LocalBoxFuture<'a, Result<usize>> {
        Box::pin(Client::work(self, url, person))
    }
}

struct Installed<'a> {
    name: &'static str,
    client: Box<dyn AnyClient>,
    proxy: &'a OwnProxy,
    lost: Lost,
    forgotten: Forgotten,
}

impl Installed<'_> {
    /// Lets the client use the server and returns the number of logins.
    async fn work(&self, person: Option<Person<'_>>) -> Result<usize> {
        self.client.work(&self.proxy.url(), person).await.with_context(|| self.name.to_owned())
    }
}

async fn install<'a>(bed: &Bed, proxy: &'a OwnProxy, before_everything: &'a OwnProxy) -> Vec<Installed<'a>> {
    let (run, named) = (&bed.run, "aging");
    let installed = |name, client, lost, forgotten| Installed { name, client, proxy, lost, forgotten };
    let mut all = Vec::new();
    for (name, kind, lost, forgotten) in [
        ("TypeScript SDK 1", Kind::TypeScript1, Lost::Refreshes, Forgotten::Registers),
        ("TypeScript SDK 2", Kind::TypeScript2, Lost::Refreshes, Forgotten::Registers),
        ("Python SDK 1", Kind::Python1, Lost::LogsIn, Forgotten::Stuck),
        ("Python SDK 2", Kind::Python2, Lost::LogsIn, Forgotten::Stuck),
    ] {
        let client = Sdk::install(run, kind, &format!("{named}-{kind:?}")).await.unwrap();
        all.push(installed(name, Box::new(client) as Box<dyn AnyClient>, lost, forgotten));
    }
    let mcp_remote = Box::new(McpRemote::install(run, named).await.unwrap());
    all.push(installed("mcp-remote", mcp_remote, Lost::Refreshes, Forgotten::Registers));
    let claude = ClaudeCode::install(run, named).await.unwrap();
    claude.add(&proxy.url()).await.unwrap();
    all.push(installed("Claude Code", Box::new(claude), Lost::Refreshes, Forgotten::Registers));
    let inspector = Box::new(Inspector::install(run, named).await.unwrap());
    let inspector = installed("Inspector", inspector, Lost::Refreshes, Forgotten::Registers);
    all.push(Installed { proxy: before_everything, ..inspector });
    all
}

#[tokio::test]
async fn clients_survive_encryption_key_rotation_and_token_expiry() {
    let bed = bed::hold().await;
    let browser = Browser::start(&bed.run).await.unwrap();
    let alice = Person { browser: &browser, email: ALICE };
    // The shortest allowed lifetime: tokens expire before the proxy seals with the new key, which is five minutes after
    // loading it.
    let settings = [("tokens", json!({"accessTTL": "2m"}))];
    let proxy = OwnProxy::with(&bed, "aging", &bed.tap.address, &settings).await;
    let everything = OwnProxy::with(&bed, "aging-everything", &bed.context_forge.everything, &settings).await;
    let clients = install(&bed, &proxy, &everything).await;

    for proxy in [&proxy, &everything] {
        proxy.process().change_encryption_key().unwrap();
    }
    for client in &clients {
        assert_eq!(client.work(Some(alice)).await.unwrap(), 1, "{}: the login", client.name);
    }
    for proxy in [&proxy, &everything] {
        let active = "the new encryption key now seals new values";
        proxy.process().wait_until_logged(active, Duration::from_secs(360)).unwrap();
    }

    for client in &clients {
        let before = client.proxy.token_requests();
        let (person, logins) = match client.lost {
            Lost::Refreshes => (None, 0),
            Lost::LogsIn => (Some(alice), 1),
        };
        assert_eq!(client.work(person).await.unwrap(), logins, "{}: with an expired token", client.name);
        // Claude Code refreshes before each request if its token is valid for less than five minutes.
        assert!(client.proxy.token_requests() > before, "{}: with an expired token", client.name);
        // With tokens that the new key sealed.
        assert_eq!(client.work(None).await.unwrap(), 0, "{}: the next start", client.name);
    }
    assert_eq!(proxy.registrations() + everything.registrations(), clients.len(), "a client has registered again");

    // All keys are lost, the last row of the table in docs/clients.md.
    for proxy in [&proxy, &everything] {
        proxy.process().replace_encryption_key().await.unwrap();
    }
    for client in &clients {
        let before = client.proxy.registrations();
        let worked = client.work(Some(alice)).await;
        let registered = client.proxy.registrations() - before;
        let seen = format!("{}: {worked:?}, {registered} registrations", client.name);
        match client.forgotten {
            Forgotten::Registers => assert!(matches!(worked, Ok(1)) && registered == 1, "{seen}"),
            Forgotten::Stuck => assert!(worked.is_err() && registered == 0, "{seen}"),
        }
    }
    browser.close().await.unwrap();
}
