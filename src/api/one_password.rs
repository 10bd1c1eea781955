use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The fields of the 1Password operator's `OnePasswordItem` that the operator writes. The 1Password operator creates a
/// Secret of the same name. Its status is not read: a rate-limited item can stay without one for a long time
/// (<https://github.com/1Password/onepassword-operator>).
#[derive(Clone, CustomResource, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[kube(group = "onepassword.com", version = "v1", kind = "OnePasswordItem", namespaced, derive = "PartialEq")]
#[serde(rename_all = "camelCase")]
pub struct OnePasswordItemSpec {
    /// `vaults/<vault>/items/<item>`, by title or ID.
    pub item_path: String,
}
