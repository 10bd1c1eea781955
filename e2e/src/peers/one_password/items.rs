//! The file of items that takes the vault's place.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// An item of a vault.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Item {
    /// Grows with each change.
    pub version: u64,
    /// By label.
    pub fields: BTreeMap<String, String>,
}

/// All items, by `vaults/<vault>/items/<item>`.
pub type Items = BTreeMap<String, Item>;

/// Reads the items.
pub fn read(file: &Path) -> Result<Items> {
    let text = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{} is not right", file.display()))
}
