//! An installation of an MCP client in the host's network.

use std::{fs, path::PathBuf};

use anyhow::Result;
use tokio::process::Command;

use super::{
    browser_stub::{BrowserStub, CompletedProgram},
    certificates::Certificates,
    json_lines::{Program, User},
};
use crate::run::Run;

/// What every client has: a folder that keeps its state between starts, a log, and a stand-in for the browser.
#[derive(Clone, Debug)]
pub struct Installation {
    pub folder: PathBuf,
    pub log: PathBuf,
    pub stub: BrowserStub,
    /// The run's CA file.
    pub authority: PathBuf,
}

impl Installation {
    /// Creates the folder of an installation with a name that is unique in the run.
    pub fn create(run: &Run, name: &str) -> Result<Self> {
        let folder = run.directory().join(name);
        fs::create_dir_all(&folder)?;
        let stub = BrowserStub::install(&folder)?;
        Ok(Self { folder, log: run.log(name), stub, authority: Certificates::for_run(run)?.authority() })
    }

    /// The folder in which the client stores registrations and tokens.
    pub fn store(&self) -> PathBuf {
        self.folder.join("store")
    }

    /// Runs a command to completion. If it requests a login, `user` logs in; without a user that is an error.
    pub async fn run(&self, command: &mut Command, user: Option<User<'_>>) -> Result<CompletedProgram> {
        self.stub.run(command, user, &self.log).await
    }

    /// Starts a command that requests logins through the stub.
    pub fn start(&self, command: &mut Command) -> Result<Program> {
        Program::start(self.stub.set_as_browser(command)?, &self.log)
    }
}
