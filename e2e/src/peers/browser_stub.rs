//! The program that clients call in a browser's place: it keeps the address, and the bed opens that in its own browser.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::Result;
use tokio::process::Command;

const STUB: &str = "#!/bin/sh\nprintf '%s\\n' \"$1\" >> \"$LOGIN_ADDRESSES\"\n";

/// The stub of one client.
#[derive(Clone, Debug)]
pub struct BrowserStub {
    program: PathBuf,
    addresses: PathBuf,
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
}
