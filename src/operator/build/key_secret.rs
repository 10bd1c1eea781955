use jiff::Timestamp;
use k8s_openapi::{ByteString, api::core::v1::Secret};

use super::metadata;
use crate::{
    crypto::SigningKeys,
    operator::{
        error::Error,
        mounts,
        signing_keys::{KeySecret, StoredKeys},
        validate::ValidatedProxy,
    },
};

/// A write to the key Secret. It is never applied: a second writer must not replace keys that are in use.
#[derive(Clone, Debug)]
pub(in crate::operator) enum KeySecretChange {
    /// Create the Secret, unless it exists by then.
    Create(Secret),
    /// Patch the Secret with the resourceVersion that was read, so that a concurrent change wins.
    Rotate(Secret),
}

/// Returns the change that `keys` need at `now`, if any. Pure, apart from generating random keys.
pub(super) fn build(
    proxy: &ValidatedProxy,
    keys: &KeySecret,
    now: Timestamp,
) -> Result<Option<KeySecretChange>, Error> {
    match keys {
        KeySecret::Absent => {
            let file = SigningKeys::generate(now)?.to_json()?;
            let string_data = Some([(mounts::SIGNING_KEYS_FILE.to_owned(), file)].into());
            Ok(Some(KeySecretChange::Create(Secret { string_data, ..without_keys(proxy) })))
        }
        KeySecret::Present(stored) => Ok(rotate(stored, now)?.map(KeySecretChange::Rotate)),
        KeySecret::Unreadable | KeySecret::Conflict(_) => Ok(None),
    }
}

/// The key Secret without its data.
pub(in crate::operator) fn without_keys(proxy: &ValidatedProxy) -> Secret {
    Secret {
        metadata: metadata(proxy, proxy.signing_keys_secret()),
        type_: Some("Opaque".to_owned()),
        ..Secret::default()
    }
}

fn rotate(StoredKeys { metadata, keys }: &StoredKeys, now: Timestamp) -> Result<Option<Secret>, Error> {
    let Some(rotated) = keys.rotated(now)? else { return Ok(None) };
    let file = ByteString(rotated.to_json()?.into_bytes());
    let data = Some([(mounts::SIGNING_KEYS_FILE.to_owned(), file)].into());
    Ok(Some(Secret { metadata: metadata.clone(), data, ..Secret::default() }))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
    use serde_json::json;

    use super::*;
    use crate::{
        crypto::SIGNS_FOR,
        operator::{ownership::Ownership, validate::tests::validated},
    };

    fn stored() -> StoredKeys {
        let metadata = ObjectMeta { resource_version: Some("7".to_owned()), ..ObjectMeta::default() };
        StoredKeys { metadata, keys: SigningKeys::generate(Timestamp::UNIX_EPOCH).unwrap() }
    }

    fn change(keys: &KeySecret, now: Timestamp) -> Option<KeySecretChange> {
        build(&validated(&json!({})), keys, now).unwrap()
    }

    #[test]
    fn absent_keys_are_created() {
        let Some(KeySecretChange::Create(secret)) = change(&KeySecret::Absent, Timestamp::UNIX_EPOCH) else { panic!() };
        let file = &secret.string_data.unwrap()["keys.json"];
        assert_eq!(SigningKeys::parse(file.as_bytes()).unwrap().keys.len(), 1);
    }

    #[test]
    fn rotation_keeps_the_old_key_and_carries_the_version_that_was_read() {
        let stored = stored();
        let kid = stored.keys.keys[0].kid.clone();
        let due = Timestamp::UNIX_EPOCH + SIGNS_FOR;
        let Some(KeySecretChange::Rotate(secret)) = change(&KeySecret::Present(Box::new(stored)), due) else {
            panic!()
        };
        assert_eq!(secret.metadata.resource_version.as_deref(), Some("7"));
        let file = &secret.data.unwrap()["keys.json"];
        let kids: Vec<String> = SigningKeys::parse(&file.0).unwrap().keys.into_iter().map(|key| key.kid).collect();
        assert!(kids.len() == 2 && kids[0] == kid, "{kids:?}");
    }

    #[test]
    fn keys_not_due_foreign_or_unreadable_are_unchanged() {
        let now = Timestamp::UNIX_EPOCH;
        for keys in
            [KeySecret::Present(Box::new(stored())), KeySecret::Unreadable, KeySecret::Conflict(Ownership::Former)]
        {
            assert!(change(&keys, now).is_none());
        }
    }
}
