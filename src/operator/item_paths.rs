use std::{collections::BTreeMap, str::FromStr};

use thiserror::Error;

/// The 1Password items that the resources of each namespace may refer to. Without this limit, any user who may write an
/// `McpOAuthProxy` could read every item that the 1Password operator can read.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct AllowedItemPaths(Option<BTreeMap<String, Vec<String>>>);

/// The value of `--one-password-allowed-item-paths` is invalid.
#[derive(Debug, Error)]
#[error("expected {{\"NAMESPACE\": [\"vaults/VAULT/items/ITEM\"]}}, with * as ITEM for every item of the vault: {0}")]
pub(super) struct InvalidItemPaths(#[from] serde_json::Error);

impl AllowedItemPaths {
    /// Whether resources of the namespace may refer to the item. Without a setting, they may.
    pub(super) fn allow(&self, namespace: &str, item_path: &str) -> bool {
        let Some(by_namespace) = &self.0 else { return true };
        by_namespace.get(namespace).into_iter().flatten().any(|allowed| match allowed.strip_suffix("/items/*") {
            Some(vault) => item_path.strip_prefix(vault).is_some_and(|rest| rest.starts_with("/items/")),
            None => allowed == item_path,
        })
    }
}

impl FromStr for AllowedItemPaths {
    type Err = InvalidItemPaths;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // The chart's default value is empty.
        if text.trim().is_empty() { Ok(Self(None)) } else { Ok(Self(Some(serde_json::from_str(text)?))) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_path_is_allowed_by_default() {
        assert!("".parse::<AllowedItemPaths>().unwrap().allow("a", "vaults/v/items/i"));
    }

    #[test]
    fn only_item_paths_listed_for_the_namespace_are_allowed() {
        let allowed: AllowedItemPaths = r#"{"a": ["vaults/v/items/i"], "b": ["vaults/v/items/*"]}"#.parse().unwrap();
        assert!(allowed.allow("a", "vaults/v/items/i") && !allowed.allow("a", "vaults/v/items/j"));
        assert!(allowed.allow("b", "vaults/v/items/j") && !allowed.allow("b", "vaults/vv/items/j"));
        assert!(!allowed.allow("c", "vaults/v/items/i"));
    }

    #[test]
    fn invalid_item_path_setting_is_explained() {
        let error = "vaults/v/items/i".parse::<AllowedItemPaths>().unwrap_err().to_string();
        assert!(error.contains("NAMESPACE"), "{error}");
    }
}
