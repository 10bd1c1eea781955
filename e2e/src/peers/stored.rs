//! What clients keep in files of JSON, changed between two of their runs.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use serde_json::Value;

/// Changes a file.
pub fn change(file: &Path, change: impl FnOnce(&mut Value) -> Result<()>) -> Result<()> {
    let name = || file.display().to_string();
    let text = fs::read(file).with_context(name)?;
    let mut value = serde_json::from_slice(&text).with_context(name)?;
    change(&mut value).with_context(name)?;
    Ok(fs::write(file, serde_json::to_vec(&value)?)?)
}

/// Puts what is no token in a token's place. It must be there: a client that keeps it elsewhere would go on with it.
pub fn spoil(tokens: &mut Value, member: &str) -> Result<()> {
    let token = tokens.get_mut(member).filter(|token| token.is_string());
    *token.with_context(|| format!("no {member} is kept"))? = "not-a-token".into();
    Ok(())
}
