use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::{DataKey, ItemPath, ObjectName, rules};

/// Source of the client ID, the client secret and the encryption key. Exactly one of onePassword and secretRef.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = rules::ONE_CREDENTIALS_SOURCE.schema())]
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
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OnePasswordSource {
    /// Path of the item: vaults/VAULT/items/ITEM. VAULT and ITEM are titles or IDs.
    pub item_path: ItemPath,
}

/// A Secret in the same namespace.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecretReference {
    /// Name of the Secret.
    pub name: ObjectName,
}

/// A key of a Secret in the same namespace.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecretKeyReference {
    /// Name of the Secret.
    pub name: ObjectName,

    /// Key in the Secret.
    pub key: DataKey,
}

/// Key names in the credentials Secret.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CredentialKeys {
    /// Key of the client ID at the issuer. Default: OAUTH_CLIENT_ID.
    #[serde(default = "default_client_id", rename = "clientID")]
    pub client_id: DataKey,

    /// Key of the client secret at the issuer. Default: OAUTH_CLIENT_SECRET.
    #[serde(default = "default_client_secret")]
    pub client_secret: DataKey,

    /// Key of the encryption key: 32 random bytes in base64 (openssl rand -base64 32). It encrypts client IDs, authorization
    /// codes and refresh tokens. When you rotate it, keep the old value under previousEncryptionKey; otherwise everyone has
    /// to log in again. Default: ENCRYPTION_KEY.
    #[serde(default = "default_encryption_key")]
    pub encryption_key: DataKey,

    /// Key of the previous encryption key. Optional in the Secret. Data encrypted with it remains valid. Default:
    /// PREVIOUS_ENCRYPTION_KEY.
    #[serde(default = "default_previous_encryption_key")]
    pub previous_encryption_key: DataKey,
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

fn default_client_id() -> DataKey {
    DataKey::unchecked("OAUTH_CLIENT_ID")
}

fn default_client_secret() -> DataKey {
    DataKey::unchecked("OAUTH_CLIENT_SECRET")
}

fn default_encryption_key() -> DataKey {
    DataKey::unchecked("ENCRYPTION_KEY")
}

fn default_previous_encryption_key() -> DataKey {
    DataKey::unchecked("PREVIOUS_ENCRYPTION_KEY")
}
