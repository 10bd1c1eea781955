//! What the start of all cluster components shares: the run, programs, keys, and helpers to configure, start and await
//! a component.

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

pub const NODE: &str = "bed";
pub const API_PORT: u16 = 6443;

pub struct Setup<'a> {
    pub run: &'a Run,
    pub tools: Tools,
    pub pki: Pki,
    pub progress: Progress,
}

impl Setup<'_> {
    /// A path in the run's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.run.directory().join(name)
    }

    /// The kubeconfig of a component in the namespace.
    pub fn kubeconfig(&self, user: &str) -> PathBuf {
        self.path(&format!("kubeconfig-{user}"))
    }

    /// Writes a component's configuration file as JSON, which is valid YAML.
    pub fn configure(&self, name: &str, config: &Value) -> Result<PathBuf> {
        let path = self.path(name);
        fs::write(&path, serde_json::to_string_pretty(config)?)?;
        Ok(path)
    }

    pub fn start(&self, component: &str, program: impl AsRef<OsStr>, arguments: &[String]) -> Result<()> {
        self.run.spawn(component, self.run.command(program).args(arguments))?;
        Ok(())
    }

    /// Waits for a condition that the components fulfil. Fails immediately if one of them exits.
    pub fn wait(&self, components: &[&str], what: &str, mut check: impl FnMut() -> Result<bool>) -> Result<()> {
        let waited = wait_until(what, Duration::from_secs(120), || {
            if let Some(ended) = components.iter().find(|component| self.run.running(component).is_none()) {
                let log = self.run.log(ended);
                bail!("{ended} exited; the last lines of {}:{}", log.display(), tail(&log));
            }
            check()
        });
        waited.with_context(|| format!("while waiting for {}", components.join(", ")))
    }

    /// The context name in the kubeconfigs.
    pub fn context(&self) -> String {
        format!("mcp-oauth-{}", self.run.name())
    }
}

/// A path as text, for flags and configuration files.
pub fn text(path: &Path) -> String {
    path.display().to_string()
}
