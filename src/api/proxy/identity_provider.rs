use std::collections::BTreeMap;

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

    /// Whether the issuer is asked at each refresh if the person is still there: who is gone there is gone here within
    /// tokens.accessTTL. People are then asked for consent at each login, at Google and at issuers that name the scope
    /// offline_access, because otherwise these give no refresh token.
    #[serde(default)]
    pub recheck_on_refresh: RecheckOnRefresh,

    /// Parameters that are added to the issuer's authorize address, such as prompt: select_account.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16), inner(length(max = 512)))]
    #[x_kube(
        validation = Rule::new("self.all(name, name.matches('^[A-Za-z0-9_.-]{1,64}$') && !(name in ['client_id', 'client_secret', 'response_type', 'response_mode', 'redirect_uri', 'scope', 'state', 'nonce', 'code_challenge', 'code_challenge_method', 'request', 'request_uri']))")
            .message("authorizeParameters may hold what the proxy does not send by itself, such as prompt, hd or access_type; scopes have a field of their own")
    )]
    pub authorize_parameters: BTreeMap<String, String>,

    /// A ConfigMap of this namespace with certificates (PEM) that the issuer's is checked against, beside the public ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_ref: Option<ConfigMapKeyReference>,

    /// Whether the issuer has to say that an address is verified. TrustIssuer is for issuers whose addresses are
    /// all their own and that leave the claim out or always say false (Entra, authentik).
    #[serde(default)]
    pub email_verified: EmailVerified,
}

impl IdentityProvider {
    /// Whether the issuer is asked at each refresh.
    pub fn rechecks(&self) -> bool {
        self.recheck_on_refresh == RecheckOnRefresh::Enabled
    }

    /// Checks what the CRD's rules check for a resource.
    ///
    /// # Errors
    /// What to write instead.
    pub(crate) fn check_parameters(&self) -> Result<(), &'static str> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
        let may_be_added =
            |name: &String| !name.is_empty() && name.bytes().all(plain) && !OURS.contains(&name.as_str());
        if self.authorize_parameters.keys().all(may_be_added) {
            return Ok(());
        }
        Err(
            "identityProvider.authorizeParameters may hold what the proxy does not send by itself, such as prompt, hd or access_type; scopes have a field of their own",
        )
    }
}

/// The parameters that the proxy sends to the issuer's authorize address by itself, or that would speak for those.
const OURS: [&str; 12] = [
    "client_id",
    "client_secret",
    "response_type",
    "response_mode",
    "redirect_uri",
    "scope",
    "state",
    "nonce",
    "code_challenge",
    "code_challenge_method",
    "request",
    "request_uri",
];

/// Whether the issuer is asked at each refresh.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum RecheckOnRefresh {
    /// The issuer is asked at logins alone.
    #[default]
    Disabled,
    /// A refresh needs the issuer's word that the person is still there. Logins need a refresh token from it.
    Enabled,
}

/// One key of a ConfigMap of the same namespace.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ConfigMapKeyReference {
    /// The ConfigMap's name.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(
        validation = Rule::new("self.matches('^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$')")
            .message("a ConfigMap's name is made of lower-case letters, digits, - and .")
    )]
    pub name: String,

    /// The key in the ConfigMap, such as ca.crt.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(
        validation = Rule::new("self.matches('^[-._a-zA-Z0-9]+$') && self != '.' && !self.startsWith('..')")
            .message("a ConfigMap's key is made of letters, digits and -._, and does not begin with ..")
    )]
    pub key: String,
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
