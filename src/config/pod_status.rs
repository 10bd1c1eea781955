use serde::{Deserialize, Serialize};

/// JSON body of `/status` on a pod's health port; the operator derives conditions from it.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PodStatus {
    #[serde(default)]
    pub recheck: RecheckStatus,
}

/// Whether the issuer returns refresh tokens at login. The recheck at refresh requires one.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RecheckStatus {
    /// Time of the last login with a refresh token, in seconds since 1970; 0 if there was none.
    #[serde(default)]
    pub given: i64,
    /// Time of the last login refused for lack of a refresh token, in seconds since 1970; 0 if there was none.
    #[serde(default)]
    pub missing: i64,
}
