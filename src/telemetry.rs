//! Logs, on standard error.

use std::io::IsTerminal;

use clap::ValueEnum;
use thiserror::Error;
use tracing_subscriber::EnvFilter;

/// What is logged, and how it looks.
#[derive(Clone, Debug, clap::Args)]
pub struct LogOptions {
    /// What is logged: a level, or levels by module such as info,hyper=warn
    #[arg(long = "log", env = "RUST_LOG", default_value = "info", global = true)]
    filter: String,

    /// How log lines look
    #[arg(long = "log-format", env = "MCP_OAUTH_LOG_FORMAT", default_value = "text", global = true)]
    format: LogFormat,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormat {
    /// For people
    Text,
    /// One JSON object a line
    Json,
}

/// Why there are no logs.
#[derive(Debug, Error)]
pub enum LogError {
    /// The filter is not one.
    #[error("--log takes a level such as info, or levels by module such as info,mcp_oauth_operator=debug: {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// Somebody was first.
    #[error("logging is set up already: {0}")]
    Taken(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Begins to log. Once a process.
///
/// # Errors
/// When the filter cannot be read, or logging was begun before.
pub fn init(options: &LogOptions) -> Result<(), LogError> {
    let filter = EnvFilter::try_new(&options.filter)?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        // It would be said on standard error too, and panic where that is closed.
        .log_internal_errors(false)
        .with_writer(std::io::stderr);
    match options.format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    }
    .map_err(LogError::Taken)
}
