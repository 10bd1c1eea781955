//! Edits of the JSON files in which clients store their state, between two starts.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use serde_json::Value;

pub fn edit(file: &Path, edit: impl FnOnce(&mut Value) -> Result<()>) -> Result<()> {
    let name = || file.display().to_string();
    let text = fs::read(file).with_context(name)?;
    let mut value = serde_json::from_slice(&text).with_context(name)?;
    edit(&mut value).with_context(name)?;
    Ok(fs::write(file, serde_json::to_vec(&value)?)?)
}

/// Replaces a token by an invalid one. Fails if there is none: the client would continue to use a token that is stored
/// elsewhere.
pub fn invalidate_token(tokens: &mut Value, member: &str) -> Result<()> {
    let token = tokens.get_mut(member).filter(|token| token.is_string());
    *token.with_context(|| format!("no {member} is stored"))? = "not-a-token".into();
    Ok(())
}
