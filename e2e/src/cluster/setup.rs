//! What the cluster's components share while the cluster starts: the run, the programs, the keys, and how to start, configure
//! and await a component.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{pki::Pki, tools::Tools};
use crate::{
    progress::{Progress, tail, wait_until},
    run::Run,
};

/// The node's name.
pub const NODE: &str = "bed";
/// The API server's port in the namespace.
pub const API_PORT: u16 = 6443;

/// All that a cluster's components have in common while it is brought up.
pub struct Setup<'a> {
    pub run: &'a Run,
    pub tools: Tools,
    pub pki: Pki,
    pub progress: Progress,
}

impl Setup<'_> {
    /// A file or folder of the run.
    pub fn path(&self, name: &str) -> PathBuf {
        self.run.directory().join(name)
    }

    /// The kubeconfig of a component, for use in the namespace.
    pub fn kubeconfig(&self, user: &str) -> PathBuf {
        self.path(&format!("kubeconfig-{user}"))
    }

    /// Writes a configuration file of a component. JSON is YAML too.
    pub fn configure(&self, name: &str, config: &Value) -> Result<PathBuf> {
        let path = self.path(name);
        fs::write(&path, serde_json::to_string_pretty(config)?)?;
        Ok(path)
    }

    /// Starts a component in the namespace.
    pub fn start(&self, component: &str, program: impl AsRef<OsStr>, arguments: &[String]) -> Result<()> {
        self.run.spawn(component, self.run.command(program).args(arguments))?;
        Ok(())
    }

    /// Waits for something that components do, and fails at once if one of them ends.
    pub fn wait(&self, components: &[&str], what: &str, mut look: impl FnMut() -> Result<bool>) -> Result<()> {
        let waited = wait_until(what, Duration::from_secs(120), || {
            if let Some(ended) = components.iter().find(|component| self.run.running(component).is_none()) {
                let log = self.run.log(ended);
                bail!("{ended} ended; the last lines of {}:{}", log.display(), tail(&log));
            }
            look()
        });
        waited.with_context(|| format!("while {} should work", components.join(", ")))
    }

    /// The name of the context in the kubeconfigs.
    pub fn context(&self) -> String {
        format!("mcp-oauth-{}", self.run.name())
    }
}

/// Text of a path for a flag or a configuration file.
pub fn text(path: &Path) -> String {
    path.display().to_string()
}
