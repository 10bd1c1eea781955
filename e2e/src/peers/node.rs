//! Programs from npm, and Node.js itself, pinned by `e2e/js/package-lock.json`.

use std::{
    env::consts::ARCH,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, bail};

use super::{cache, component_state};
use crate::{program, run::Run};

const PACKAGE: &str = include_str!("../../js/package.json");
const LOCK: &str = include_str!("../../js/package-lock.json");
const SETTINGS: &str = include_str!("../../js/.npmrc");
const SCRIPTS: [(&str, &str); 6] = [
    ("provider.mjs", include_str!("../../js/provider.mjs")),
    ("scenarios.mjs", include_str!("../../js/scenarios.mjs")),
    ("sdk-1.mjs", include_str!("../../js/sdk-1.mjs")),
    ("sdk-2.mjs", include_str!("../../js/sdk-2.mjs")),
    ("sdk.mjs", include_str!("../../js/sdk.mjs")),
    ("upstream.mjs", include_str!("../../js/upstream.mjs")),
];

#[derive(Clone, Debug)]
pub struct Node {
    packages: PathBuf,
    /// The folder in a run for our scripts.
    scripts: &'static str,
}

impl Node {
    /// Installs the packages of the demo, or finds them in the cache.
    pub fn install() -> Result<Self> {
        Self::packages("npm", "js", &["--omit=dev"])
    }

    /// Also installs the clients and suites that only tests need: another half a gigabyte.
    pub fn with_clients() -> Result<Self> {
        Self::packages("npm-clients", "js-clients", &[])
    }

    fn packages(cache: &str, scripts: &'static str, options: &[&str]) -> Result<Self> {
        let directory = cache::get_or_create(cache, &[LOCK, ARCH], |directory| {
            let npm = program::find("npm", "npm")?;
            eprintln!("npm           installing the packages of e2e/js");
            fs::write(directory.join("package.json"), PACKAGE)?;
            fs::write(directory.join("package-lock.json"), LOCK)?;
            fs::write(directory.join(".npmrc"), SETTINGS)?;
            program::output(Command::new(npm).arg("ci").args(options).current_dir(directory)).map(drop)
        })?;
        Ok(Self { packages: directory.join("node_modules"), scripts })
    }

    pub fn interpreter(&self) -> Result<PathBuf> {
        self.native("node-linux", "bin/node")
    }

    /// A file of an architecture-specific package.
    pub fn native(&self, package: &str, file: &str) -> Result<PathBuf> {
        let architecture = match ARCH {
            "x86_64" => "x64",
            "aarch64" => "arm64",
            other => bail!("there is no {package} for {other}"),
        };
        Ok(self.packages.join(format!("{package}-{architecture}")).join(file))
    }

    /// A file of a package, such as `mcp-remote/dist/proxy.js`.
    pub fn file(&self, path: &str) -> PathBuf {
        self.packages.join(path)
    }

    /// Writes our scripts into the run's folder, beside a link to their packages, and returns the path of `name`.
    pub fn script(&self, run: &Run, name: &str) -> Result<PathBuf> {
        let directory = run.directory().join(self.scripts);
        // Components that start concurrently share the folder.
        let _lock = component_state::lock_folder(&directory)?;
        for (script, text) in SCRIPTS {
            let file = directory.join(script);
            // Do not truncate a file that another component may be reading.
            if fs::read_to_string(&file).is_ok_and(|before| before == text) {
                continue;
            }
            fs::write(file, text)?;
        }
        link(&self.packages, &directory.join("node_modules"))?;
        Ok(directory.join(name))
    }
}

fn link(target: &Path, at: &Path) -> Result<()> {
    if fs::read_link(at).is_ok_and(|before| before == target) {
        return Ok(());
    }
    if at.is_symlink() {
        fs::remove_file(at)?;
    }
    Ok(symlink(target, at)?)
}
