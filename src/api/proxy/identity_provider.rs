use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// OpenID Connect issuer at which people log in.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IdentityProvider {
    /// Issuer URL, exactly as in the issuer's discovery document, such as https://accounts.google.com.
    #[serde(rename = "issuerURL")]
    #[schemars(length(min = 1, max = 512))]
    #[x_kube(
        validation = Rule::new("self.matches('^https://[^/?#@ ]+(/[^?# ]*)?$') || self.matches('^http://(localhost|[a-z0-9.-]+[.]localhost|127[.][0-9.]+|[\\\\[]::1[\\\\]])(:[0-9]{1,5})?(/[^?# ]*)?$')")
            .message("issuerURL must be the https address of an OpenID Connect issuer, such as https://accounts.google.com, without query (http only for localhost)")
    )]
    pub issuer_url: String,

    /// Scopes requested from the issuer. Must include openid and email. Default: openid, email, profile.
    #[serde(default = "default_scopes")]
    #[schemars(length(min = 1, max = 16), inner(length(min = 1, max = 64)))]
    #[x_kube(
        merge_strategy = ListMerge::Set,
        validation = Rule::new("'openid' in self && 'email' in self")
            .message("scopes must include openid and email: without them nobody can be recognised")
    )]
    pub scopes: Vec<String>,

    /// Name of the claim that lists a person's groups, such as groups. Read from the ID token, then from the issuer's userinfo
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
    #[x_kube(
        validation = Rule::new("self.all(name, name.matches('^[A-Za-z0-9_.-]{1,64}$') && !(name in ['client_id', 'client_secret', 'response_type', 'response_mode', 'redirect_uri', 'scope', 'state', 'nonce', 'code_challenge', 'code_challenge_method', 'request', 'request_uri']))")
            .message("authorizeParameters may hold what the proxy does not send by itself, such as prompt, hd or access_type; scopes have a field of their own")
    )]
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

    /// Applies the CRD's rule for `authorizeParameters` to a configuration file.
    ///
    /// # Errors
    /// A reserved or malformed parameter name; the message states what is allowed.
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

/// Parameters of the authorization request that the proxy sets itself, or that would override those it sets.
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
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ConfigMapKeyReference {
    /// Name of the ConfigMap.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(
        validation = Rule::new("self.matches('^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$')")
            .message("a ConfigMap's name is made of lower-case letters, digits, - and .")
    )]
    pub name: String,

    /// Key in the ConfigMap, such as ca.crt.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(
        validation = Rule::new("self.matches('^[-._a-zA-Z0-9]+$') && self != '.' && !self.startsWith('..')")
            .message("a ConfigMap's key is made of letters, digits and -._, and does not begin with ..")
    )]
    pub key: String,
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
