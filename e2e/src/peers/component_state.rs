//! The state of running components, stored in the run's folder for later commands.

use std::{
    fs::{self, File},
    path::Path,
};

use anyhow::{Context, Result};
use serde::{Serialize, de::DeserializeOwned};

use crate::run::Run;

/// Stores a component's state.
pub fn save<T: Serialize>(run: &Run, component: &str, what: &T) -> Result<()> {
    let file = run.directory().join(format!("{component}.json"));
    fs::write(&file, serde_json::to_vec_pretty(what)?).with_context(|| format!("cannot write {}", file.display()))
}

/// Loads the state of a component, if it is running.
pub fn load<T: DeserializeOwned>(run: &Run, component: &str) -> Option<T> {
    run.running(component)?;
    let text = fs::read(run.directory().join(format!("{component}.json"))).ok()?;
    serde_json::from_slice(&text).ok()
}

/// Replaces a JSON file as a whole: its readers never see a partial one.
pub fn replace_json<T: Serialize>(file: &Path, content: &T) -> Result<()> {
    let new = file.with_extension("new");
    fs::write(&new, serde_json::to_vec_pretty(content)?)?;
    Ok(fs::rename(new, file)?)
}

/// Locks a folder of the run against other tests and commands until the file is dropped.
pub fn lock_folder(folder: &Path) -> Result<File> {
    fs::create_dir_all(folder)?;
    let lock = File::create(folder.join(".lock"))?;
    lock.lock().with_context(|| format!("cannot lock {}", folder.display()))?;
    Ok(lock)
}
