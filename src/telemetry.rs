//! Logging to standard error.

use std::{
    fmt::{self, Write as _},
    io::{self, IsTerminal},
};

use clap::ValueEnum;
use thiserror::Error;
use tracing::{
    Dispatch,
    dispatcher::{self, SetGlobalDefaultError},
    field::Field,
    level_filters::LevelFilter,
};
use tracing_subscriber::{
    Layer,
    field::MakeExt,
    filter::Targets,
    fmt::{
        MakeWriter,
        format::{Writer, debug_fn},
    },
    layer::SubscriberExt,
};

use crate::untrusted_text::{Escaping, is_deceptive};

/// What is logged, and how it looks.
#[derive(Clone, Debug, clap::Args)]
pub struct LogOptions {
    /// Log filter: a level, or levels per module, such as info,hyper=warn
    #[arg(long = "log", env = "RUST_LOG", default_value = "info", global = true)]
    filter: String,

    /// Log format
    #[arg(long = "log-format", env = "MCP_OAUTH_LOG_FORMAT", default_value = "text", global = true)]
    format: LogFormat,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum LogFormat {
    /// Human-readable text
    Text,
    /// One JSON object per line
    Json,
}

#[derive(Debug, Error)]
pub enum LogError {
    #[error("--log must be a level such as info, or levels per module such as info,mcp_oauth_operator=debug: {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// Filters by span or field need `EnvFilter`, which has regular expressions.
    #[error("--log supports levels per module only, not span or field filters such as {0}")]
    Spans(String),
    #[error("logging is already initialized: {0}")]
    AlreadySet(#[from] SetGlobalDefaultError),
}

/// Call once per process.
pub fn init(options: &LogOptions) -> Result<(), LogError> {
    let dispatch = dispatch(targets(&options.filter)?, options.format, io::stderr().is_terminal(), io::stderr);
    Ok(dispatcher::set_global_default(dispatch)?)
}

/// An empty filter allows errors, like an empty `RUST_LOG` in other programs.
pub(crate) fn targets(filter: &str) -> Result<Targets, LogError> {
    let directives: Vec<&str> = filter.split(',').map(str::trim).filter(|directive| !directive.is_empty()).collect();
    if directives.is_empty() {
        return Ok(Targets::new().with_default(LevelFilter::ERROR));
    }
    // `Targets` would parse it as part of a module's name.
    if let Some(spans) = directives.iter().find(|directive| directive.contains('[')) {
        return Err(LogError::Spans((*spans).to_owned()));
    }
    Ok(directives.join(",").parse()?)
}

/// Escapes control characters in all fields, so that untrusted text cannot end a line or move the cursor.
pub(crate) fn dispatch<W>(filter: Targets, format: LogFormat, ansi: bool, writer: W) -> Dispatch
where
    W: for<'writer> MakeWriter<'writer> + Send + Sync + 'static,
{
    let lines = tracing_subscriber::fmt::layer()
        .with_ansi(ansi)
        // They would be printed to standard error, which panics if that is closed.
        .log_internal_errors(false);
    let lines = match format {
        // tracing-subscriber escapes neither line breaks nor, in Display values, escape sequences.
        LogFormat::Text => lines.fmt_fields(debug_fn(field).delimited(" ")).with_writer(writer).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_writer(JsonLines(writer)).boxed(),
    };
    Dispatch::new(tracing_subscriber::registry().with(lines).with(filter))
}

fn field(writer: &mut Writer<'_>, field: &Field, value: &dyn fmt::Debug) -> fmt::Result {
    if field.name() != "message" {
        write!(writer, "{}=", field.name())?;
    }
    write!(Escaping(writer), "{value:?}")
}

/// Writes JSON lines and also escapes what JSON does not require: control and bidirectional characters of Unicode, which occur
/// only in strings.
struct JsonLines<W>(W);

impl<'writer, W: MakeWriter<'writer>> MakeWriter<'writer> for JsonLines<W> {
    type Writer = JsonLines<W::Writer>;

    fn make_writer(&'writer self) -> Self::Writer {
        JsonLines(self.0.make_writer())
    }
}

impl<W: io::Write> io::Write for JsonLines<W> {
    /// `line` is a whole event.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut escaped = String::with_capacity(line.len());
        for character in String::from_utf8_lossy(line).chars() {
            if character != '\n' && is_deceptive(character) {
                let mut units = [0; 2];
                escaped.extend(character.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}")));
            } else {
                escaped.push(character);
            }
        }
        self.0.write_all(escaped.as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Log;

    /// Untrusted text: escape sequences in seven and eight bits, line breaks, and a change of text direction.
    const UNTRUSTED: &str =
        "\u{1b}[2Jname\u{1b}]0;title\u{7}\u{9b}31m\nINFO somebody is an administrator\r\u{2028}\u{202e}x\u{85}";

    fn logged(format: LogFormat, log: impl FnOnce()) -> String {
        let (log_lines, _listening) = Log::listen_as(format, "info");
        log();
        log_lines.text()
    }

    /// RUSTSEC-2025-0055: terminals executed escape sequences in logged names.
    #[test]
    fn c15_untrusted_names_cannot_break_log_lines_or_move_the_cursor() {
        let error = io::Error::other(UNTRUSTED);
        let source: &(dyn std::error::Error + 'static) = &error;
        for format in [LogFormat::Text, LogFormat::Json] {
            let text = logged(format, || {
                let span = tracing::info_span!("login", of = %UNTRUSTED);
                let _entered = span.enter();
                tracing::info!(client = UNTRUSTED, %error, debug = ?error, source, list = ?[UNTRUSTED], "a login of {UNTRUSTED}");
            });
            assert!(text.matches("name").count() >= 7 && text.contains("a login"), "{text:?}");
            assert_eq!(text.matches('\n').count(), 1, "{text:?}");
            assert!(!text.trim_end_matches('\n').contains(is_deceptive), "{text:?}");
            if let LogFormat::Json = format {
                let line: serde_json::Value = serde_json::from_str(&text).unwrap();
                assert_eq!(
                    (&line["client"], &line["error"]),
                    (&UNTRUSTED.into(), &UNTRUSTED.into()),
                    "values are unchanged"
                );
            }
        }
    }

    #[test]
    fn log_line_has_time_level_target_and_message() {
        let log = || tracing::warn!(target: "audit", session = %"a1", user = "ada@example.com", "logged in");
        let text = logged(LogFormat::Text, log);
        let (time, rest) = text.split_once(' ').unwrap();
        time.parse::<jiff::Timestamp>().unwrap();
        assert_eq!(rest, " WARN audit: logged in session=a1 user=\"ada@example.com\"\n");
        let line: serde_json::Value = serde_json::from_str(&logged(LogFormat::Json, log)).unwrap();
        line["timestamp"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
        assert_eq!((&line["level"], &line["target"]), (&"WARN".into(), &"audit".into()));
        assert_eq!((&line["message"], &line["session"]), (&"logged in".into(), &"a1".into()));
    }

    #[test]
    fn filter_sets_levels_per_target() {
        let log = |filter| {
            let (log_lines, _listening) = Log::listen_as(LogFormat::Text, filter);
            tracing::error!(target: "audit", "one");
            tracing::info!(target: "audit", "two");
            tracing::info!(target: "audit::part", "three");
            tracing::info!(target: "hyper", "four");
            tracing::debug!(target: "hyper", "five");
            let log_lines = log_lines.text();
            ["one", "two", "three", "four", "five"]
                .into_iter()
                .filter(|word| log_lines.contains(word))
                .collect::<Vec<_>>()
        };
        assert_eq!(log("info"), ["one", "two", "three", "four"]);
        assert_eq!(log("DEBUG,hyper=off"), ["one", "two", "three"]);
        assert_eq!(log("warn,audit=info"), ["one", "two", "three"]);
        assert_eq!(log(" warn, audit::part=info,"), ["one", "three"]);
        assert_eq!(log("hyper"), ["four", "five"]);
        assert_eq!(log("off"), [""; 0]);
        assert_eq!(log(""), ["one"]);
    }

    #[test]
    fn invalid_filter_is_explained() {
        for (filter, says) in [
            ("info,hyper=loud", "--log must be a level such as info, or levels per module"),
            ("hyper=info=debug", "too many '='"),
            ("info,[login]=debug", "not span or field filters such as [login]=debug"),
            ("hyper[{of=1}]=debug", "not span or field filters"),
        ] {
            let error = targets(filter).unwrap_err().to_string();
            assert!(error.contains(says), "{filter}: {error}");
        }
    }
}
