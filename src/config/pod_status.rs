use serde::{Deserialize, Serialize};

/// What a pod says of itself at `/status` of its health port, for the operator's conditions.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PodStatus {
    /// Whether the issuer can be asked at refreshes.
    #[serde(default)]
    pub recheck: RecheckStatus,
}

/// Whether the issuer gives the refresh tokens that it is asked with later.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RecheckStatus {
    /// When a login last came with one, in seconds since 1970; 0 if none has.
    #[serde(default)]
    pub given: i64,
    /// When a login was last refused because it came without.
    #[serde(default)]
    pub missing: i64,
}
