//! The file of items that stands in for the vault.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Item {
    /// Incremented by each change.
    pub version: u64,
    /// Values by label.
    pub fields: BTreeMap<String, String>,
}

/// Items by path: `vaults/<vault>/items/<item>`.
pub type Items = BTreeMap<String, Item>;

pub fn read(file: &Path) -> Result<Items> {
    let text = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{} is invalid", file.display()))
}
