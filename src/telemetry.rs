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

#[cfg(test)]
mod tests {
    use std::{
        io::{self, Write},
        sync::{Arc, Mutex},
    };

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// RUSTSEC-2025-0055: a terminal did what a logged name told it.
    #[test]
    fn c15_what_somebody_calls_themselves_makes_no_second_line_and_moves_no_cursor() {
        let name = "\u{1b}[2Jname\u{1b}]0;title\u{7}\u{9b}31m\nINFO somebody is an administrator\r";
        for json in [false, true] {
            let lines = Lines::default();
            let writer = lines.clone();
            let builder = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone());
            let log = || tracing::info!(client = name, "a login");
            if json {
                tracing::subscriber::with_default(builder.json().flatten_event(true).finish(), log);
            } else {
                tracing::subscriber::with_default(builder.finish(), log);
            }
            let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
            assert!(text.contains("name") && text.contains("a login"), "{text:?}");
            assert_eq!(text.matches('\n').count(), 1, "{text:?}");
            // JSON may hold the one of Unicode as it is; who shows it has parsed it.
            let moves = |c: char| if json { c.is_ascii_control() } else { c.is_control() };
            assert!(!text.trim_end().contains(moves), "{text:?}");
        }
    }
}
