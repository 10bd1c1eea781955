use k8s_openapi::{api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{Api, Client};

use super::{
    error::Error,
    mounts,
    ownership::{Ownership, ownership},
    validate::ValidatedProxy,
};
use crate::crypto::SigningKeys;

/// State of the Secret with the keys that sign access tokens.
#[derive(Clone, Debug)]
pub(super) enum KeySecret {
    /// It holds readable keys.
    Present(Box<StoredKeys>),
    /// It does not exist.
    Absent,
    /// It belongs to the resource but holds no readable keys. The operator never replaces them: every client would have to
    /// refresh its token, and a user may have damaged the Secret by mistake.
    Unreadable,
    /// It belongs to another owner.
    Conflict(Ownership),
}

/// Signing keys with the metadata that a conditional write needs.
#[derive(Clone, Debug)]
pub(super) struct StoredKeys {
    /// Name, UID and resourceVersion of the Secret.
    pub(super) metadata: ObjectMeta,
    pub(super) keys: SigningKeys,
}

/// Reads the key Secret from the API server and never from a cache: with a stale "absent" the operator would create a second
/// set of keys.
pub(super) async fn fetch(client: &Client, proxy: &ValidatedProxy) -> Result<KeySecret, Error> {
    let name = proxy.signing_keys_secret();
    let api: Api<Secret> = Api::namespaced(client.clone(), &proxy.namespace);
    let secret = api.get_opt(&name).await.map_err(Error::kube(format!("read Secret {name}")))?;
    Ok(evaluate(proxy, secret))
}

fn evaluate(proxy: &ValidatedProxy, secret: Option<Secret>) -> KeySecret {
    let Some(secret) = secret else {
        return KeySecret::Absent;
    };
    match ownership(proxy, &secret.metadata) {
        Ownership::Ours => {}
        other => return KeySecret::Conflict(other),
    }
    let file = secret.data.as_ref().and_then(|data| data.get(mounts::SIGNING_KEYS_FILE));
    let readable = file
        .and_then(|file| SigningKeys::parse(&file.0).ok())
        .filter(|keys| !keys.keys.is_empty() && keys.keys.iter().all(|key| key.decode().is_ok()));
    let Some(keys) = readable else { return KeySecret::Unreadable };
    let metadata = ObjectMeta {
        name: secret.metadata.name,
        uid: secret.metadata.uid,
        resource_version: secret.metadata.resource_version,
        ..ObjectMeta::default()
    };
    KeySecret::Present(Box::new(StoredKeys { metadata, keys }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::validate::tests::validated;
    use jiff::Timestamp;
    use k8s_openapi::ByteString;

    use super::{super::build::metadata, *};

    fn secret(proxy: &ValidatedProxy, file: &str) -> Secret {
        Secret {
            metadata: metadata(proxy, "mcp-signing-keys"),
            data: Some([("keys.json".to_owned(), ByteString(file.as_bytes().to_vec()))].into()),
            ..Secret::default()
        }
    }

    #[test]
    fn readable_keys_are_present() {
        let proxy = validated(&json!({}));
        let keys = SigningKeys::generate(Timestamp::UNIX_EPOCH).unwrap().to_json().unwrap();
        assert!(matches!(evaluate(&proxy, Some(secret(&proxy, &keys))), KeySecret::Present(_)));
        assert!(matches!(evaluate(&proxy, None), KeySecret::Absent));
    }

    #[test]
    fn unreadable_keys_are_reported() {
        let proxy = validated(&json!({}));
        for file in [
            "",
            "{}",
            r#"{"keys": []}"#,
            r#"{"keys": [{"kid": "a", "privateKey": "AAAA", "useFrom": "2026-01-01T00:00:00Z"}]}"#,
        ] {
            assert!(matches!(evaluate(&proxy, Some(secret(&proxy, file))), KeySecret::Unreadable), "{file}");
        }
    }

    #[test]
    fn foreign_secret_is_a_conflict() {
        let proxy = validated(&json!({}));
        let mut foreign = secret(&proxy, "{}");
        foreign.metadata.owner_references = None;
        assert!(matches!(evaluate(&proxy, Some(foreign)), KeySecret::Conflict(Ownership::Foreign { .. })));
    }
}
