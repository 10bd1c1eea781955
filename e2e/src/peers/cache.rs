//! A cache of folders that are slow to create and depend only on their inputs. Concurrent processes wait for each
//! other.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use aws_lc_rs::digest::{SHA256, digest};
use rustix::fs::{FlockOperation, flock};

use crate::run::cache_directory;

/// Returns the folder `<cache>/<name>/<hash of inputs>`, which `make` fills if it does not exist yet.
pub fn get_or_create(name: &str, inputs: &[&str], make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let parent = cache_directory()?.join(name);
    fs::create_dir_all(&parent).with_context(|| format!("cannot create {}", parent.display()))?;
    let key = hash(inputs);
    let directory = parent.join(&key);
    let complete = directory.join(".complete");
    if complete.exists() {
        return Ok(directory);
    }
    let lock = File::create(parent.join(format!("{key}.lock")))?;
    flock(&lock, FlockOperation::LockExclusive)?;
    if !complete.exists() {
        if directory.exists() {
            fs::remove_dir_all(&directory)?;
        }
        fs::create_dir(&directory)?;
        make(&directory).with_context(|| format!("cannot prepare {name} in {}", directory.display()))?;
        File::create(complete)?;
    }
    Ok(directory)
}

fn hash(inputs: &[&str]) -> String {
    let all: Vec<u8> = inputs.iter().flat_map(|input| [input.as_bytes(), b"\0"]).flatten().copied().collect();
    digest(&SHA256, &all).as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}
