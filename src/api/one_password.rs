use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The part that we write of the 1Password operator's `OnePasswordItem`. That operator makes a Secret of the same name
/// from the item. Its status is never read: a rate-limited item may go without one for a long time
/// (<https://github.com/1Password/onepassword-operator>).
#[derive(Clone, CustomResource, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[kube(group = "onepassword.com", version = "v1", kind = "OnePasswordItem", namespaced, derive = "PartialEq")]
#[serde(rename_all = "camelCase")]
pub struct OnePasswordItemSpec {
    /// `vaults/<vault>/items/<item>`, titles or ids.
    pub item_path: String,
}
