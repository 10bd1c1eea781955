use std::{env, process::Stdio};

use tokio::process::Command;
use url::Url;

/// Opens an address in the person's browser, if there is one; says whether something was started.
pub fn open(url: &Url) -> bool {
    let browser = env::var("BROWSER").ok();
    candidates(browser.as_deref(), has_screen()).iter().any(|candidate| {
        let Some((program, arguments)) = arguments(candidate, url.as_str()) else { return false };
        // Its output would mix with ours, which others read; its input is ours.
        Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .is_ok()
    })
}

/// `$BROWSER` is a list of commands with a colon between them, tried in turn.
fn candidates(browser: Option<&str>, has_screen: bool) -> Vec<&str> {
    match browser {
        Some(list) if !list.is_empty() => list.split(':').collect(),
        _ if cfg!(target_os = "macos") => vec!["open"],
        // Without a screen it would start a browser in a terminal that nobody sees.
        _ if has_screen => vec!["xdg-open"],
        _ => Vec::new(),
    }
}

fn has_screen() -> bool {
    ["DISPLAY", "WAYLAND_DISPLAY"].iter().any(|name| env::var_os(name).is_some_and(|value| !value.is_empty()))
}

/// A command of `$BROWSER` in words: the address stands where it says `%s`, else at the end. No shell reads it.
fn arguments<'a>(command: &'a str, url: &str) -> Option<(&'a str, Vec<String>)> {
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
        assert_eq!(candidates(Some("a %s:b"), false), ["a %s", "b"]);
        if cfg!(target_os = "linux") {
            assert_eq!(candidates(None, true), ["xdg-open"]);
            assert_eq!(candidates(Some(""), false), [""; 0]);
        }
    }

    #[test]
    fn url_is_passed_as_one_argument() {
        let url = "https://as.example.com/authorize?a=1&b=$(id);x";
        assert_eq!(
            arguments("firefox --new-window", url),
            Some(("firefox", vec!["--new-window".to_owned(), url.to_owned()]))
        );
        assert_eq!(
            arguments("open-it --url=%s -q", url),
            Some(("open-it", vec![format!("--url={url}"), "-q".to_owned()]))
        );
        assert_eq!(arguments(" ", url), None);
    }
}
