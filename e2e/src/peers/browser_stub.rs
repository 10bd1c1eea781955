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

use super::json_lines::{LIMIT, Person, spawn};

const STUB: &str = "#!/bin/sh\nprintf '%s\\n' \"$1\" >> \"$LOGIN_ADDRESSES\"\n";

#[derive(Clone, Debug)]
pub struct BrowserStub {
    program: PathBuf,
    addresses: PathBuf,
}

/// The result of a program that has exited.
#[derive(Clone, Debug)]
pub struct Ended {
    pub code: Option<i32>,
    /// Standard output.
    pub output: String,
    /// The number of logins that it requested.
    pub logins: usize,
    /// The texts of the final pages of its logins.
    pub landings: Vec<String>,
}

impl Ended {
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
        Ok(Self { program, addresses: folder.join("logins") })
    }

    /// Makes the stub the browser of a command, and clears the recorded URLs.
    pub fn of<'a>(&self, command: &'a mut Command) -> Result<&'a mut Command> {
        fs::write(&self.addresses, "")?;
        Ok(command.env_remove("DISPLAY").env("BROWSER", &self.program).env("LOGIN_ADDRESSES", &self.addresses))
    }

    /// The login URLs recorded so far. An incomplete last line is left out.
    pub fn asked(&self) -> Result<Vec<String>> {
        let text = fs::read_to_string(&self.addresses)?;
        let complete = text.rfind('\n').map_or("", |end| &text[..end]);
        Ok(complete.lines().map(str::to_owned).collect())
    }

    /// Runs a command to completion, with its standard error in the log. If it requests a login, `user` logs in;
    /// without a user that is an error.
    pub async fn run(&self, command: &mut Command, person: Option<Person<'_>>, log: &Path) -> Result<Ended> {
        let name = log.file_stem().unwrap_or_default().display().to_string();
        let mut child = spawn(self.of(command)?, log)?;
        // The command may treat the end of its input as an absent user, so it stays open.
        let _input = child.stdin.take();
        let ended = child.wait_with_output();
        tokio::pin!(ended);
        let mut look = interval(Duration::from_millis(50));
        let mut landings = Vec::new();
        let attended = async {
            loop {
                tokio::select! {
                    output = &mut ended => break anyhow::Ok(output?),
                    _ = look.tick() => (),
                }
                for address in self.asked()?.into_iter().skip(landings.len()) {
                    let Some(person) = person else { bail!("{name} requested a login at {address}") };
                    landings.push(person.log_in(&address).await?.text);
                }
            }
        };
        let output = timeout(LIMIT, attended)
            .await
            .with_context(|| format!("{name} did not exit. Its log: {}", log.display()))??;
        // The command may exit right after a login request.
        let logins = self.asked()?.len().max(landings.len());
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok(Ended { code: output.status.code(), output: text, logins, landings })
    }
}
