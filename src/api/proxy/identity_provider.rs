use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::{
    DataKey, IssuerUrl, ObjectName,
    rules::{self, BrokenRule},
};

/// OpenID Connect issuer at which users log in.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IdentityProvider {
    /// Issuer URL, exactly as in the issuer's discovery document, such as https://accounts.google.com.
    #[serde(rename = "issuerURL")]
    pub issuer_url: IssuerUrl,

    /// Scopes requested from the issuer. Must include openid and email. Default: openid, email, profile.
    #[serde(default = "default_scopes")]
    #[schemars(length(min = 1, max = 16), inner(length(min = 1, max = 64)))]
    #[x_kube(merge_strategy = ListMerge::Set, validation = rules::SCOPES.schema())]
    pub scopes: Vec<String>,

    /// Name of the claim that lists a user's groups, such as groups. Read from the ID token, then from the issuer's userinfo
    /// endpoint. Required by access.groups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub groups_claim: Option<String>,

    /// Whether each token refresh checks at the issuer that the account still exists. Disabled by default. If Enabled, a
    /// deleted account loses access within tokens.accessTTL. Google and issuers that support the scope offline_access then
    /// request consent at each login, because they issue no refresh token otherwise.
    #[serde(default)]
    pub recheck_on_refresh: RecheckOnRefresh,

    /// Additional parameters of the authorization request to the issuer, such as prompt: select_account.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16), inner(length(max = 512)))]
    #[x_kube(validation = rules::AUTHORIZE_PARAMETER.keys_schema())]
    pub authorize_parameters: BTreeMap<String, String>,

    /// CA certificates (PEM) in a ConfigMap of this namespace, trusted for connections to the issuer in addition to the
    /// public CAs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_ref: Option<ConfigMapKeyReference>,

    /// Whether the ID token must contain email_verified: true. Required (default), or TrustIssuer for issuers that control all
    /// their e-mail addresses and omit the claim or always set it to false (Entra, authentik).
    #[serde(default)]
    pub email_verified: EmailVerified,
}

impl IdentityProvider {
    /// Whether each token refresh checks the account at the issuer.
    pub fn rechecks(&self) -> bool {
        self.recheck_on_refresh == RecheckOnRefresh::Enabled
    }

    pub(crate) fn check(&self) -> Result<(), BrokenRule> {
        rules::SCOPES.check("identityProvider.scopes", &self.scopes)?;
        rules::AUTHORIZE_PARAMETER.check_keys("identityProvider.authorizeParameters", &self.authorize_parameters)
    }
}

/// Whether each token refresh checks the account at the issuer.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum RecheckOnRefresh {
    /// The issuer is contacted only at login.
    #[default]
    Disabled,
    /// A token refresh fails unless the issuer confirms the account. A login fails unless the issuer issues a refresh token.
    Enabled,
}

/// A key of a ConfigMap in the same namespace.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ConfigMapKeyReference {
    /// Name of the ConfigMap.
    pub name: ObjectName,

    /// Key in the ConfigMap, such as ca.crt.
    pub key: DataKey,
}

/// Whether the e-mail address must be verified.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum EmailVerified {
    /// The ID token must contain email_verified: true.
    #[default]
    Required,
    /// The e-mail claim is trusted without email_verified.
    TrustIssuer,
}

fn default_scopes() -> Vec<String> {
    ["openid", "email", "profile"].map(str::to_owned).to_vec()
}
