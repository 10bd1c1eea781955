//! Programs from PyPI: a cached virtual environment for each list of pinned packages in `e2e/python`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use super::cache;
use crate::program;

/// The installer, much faster than pip.
const UV: &str = "uv==0.13.9";

#[derive(Clone, Copy, Debug)]
pub struct Requirements {
    pub name: &'static str,
    pub text: &'static str,
}

pub const CONTEXT_FORGE: Requirements =
    Requirements { name: "context-forge", text: include_str!("../../python/context-forge.txt") };

pub const MCP_SDK: Requirements = Requirements { name: "mcp-sdk", text: include_str!("../../python/mcp-sdk.txt") };

pub const MCP_SDK_1: Requirements =
    Requirements { name: "mcp-sdk-1", text: include_str!("../../python/mcp-sdk-1.txt") };

impl Requirements {
    /// Installs the packages, or finds them in the cache, and returns the environment's `bin` folder.
    pub fn install(self) -> Result<PathBuf> {
        let python = program::find("python3", "python3 python3-venv")?;
        let version = version(&python)?;
        let directory =
            cache::get_or_create(&format!("python/{}", self.name), &[self.text, UV, &version], |directory| {
                eprintln!("python        installing {} for Python {version}", self.name);
                program::output(Command::new(&python).args(["-m", "venv"]).arg(directory))
                    .context("On Debian: apt-get install -y python3-venv")?;
                let programs = directory.join("bin");
                program::output(Command::new(programs.join("pip")).args(["install", "--quiet", UV]))?;
                let list = directory.join("requirements.txt");
                fs::write(&list, self.text)?;
                program::output(
                    Command::new(programs.join("uv"))
                        .args(["pip", "install", "--require-hashes", "--python"])
                        .arg(programs.join("python"))
                        .arg("--requirements")
                        .arg(list),
                )?;
                Ok(())
            })?;
        Ok(directory.join("bin"))
    }
}

/// The interpreter's version. The packages are resolved for certain versions only.
fn version(python: &Path) -> Result<String> {
    let text = program::output(Command::new(python).args(["-c", "import sys; print('%d.%d' % sys.version_info[:2])"]))?;
    match text.trim() {
        known @ ("3.11" | "3.12" | "3.13") => Ok(known.to_owned()),
        other => bail!("python3 is {other}; Context Forge needs 3.11, 3.12 or 3.13 as the first python3 on PATH"),
    }
}
