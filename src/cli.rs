//! The command line.

use std::{
    fmt::Display,
    fs,
    io::{Read, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::{
    config::ProxyConfig,
    dev, keys, login, operator, proxy,
    telemetry::{self, LogOptions},
    untrusted_text::deceives,
};

/// Puts MCP servers behind real logins.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,

    #[command(flatten)]
    log: LogOptions,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the operator: make a proxy of each McpOAuthProxy in the cluster
    Controller(operator::Options),

    /// Print the custom resource definitions, as YAML
    Crds {
        /// Write a file for each into this folder instead
        #[arg(long)]
        directory: Option<PathBuf>,

        /// Write the reference of all fields, as Markdown, to this file
        #[arg(long)]
        reference: Option<PathBuf>,
    },

    /// Serve an McpOAuthProxy on this machine, without a cluster and without a real issuer
    #[command(after_help = "Example: mcp-oauth-operator dev -f config/samples/mcp-oauth-proxy.yaml --upstream demo")]
    Dev(dev::Options),

    /// Make an encryption key and a signing key for a proxy outside a cluster; those that are there are kept
    #[command(
        after_help = "Example: mcp-oauth-operator keys secrets\n\ndocs/standalone.md says what else belongs there."
    )]
    Keys {
        /// The folder for ENCRYPTION_KEY and signing-keys.json
        directory: PathBuf,

        /// Instead, rotate the signing keys that are there, if it is time; run it once a day
        #[arg(long)]
        rotate: bool,
    },

    /// Log in to an MCP server: keep the login, print its access token, or pass a program's messages on with it
    #[command(after_help = login::EXAMPLES)]
    Login(login::Options),

    /// Serve MCP endpoints behind a login, from a configuration file
    #[command(
        after_help = "The operator's pods run this. docs/standalone.md has a configuration for a proxy outside a cluster."
    )]
    Proxy {
        /// The configuration (docs/standalone.md)
        #[arg(long)]
        config: PathBuf,
    },

    /// Print every object that an McpOAuthProxy becomes, without asking a cluster
    Render {
        /// The file with the McpOAuthProxy; - is standard input
        #[arg(short, long)]
        file: PathBuf,

        #[command(flatten)]
        settings: operator::Settings,
    },
}

impl Cli {
    /// Does what the arguments say, to its end.
    #[must_use]
    pub fn run(self) -> ExitCode {
        let result = match self.command {
            Command::Controller(options) => run_controller(options, &self.log),
            Command::Crds { directory, reference } => crds(directory.as_deref(), reference.as_deref()),
            Command::Dev(options) => run_dev(options, &self.log),
            Command::Keys { directory, rotate: false } => make_keys(&directory),
            Command::Keys { directory, rotate: true } => rotate_keys(&directory),
            Command::Login(options) => run_login(options, &self.log),
            Command::Proxy { config } => run_proxy(&config, &self.log),
            Command::Render { file, settings } => render(&file, &settings),
        };
        match result {
            Ok(()) => ExitCode::SUCCESS,
            Err(message) => {
                eprintln!("error: {message}");
                ExitCode::FAILURE
            }
        }
    }
}

fn run_controller(options: operator::Options, log: &LogOptions) -> Result<(), String> {
    telemetry::init(log).map_err(text)?;
    install_crypto_provider()?;
    control_runtime()?.block_on(async { operator::run(options, until_signal()?).await.map_err(text) })
}

fn make_keys(directory: &Path) -> Result<(), String> {
    let made = keys::make(directory).map_err(text)?;
    for path in &made {
        print(&format!("made {}\n", path.display()))?;
    }
    if made.is_empty() { print("both keys are there already\n") } else { Ok(()) }
}

fn rotate_keys(directory: &Path) -> Result<(), String> {
    let rotated = keys::rotate(directory, jiff::Timestamp::now()).map_err(text)?;
    print(if rotated { "the signing keys have been rotated\n" } else { "it is not time for other signing keys\n" })
}

fn run_proxy(config: &Path, log: &LogOptions) -> Result<(), String> {
    telemetry::init(log).map_err(text)?;
    install_crypto_provider()?;
    let config = ProxyConfig::load(config).map_err(text)?;
    control_runtime()?.block_on(async { proxy::run(config, until_signal()?).await.map_err(text) })
}

fn run_dev(options: dev::Options, log: &LogOptions) -> Result<(), String> {
    telemetry::init(log).map_err(text)?;
    install_crypto_provider()?;
    control_runtime()?.block_on(async { dev::run(options, until_signal()?).await.map_err(text) })
}

fn run_login(options: login::Options, log: &LogOptions) -> Result<(), String> {
    telemetry::init(log).map_err(text)?;
    install_crypto_provider()?;
    let runtime = control_runtime()?;
    let result = runtime.block_on(async { login::run(options, until_signal()?).await.map_err(harmless) });
    // A name that is still being looked up would keep the process for as long as that takes.
    runtime.shutdown_background();
    result
}

/// One thread, this one: the request path has threads of its own, and the operator waits for its API server. tokio's other runtime
/// would be another scheduler in the binary, and each task compiled for both.
fn control_runtime() -> Result<tokio::runtime::Runtime, String> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(text)
}

/// TLS everywhere in this process is done by aws-lc-rs; without this, the first connection would have to guess.
fn install_crypto_provider() -> Result<(), String> {
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .map_err(|_| "another crypto provider has been installed already".to_owned())
}

/// Is cancelled when somebody asks the process to end: SIGTERM, or Ctrl-C.
fn until_signal() -> Result<CancellationToken, String> {
    let token = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).map_err(text)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(text)?;
    let cancelled = token.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => (),
            _ = interrupt.recv() => (),
        }
        cancelled.cancel();
    });
    Ok(token)
}

fn crds(directory: Option<&Path>, reference: Option<&Path>) -> Result<(), String> {
    if let Some(directory) = directory {
        write_crds(directory)?;
    }
    if let Some(path) = reference {
        let page = crate::api::reference().map_err(text)?;
        fs::write(path, page).map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    }
    if directory.is_none() && reference.is_none() { print_crds() } else { Ok(()) }
}

fn print_crds() -> Result<(), String> {
    for crd in crate::api::crds().map_err(text)? {
        print(&format!("---\n{}", serde_yaml::to_string(&crd.definition).map_err(text)?))?;
    }
    Ok(())
}

fn write_crds(directory: &Path) -> Result<(), String> {
    for crd in crate::api::crds().map_err(text)? {
        let path = directory.join(format!("{}.yaml", crd.name));
        let definition = serde_yaml::to_string(&crd.definition).map_err(text)?;
        fs::write(&path, definition).map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    }
    Ok(())
}

fn render(file: &Path, settings: &operator::Settings) -> Result<(), String> {
    let mut resource = String::new();
    if file == Path::new("-") {
        std::io::stdin().read_to_string(&mut resource).map_err(text)?;
    } else {
        resource = fs::read_to_string(file).map_err(|error| format!("cannot read {}: {error}", file.display()))?;
    }
    print(&operator::render(&resource, settings).map_err(text)?)
}

/// Not `print!`, which panics when the reader of a pipe has gone.
fn print(output: &str) -> Result<(), String> {
    std::io::stdout().lock().write_all(output.as_bytes()).map_err(text)
}

/// An error that repeats what a server says: nothing in it moves a terminal's cursor.
fn harmless(error: impl Display) -> String {
    error.to_string().chars().filter(|character| *character == '\n' || !deceives(*character)).take(2_000).collect()
}

fn text(error: impl Display) -> String {
    error.to_string()
}
