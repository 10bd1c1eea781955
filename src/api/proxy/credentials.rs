use kube::{KubeSchema, core::Rule};
use serde::{Deserialize, Serialize};

/// Source of the client ID, the client secret and the encryption key. Exactly one of onePassword and secretRef.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("has(self.onePassword) != has(self.secretRef)")
        .message("credentials needs exactly one source: write either onePassword or secretRef")
)]
pub struct Credentials {
    /// 1Password item that holds the credentials. The 1Password operator creates a Secret with this resource's name from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub one_password: Option<OnePasswordSource>,

    /// Secret in this namespace that holds the credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretReference>,

    /// Key names in the Secret. Set them if the Secret or item does not use the default names.
    #[serde(default)]
    pub keys: CredentialKeys,
}

/// An item in a 1Password vault.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OnePasswordSource {
    /// Path of the item: vaults/VAULT/items/ITEM. VAULT and ITEM are titles or IDs.
    #[schemars(length(min = 1, max = 512))]
    #[x_kube(
        validation = Rule::new("self.matches('^vaults/[^/]+/items/[^/]+$')")
            .message("itemPath must be vaults/VAULT/items/ITEM")
    )]
    pub item_path: String,
}

/// A Secret in the same namespace.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecretReference {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(
        validation = Rule::new("self.matches('^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$')")
            .message("a Secret's name is made of lower-case letters, digits, - and .")
    )]
    pub name: String,
}

/// A key of a Secret in the same namespace.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecretKeyReference {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(
        validation = Rule::new("self.matches('^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$')")
            .message("a Secret's name is made of lower-case letters, digits, - and .")
    )]
    pub name: String,

    /// Key in the Secret.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = key_rule())]
    pub key: String,
}

/// Keys of a Secret are file names in the pods.
fn key_rule() -> Rule {
    Rule::new("self.matches('^[-._a-zA-Z0-9]+$') && self != '.' && !self.startsWith('..')")
        .message("a Secret's key is made of letters, digits and -._, and does not begin with ..")
}

/// Key names in the credentials Secret.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CredentialKeys {
    /// Key of the client ID at the issuer. Default: OAUTH_CLIENT_ID.
    #[serde(default = "default_client_id", rename = "clientID")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = key_rule())]
    pub client_id: String,

    /// Key of the client secret at the issuer. Default: OAUTH_CLIENT_SECRET.
    #[serde(default = "default_client_secret")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = key_rule())]
    pub client_secret: String,

    /// Key of the encryption key: 32 random bytes in base64 (openssl rand -base64 32). It encrypts client IDs, authorization
    /// codes and refresh tokens. When you rotate it, keep the old value under previousEncryptionKey; otherwise everyone has
    /// to log in again. Default: ENCRYPTION_KEY.
    #[serde(default = "default_encryption_key")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = key_rule())]
    pub encryption_key: String,

    /// Key of the previous encryption key. Optional in the Secret. Data encrypted with it remains valid. Default:
    /// PREVIOUS_ENCRYPTION_KEY.
    #[serde(default = "default_previous_encryption_key")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = key_rule())]
    pub previous_encryption_key: String,
}

impl Default for CredentialKeys {
    fn default() -> Self {
        Self {
            client_id: default_client_id(),
            client_secret: default_client_secret(),
            encryption_key: default_encryption_key(),
            previous_encryption_key: default_previous_encryption_key(),
        }
    }
}

fn default_client_id() -> String {
    "OAUTH_CLIENT_ID".to_owned()
}

fn default_client_secret() -> String {
    "OAUTH_CLIENT_SECRET".to_owned()
}

fn default_encryption_key() -> String {
    "ENCRYPTION_KEY".to_owned()
}

fn default_previous_encryption_key() -> String {
    "PREVIOUS_ENCRYPTION_KEY".to_owned()
}
