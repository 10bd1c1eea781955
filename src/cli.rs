use std::{
    fmt::Display,
    fs,
    io::{Read, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Parser, Subcommand};
use tokio::{
    runtime::Runtime,
    signal::unix::{SignalKind, signal},
};
use tokio_util::sync::CancellationToken;

use crate::{
    config::ProxyConfig,
    dev, keys, login, operator, proxy,
    telemetry::{self, LogOptions},
    untrusted_text::is_deceptive,
};

/// OAuth 2.1 login for MCP servers
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
    /// Run the operator: deploy a proxy for each McpOAuthProxy in the cluster
    Controller(operator::Options),

    /// Print the custom resource definitions as YAML
    Crds {
        /// Write one file per definition into this directory instead
        #[arg(long)]
        directory: Option<PathBuf>,
    },

    /// Run an McpOAuthProxy locally, without a cluster and with a built-in test issuer
    #[command(after_help = "Example: mcp-oauth-operator dev -f config/samples/mcp-oauth-proxy.yaml --upstream demo")]
    Dev(dev::Options),

    /// Generate an encryption key and a signing key for a standalone proxy; existing keys are kept
    #[command(
        after_help = "Example: mcp-oauth-operator keys secrets\n\ndocs/standalone.md lists the other files of this directory."
    )]
    Keys {
        /// Directory of ENCRYPTION_KEY and signing-keys.json
        directory: PathBuf,

        /// Rotate the existing signing keys if rotation is due; run it once a day
        #[arg(long)]
        rotate: bool,
    },

    /// Log in to an MCP server: store the login, print an access token, or bridge a stdio client to the server
    #[command(after_help = login::EXAMPLES)]
    Login(login::Options),

    /// Run the proxy from a configuration file
    #[command(
        after_help = "The proxy pods run this command. docs/standalone.md shows a configuration for a standalone proxy."
    )]
    Proxy {
        /// Configuration file (see docs/standalone.md)
        #[arg(long)]
        config: PathBuf,
    },

    /// Print the Kubernetes objects of an McpOAuthProxy, without access to a cluster
    Render {
        /// File with the McpOAuthProxy; - reads standard input
        #[arg(short, long)]
        file: PathBuf,

        #[command(flatten)]
        settings: operator::Settings,
    },
}

impl Cli {
    /// Runs the selected command to completion.
    #[must_use]
    pub fn run(self) -> ExitCode {
        let result = match self.command {
            Command::Controller(options) => run_controller(options, &self.log),
            Command::Crds { directory } => crds(directory.as_deref()),
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
    start(log)?.block_on(async { operator::run(options, until_signal()?).await.map_err(text) })
}

fn make_keys(directory: &Path) -> Result<(), String> {
    let made = keys::make(directory).map_err(text)?;
    for path in &made {
        print(&format!("created {}\n", path.display()))?;
    }
    if made.is_empty() { print("both keys already exist\n") } else { Ok(()) }
}

fn rotate_keys(directory: &Path) -> Result<(), String> {
    let rotated = keys::rotate(directory, jiff::Timestamp::now()).map_err(text)?;
    print(if rotated { "rotated the signing keys\n" } else { "rotation of the signing keys is not due yet\n" })
}

fn run_proxy(config: &Path, log: &LogOptions) -> Result<(), String> {
    let runtime = start(log)?;
    let config = ProxyConfig::load(config).map_err(text)?;
    runtime.block_on(async { proxy::run(config, until_signal()?).await.map_err(text) })
}

fn run_dev(options: dev::Options, log: &LogOptions) -> Result<(), String> {
    start(log)?.block_on(async { dev::run(options, until_signal()?).await.map_err(text) })
}

fn run_login(options: login::Options, log: &LogOptions) -> Result<(), String> {
    let runtime = start(log)?;
    let result = runtime.block_on(async { login::run(options, until_signal()?).await.map_err(harmless) });
    // A pending DNS lookup would otherwise delay the exit.
    runtime.shutdown_background();
    result
}

/// Sets up logging and TLS, and builds a single-threaded runtime: the request path has its own threads, and the operator
/// mostly waits for the API server. tokio's multi-threaded runtime would add a second scheduler to the binary.
fn start(log: &LogOptions) -> Result<Runtime, String> {
    telemetry::init(log).map_err(text)?;
    // rustls requires a process-wide provider before the first connection.
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .map_err(|_| "another crypto provider is already installed".to_owned())?;
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(text)
}

/// Returns a token that SIGTERM or SIGINT (Ctrl-C) cancels.
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

fn crds(directory: Option<&Path>) -> Result<(), String> {
    for crd in crate::api::crds().map_err(text)? {
        let definition = serde_yaml::to_string(&crd.definition).map_err(text)?;
        match directory {
            Some(directory) => write_file(&directory.join(format!("{}.yaml", crd.name)), &definition)?,
            None => print(&format!("---\n{definition}"))?,
        }
    }
    Ok(())
}

fn write_file(path: &Path, content: &str) -> Result<(), String> {
    fs::write(path, content).map_err(|error| format!("cannot write {}: {error}", path.display()))
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

/// Writes to standard output. `print!` would panic when the reader of a pipe has closed it.
fn print(output: &str) -> Result<(), String> {
    std::io::stdout().lock().write_all(output.as_bytes()).map_err(text)
}

/// Formats an error that may contain server text: removes terminal control characters and limits the length.
fn harmless(error: impl Display) -> String {
    error.to_string().chars().filter(|character| *character == '\n' || !is_deceptive(*character)).take(2_000).collect()
}

fn text(error: impl Display) -> String {
    error.to_string()
}
