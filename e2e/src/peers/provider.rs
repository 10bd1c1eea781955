//! The OpenID Connect provider that stands in for Google (`e2e/js/provider.mjs`).

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};
use clap::Subcommand;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::task::spawn_blocking;

use super::{component_state, host_ports, http, node::Node};
use crate::{
    forward::free_port,
    run::{Run, RunArg},
};

const NAME: &str = "provider";

/// An account. The provider accepts any password.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Account {
    pub sub: String,
    pub email: String,
    pub email_verified: bool,
    pub name: String,
    pub picture: String,
    /// The Google Workspace domain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hd: Option<String>,
    pub groups: Vec<String>,
}

/// A registered client.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Client {
    pub client_id: String,
    pub client_secret: String,
    pub redirect_uris: Vec<String>,
    /// Without `refresh_token`, the client gets no refresh tokens.
    pub grant_types: Vec<String>,
}

impl Client {
    /// A client that gets refresh tokens, without redirect URIs.
    pub fn new(id: &str, secret: &str) -> Self {
        Self {
            client_id: id.to_owned(),
            client_secret: secret.to_owned(),
            redirect_uris: Vec::new(),
            grant_types: ["authorization_code", "refresh_token"].map(str::to_owned).to_vec(),
        }
    }
}

/// The provider's clients and accounts. It reads them at every use.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Registry {
    pub clients: Vec<Client>,
    pub accounts: Vec<Account>,
}

#[derive(Clone, Debug, Default)]
pub struct Options {
    /// `http://HOST` without the port. Default: `http://localhost`.
    pub origin: Option<String>,
    /// Default: a free port.
    pub port: Option<u16>,
    /// The issuer, if a proxy terminates TLS in front of the provider. Default: origin and port.
    pub issuer: Option<String>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Provider {
    /// The issuer as in its tokens.
    pub issuer: String,
    /// Host and port in the run's namespace.
    pub address: String,
    registry: PathBuf,
}

impl Provider {
    pub async fn up(run: &Run, options: &Options) -> Result<Self> {
        if let Some(running) = Self::find(run) {
            return Ok(running);
        }
        let node = spawn_blocking(Node::install).await??;
        let port = options.port.map_or_else(free_port, Ok)?;
        let origin = options.origin.as_deref().unwrap_or("http://localhost");
        let issuer = options.issuer.clone().unwrap_or_else(|| format!("{origin}:{port}"));
        let folder = run.directory().join(NAME);
        fs::create_dir_all(&folder)?;
        let address = format!("{}:{port}", run.address());
        let provider = Self { issuer, address, registry: folder.join("registry.json") };
        component_state::replace_json(&provider.registry, &Registry { clients: Vec::new(), accounts: accounts() })?;
        Self::down(run)?;
        let mut command = run.command(node.interpreter()?);
        command.arg(node.script(run, "provider.mjs")?).arg(&provider.issuer).arg(run.address());
        command.arg(port.to_string()).arg(&folder);
        let discovery = format!("http://{}/.well-known/openid-configuration", provider.address);
        http::start(run, NAME, &mut command, &discovery).await?;
        host_ports::publish(run, NAME, port).await?;
        component_state::save(run, NAME, &provider)?;
        eprintln!("provider      {} · log {}", provider.issuer, run.log(NAME).display());
        Ok(provider)
    }

    /// The provider, if it is running.
    pub fn find(run: &Run) -> Option<Self> {
        component_state::load(run, NAME)
    }

    pub fn down(run: &Run) -> Result<()> {
        host_ports::unpublish(run, NAME)?;
        run.stop(NAME)
    }

    /// Registers a client, or adds redirect URIs to an existing one. Effective immediately.
    pub fn register(&self, id: &str, secret: &str, redirect_uris: &[&str]) -> Result<()> {
        self.change(|registry| {
            let position = registry.clients.iter().position(|client| client.client_id == id).unwrap_or_else(|| {
                registry.clients.push(Client::new(id, secret));
                registry.clients.len() - 1
            });
            let client = &mut registry.clients[position];
            secret.clone_into(&mut client.client_secret);
            for uri in redirect_uris {
                if !client.redirect_uris.iter().any(|known| known == uri) {
                    client.redirect_uris.push((*uri).to_owned());
                }
            }
        })
    }

    /// Changes clients or accounts. Effective immediately: a removed account can neither log in nor refresh.
    pub fn change(&self, change: impl FnOnce(&mut Registry)) -> Result<()> {
        // Concurrent tests register their proxies at the same provider.
        let _lock = component_state::lock_folder(self.registry.parent().context("the registry is in a folder")?)?;
        let text = fs::read(&self.registry).with_context(|| format!("cannot read {}", self.registry.display()))?;
        let mut registry = serde_json::from_slice(&text)?;
        change(&mut registry);
        component_state::replace_json(&self.registry, &registry)
    }

    /// All token responses so far.
    pub fn token_responses(&self) -> Result<Vec<Value>> {
        let text = fs::read_to_string(self.registry.with_file_name("token-responses.jsonl"))?;
        text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
    }
}

pub fn account(sub: &str, email: &str, verified: bool, hd: &str) -> Account {
    Account {
        sub: sub.to_owned(),
        email: email.to_owned(),
        email_verified: verified,
        name: format!("{} Doe", email.split('@').next().unwrap_or_default()),
        picture: format!("https://pictures.invalid/{sub}.png"),
        hd: Some(hd.to_owned()),
        groups: if sub == "100001" {
            vec!["staff".to_owned(), "gateway-users".to_owned()]
        } else {
            vec!["staff".to_owned()]
        },
    }
}

pub fn accounts() -> Vec<Account> {
    vec![
        account("100001", "alice@example.com", true, "example.com"),
        account("100002", "bob@example.com", false, "example.com"),
        account("100003", "carol@example.com", true, "example.com"),
        account("100004", "mallory@evil.example", true, "evil.example"),
    ]
}

/// `e2e provider`
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Start the provider
    Up {
        #[command(flatten)]
        run: RunArg,
        /// `http://HOST` without the port
        #[arg(long, default_value = "http://localhost")]
        origin: String,
        #[arg(long)]
        port: Option<u16>,
    },
    /// Register a client, or add redirect URIs to it
    Register {
        #[command(flatten)]
        run: RunArg,
        id: String,
        secret: String,
        redirect_uris: Vec<String>,
    },
    /// Stop the provider
    Down(RunArg),
}

impl Action {
    pub async fn perform(self) -> Result<()> {
        match self {
            Self::Up { run, origin, port } => {
                let run = run.open()?;
                let provider = Provider::up(&run, &Options { origin: Some(origin), port, issuer: None }).await?;
                println!("{}", json!({"issuer": provider.issuer, "address": provider.address}));
                Ok(())
            }
            Self::Register { run, id, secret, redirect_uris } => {
                let provider = Provider::find(&run.open()?)
                    .context("the provider is not running: start it with e2e provider up")?;
                let uris: Vec<&str> = redirect_uris.iter().map(String::as_str).collect();
                provider.register(&id, &secret, &uris)
            }
            Self::Down(run) => Provider::down(&run.open()?),
        }
    }
}
