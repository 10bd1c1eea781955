//! A program that clients start instead of a browser: it records the URL, which the test opens in its own browser.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use tokio::{
    process::Command,
    time::{interval, timeout},
};

use super::json_lines::{LIMIT, User, spawn};
use crate::progress::complete_lines;

const STUB: &str = "#!/bin/sh\nprintf '%s\\n' \"$1\" >> \"$LOGIN_URLS\"\n";

#[derive(Clone, Debug)]
pub struct BrowserStub {
    program: PathBuf,
    urls: PathBuf,
}

/// The result of a program that has exited.
#[derive(Clone, Debug)]
pub struct CompletedProgram {
    pub code: Option<i32>,
    /// Standard output.
    pub output: String,
    /// The number of logins that it requested.
    pub logins: usize,
    /// The texts of the final pages of its logins.
    pub final_pages: Vec<String>,
}

impl CompletedProgram {
    pub fn succeeded(&self) -> bool {
        self.code == Some(0)
    }
}

impl BrowserStub {
    /// Writes the stub into a client's folder.
    pub fn install(folder: &Path) -> Result<Self> {
        let program = folder.join("browser.sh");
        fs::write(&program, STUB)?;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
        Ok(Self { program, urls: folder.join("logins") })
    }

    /// Makes the stub the browser of a command, and clears the recorded URLs.
    pub fn set_as_browser<'a>(&self, command: &'a mut Command) -> Result<&'a mut Command> {
        fs::write(&self.urls, "")?;
        Ok(command.env_remove("DISPLAY").env("BROWSER", &self.program).env("LOGIN_URLS", &self.urls))
    }

    /// The login URLs recorded so far.
    pub fn requested_urls(&self) -> Result<Vec<String>> {
        let text = fs::read_to_string(&self.urls)?;
        Ok(complete_lines(&text).map(str::to_owned).collect())
    }

    /// Runs a command to completion, with its standard error in the log. If it requests a login, `user` logs in;
    /// without a user that is an error.
    pub async fn run(&self, command: &mut Command, user: Option<User<'_>>, log: &Path) -> Result<CompletedProgram> {
        let name = log.file_stem().unwrap_or_default().display().to_string();
        let mut child = spawn(self.set_as_browser(command)?, log)?;
        // The command may treat the end of its input as an absent user, so it stays open.
        let _input = child.stdin.take();
        let exit = child.wait_with_output();
        tokio::pin!(exit);
        let mut ticks = interval(Duration::from_millis(50));
        let mut final_pages = Vec::new();
        let handle_logins = async {
            loop {
                tokio::select! {
                    output = &mut exit => break anyhow::Ok(output?),
                    _ = ticks.tick() => (),
                }
                for url in self.requested_urls()?.into_iter().skip(final_pages.len()) {
                    let Some(user) = user else { bail!("{name} requested a login at {url}") };
                    final_pages.push(user.log_in(&url).await?.text);
                }
            }
        };
        let output = timeout(LIMIT, handle_logins)
            .await
            .with_context(|| format!("{name} did not exit. Its log: {}", log.display()))??;
        // The command may exit right after a login request.
        let logins = self.requested_urls()?.len().max(final_pages.len());
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok(CompletedProgram { code: output.status.code(), output: text, logins, final_pages })
    }
}
