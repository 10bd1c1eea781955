use kube::{KubeSchema, core::Rule};
use serde::{Deserialize, Serialize};

/// Where the client id, the client secret and the encryption key come from: exactly one source.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("has(self.onePassword) != has(self.secretRef)")
        .message("credentials needs exactly one source: write either onePassword or secretRef")
)]
pub struct Credentials {
    /// A 1Password item. The 1Password operator makes a Secret with this resource's name from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub one_password: Option<OnePasswordSource>,

    /// A Secret of this namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretReference>,

    /// The names of the keys in the Secret, for items that call them otherwise.
    #[serde(default)]
    pub keys: CredentialKeys,
}

/// An item of a 1Password vault.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OnePasswordSource {
    /// vaults/VAULT/items/ITEM, each by its title or id.
    #[schemars(length(min = 1, max = 512))]
    #[x_kube(
        validation = Rule::new("self.matches('^vaults/[^/]+/items/[^/]+$')")
            .message("itemPath must be vaults/VAULT/items/ITEM")
    )]
    pub item_path: String,
}

/// A Secret of the same namespace.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecretReference {
    /// The Secret's name.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(
        validation = Rule::new("self.matches('^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$')")
            .message("a Secret's name is made of lower-case letters, digits, - and .")
    )]
    pub name: String,
}

/// One key of a Secret of the same namespace.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecretKeyReference {
    /// The Secret's name.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(
        validation = Rule::new("self.matches('^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$')")
            .message("a Secret's name is made of lower-case letters, digits, - and .")
    )]
    pub name: String,

    /// The key in the Secret.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = key_rule())]
    pub key: String,
}

/// A Secret's keys are file names in the pods.
fn key_rule() -> Rule {
    Rule::new("self.matches('^[-._a-zA-Z0-9]+$') && self != '.' && !self.startsWith('..')")
        .message("a Secret's key is made of letters, digits and -._, and does not begin with ..")
}

/// The names of the keys in the credentials' Secret.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CredentialKeys {
    /// Holds the client id that the issuer gave us.
    #[serde(default = "default_client_id", rename = "clientID")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = key_rule())]
    pub client_id: String,

    /// Holds the client secret that the issuer gave us.
    #[serde(default = "default_client_secret")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = key_rule())]
    pub client_secret: String,

    /// Holds 32 random bytes in base64 (openssl rand -base64 32): seals client ids, codes and refresh tokens. Who changes
    /// it keeps the former one under previousEncryptionKey; otherwise everybody has to log in again.
    #[serde(default = "default_encryption_key")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = key_rule())]
    pub encryption_key: String,

    /// Holds the encryption key before the present one, and may be absent: what it has sealed goes on being good.
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
