use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The OpenID Connect issuer that people log in at.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IdentityProvider {
    /// The issuer's address as its discovery document spells it, such as https://accounts.google.com.
    #[serde(rename = "issuerURL")]
    #[schemars(length(min = 1, max = 512))]
    #[x_kube(
        validation = Rule::new("self.matches('^https://[^/?#@ ]+(/[^?# ]*)?$') || self.matches('^http://(localhost|[a-z0-9.-]+[.]localhost|127[.][0-9.]+|[\\\\[]::1[\\\\]])(:[0-9]{1,5})?(/[^?# ]*)?$')")
            .message("issuerURL must be the https address of an OpenID Connect issuer, such as https://accounts.google.com, without query (http only for localhost)")
    )]
    pub issuer_url: String,

    /// The scopes asked of the issuer. openid and email are needed to know who logs in.
    #[serde(default = "default_scopes")]
    #[schemars(length(min = 1, max = 16), inner(length(min = 1, max = 64)))]
    #[x_kube(
        merge_strategy = ListMerge::Set,
        validation = Rule::new("'openid' in self && 'email' in self")
            .message("scopes must include openid and email: without them nobody can be recognised")
    )]
    pub scopes: Vec<String>,

    /// The claim that names a person's groups, such as groups: looked for in the ID token, then at the issuer's userinfo
    /// endpoint. access.groups needs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub groups_claim: Option<String>,

    /// Whether the issuer has to say that an address is verified. TrustIssuer is for issuers whose addresses are
    /// all their own and that leave the claim out or always say false (Entra, authentik).
    #[serde(default)]
    pub email_verified: EmailVerified,
}

/// Whether an address has to be verified.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum EmailVerified {
    /// Only an account whose ID token says email_verified: true may log in.
    #[default]
    Required,
    /// Every address that the issuer names is believed.
    TrustIssuer,
}

fn default_scopes() -> Vec<String> {
    ["openid", "email", "profile"].map(str::to_owned).to_vec()
}
