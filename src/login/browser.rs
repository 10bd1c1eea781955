use std::{env, process::Stdio};

use tokio::process::Command;
use url::Url;

/// Starts the user's browser; returns whether a command could be started.
pub fn open(url: &Url) -> bool {
    let variable = env::var("BROWSER").ok();
    commands(variable.as_deref(), has_display()).iter().any(|command| {
        let Some((program, arguments)) = parse_command(command, url.as_str()) else { return false };
        // Standard input and output belong to `login`: they may carry MCP messages or a token.
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().is_ok()
    })
}

/// `$BROWSER` is a colon-separated list of commands to try in order.
fn commands(variable: Option<&str>, has_display: bool) -> Vec<&str> {
    match variable {
        Some(list) if !list.is_empty() => list.split(':').collect(),
        _ if cfg!(target_os = "macos") => vec!["open"],
        // Without a display, xdg-open would start a text browser.
        _ if has_display => vec!["xdg-open"],
        _ => Vec::new(),
    }
}

fn has_display() -> bool {
    ["DISPLAY", "WAYLAND_DISPLAY"].iter().any(|name| env::var_os(name).is_some_and(|value| !value.is_empty()))
}

/// Splits a command of `$BROWSER` without a shell. The URL replaces `%s`, else it is the last argument.
fn parse_command<'a>(command: &'a str, url: &str) -> Option<(&'a str, Vec<String>)> {
    let mut words = command.split_whitespace();
    let program = words.next()?;
    let mut arguments: Vec<_> = words.map(|word| word.replace("%s", url)).collect();
    if !command.contains("%s") {
        arguments.push(url.to_owned());
    }
    Some((program, arguments))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn browser_variable_selects_command_and_no_display_means_no_browser() {
        assert_eq!(commands(Some("a %s:b"), false), ["a %s", "b"]);
        if cfg!(target_os = "linux") {
            assert_eq!(commands(None, true), ["xdg-open"]);
            assert_eq!(commands(Some(""), false), [""; 0]);
        }
    }

    #[test]
    fn url_is_passed_as_one_argument() {
        let url = "https://as.example.com/authorize?a=1&b=$(id);x";
        assert_eq!(
            parse_command("firefox --new-window", url),
            Some(("firefox", vec!["--new-window".to_owned(), url.to_owned()]))
        );
        assert_eq!(
            parse_command("open-it --url=%s -q", url),
            Some(("open-it", vec![format!("--url={url}"), "-q".to_owned()]))
        );
        assert_eq!(parse_command(" ", url), None);
    }
}
