//! Finds required programs and runs short commands.

use std::{env, path::PathBuf, process::Command};

use anyhow::{Context, Result, bail};

/// Finds a program on the PATH or in Debian's sbin folders. The error names the package to install.
pub fn find(name: &str, package: &str) -> Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin"), PathBuf::from("/usr/local/sbin")])
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
        .with_context(|| format!("{name} is missing on this machine. On Debian: apt-get install -y {package}"))
}

/// Runs a command to completion and returns its standard output. The error contains its standard error.
pub fn output(command: &mut Command) -> Result<String> {
    let line = format!("{} {:?}", command.get_program().display(), command.get_args().collect::<Vec<_>>());
    let output = command.output().with_context(|| format!("cannot run {line}"))?;
    if !output.status.success() {
        bail!("{line} failed ({}): {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8(output.stdout)?)
}
