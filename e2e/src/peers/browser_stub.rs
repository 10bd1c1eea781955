//! The program that clients call in a browser's place: it keeps the address, and the bed opens that in its own browser.

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

/// The stub of one client.
#[derive(Clone, Debug)]
pub struct BrowserStub {
    program: PathBuf,
    addresses: PathBuf,
}

/// What came of a program that was run to its end.
#[derive(Clone, Debug)]
pub struct Ended {
    pub code: Option<i32>,
    /// What it printed.
    pub output: String,
    /// How many times it asked for a login.
    pub logins: usize,
    /// The texts of the pages at which the browser ended.
    pub landings: Vec<String>,
}

impl Ended {
    /// Whether it ended as it should.
    pub fn succeeded(&self) -> bool {
        self.code == Some(0)
    }
}

impl BrowserStub {
    /// Puts the program into a client's folder.
    pub fn install(folder: &Path) -> Result<Self> {
        let program = folder.join("browser.sh");
        fs::write(&program, STUB)?;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
        Ok(Self { program, addresses: folder.join("logins") })
    }

    /// Makes it the browser of a command that is about to start, with no address kept yet.
    pub fn of<'a>(&self, command: &'a mut Command) -> Result<&'a mut Command> {
        fs::write(&self.addresses, "")?;
        Ok(command.env_remove("DISPLAY").env("BROWSER", &self.program).env("LOGIN_ADDRESSES", &self.addresses))
    }

    /// The addresses that were asked for so far: the complete lines.
    pub fn asked(&self) -> Result<Vec<String>> {
        let text = fs::read_to_string(&self.addresses)?;
        let complete = text.rfind('\n').map_or("", |end| &text[..end]);
        Ok(complete.lines().map(str::to_owned).collect())
    }

    /// Runs a command to its end, with what it says of itself in the log. The person, if there is one, logs in when it
    /// asks for that; else a wish to log in is an error.
    pub async fn run(&self, command: &mut Command, person: Option<Person<'_>>, log: &Path) -> Result<Ended> {
        let name = log.file_stem().unwrap_or_default().display().to_string();
        let mut child = spawn(self.of(command)?, log)?;
        // It may take the end of its input for a person who went away: that is left open.
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
                    let Some(person) = person else { bail!("{name} asks for a login at {address}") };
                    landings.push(person.log_in(&address).await?.text);
                }
            }
        };
        let output = timeout(LIMIT, attended)
            .await
            .with_context(|| format!("{name} does not end. Its log: {}", log.display()))??;
        // One that ends right after it has asked.
        let logins = self.asked()?.len().max(landings.len());
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok(Ended { code: output.status.code(), output: text, logins, landings })
    }
}
