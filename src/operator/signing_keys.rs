use jiff::Timestamp;
use k8s_openapi::{ByteString, api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{Api, Client};

use super::{
    apply::{Ownership, ownership},
    build::metadata,
    error::Error,
    mounts,
    validate::ValidatedProxy,
};
use crate::crypto::SigningKeys;

/// What has become of the Secret with the keys that access tokens are signed with.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum KeySecret {
    /// It has keys, and they are as they should be.
    Present,
    /// It has keys, and it is time for others: the Secret with them, to be written over what was read.
    Due(Box<Secret>),
    /// It is not there.
    Absent,
    /// It is ours, but no keys can be read from it. They are never replaced by themselves: that would log everyone out.
    Unreadable,
    /// It is somebody else's.
    Taken(Ownership),
}

/// Looks at the key Secret, at the API server and not in any cache: who believes a stale "absent" makes new keys.
pub(super) async fn look(client: &Client, proxy: &ValidatedProxy) -> Result<KeySecret, Error> {
    let name = proxy.signing_keys_secret();
    let api: Api<Secret> = Api::namespaced(client.clone(), &proxy.namespace);
    let secret = api.get_opt(&name).await.map_err(Error::kube(format!("read Secret {name}")))?;
    judge(proxy, secret.as_ref(), Timestamp::now())
}

/// The next keys for a Secret that has these; `None` if it is not time.
fn rotate(secret: &Secret, keys: &SigningKeys, now: Timestamp) -> Result<Option<Box<Secret>>, Error> {
    let Some(rotated) = keys.rotated(now)? else { return Ok(None) };
    let file = ByteString(rotated.to_json()?.into_bytes());
    Ok(Some(Box::new(Secret {
        // With the version that was read: what somebody else has written since stays.
        metadata: ObjectMeta {
            name: secret.metadata.name.clone(),
            uid: secret.metadata.uid.clone(),
            resource_version: secret.metadata.resource_version.clone(),
            ..ObjectMeta::default()
        },
        data: Some([(mounts::SIGNING_KEYS_FILE.to_owned(), file)].into()),
        ..Secret::default()
    })))
}

/// The key Secret with new keys. It is to be created and never applied.
pub(super) fn generate(proxy: &ValidatedProxy) -> Result<Secret, Error> {
    let keys = SigningKeys::generate(Timestamp::now())?.to_json()?;
    Ok(Secret {
        metadata: metadata(proxy, proxy.signing_keys_secret()),
        string_data: Some([(mounts::SIGNING_KEYS_FILE.to_owned(), keys)].into()),
        type_: Some("Opaque".to_owned()),
        ..Secret::default()
    })
}

fn judge(proxy: &ValidatedProxy, secret: Option<&Secret>, now: Timestamp) -> Result<KeySecret, Error> {
    let Some(secret) = secret else {
        return Ok(KeySecret::Absent);
    };
    match ownership(proxy, &secret.metadata) {
        Ownership::Ours => {}
        other => return Ok(KeySecret::Taken(other)),
    }
    let file = secret.data.as_ref().and_then(|data| data.get(mounts::SIGNING_KEYS_FILE));
    let readable = file
        .and_then(|file| SigningKeys::parse(&file.0).ok())
        .filter(|keys| !keys.keys.is_empty() && keys.keys.iter().all(|key| key.decode().is_ok()));
    let Some(keys) = readable else { return Ok(KeySecret::Unreadable) };
    Ok(rotate(secret, &keys, now)?.map_or(KeySecret::Present, KeySecret::Due))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::validate::tests::validated;
    use super::*;
    use crate::crypto::SIGNS_FOR;

    fn secret(proxy: &ValidatedProxy, file: &str) -> Secret {
        Secret {
            metadata: metadata(proxy, "mcp-signing-keys"),
            data: Some([("keys.json".to_owned(), ByteString(file.as_bytes().to_vec()))].into()),
            ..Secret::default()
        }
    }

    #[test]
    fn keys_that_are_there_are_left_alone() {
        let proxy = validated(&json!({}));
        let keys = SigningKeys::generate(Timestamp::UNIX_EPOCH).unwrap().to_json().unwrap();
        let judge = |secret: Option<Secret>| judge(&proxy, secret.as_ref(), Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!(judge(Some(secret(&proxy, &keys))), KeySecret::Present);
        assert_eq!(judge(None), KeySecret::Absent);
    }

    #[test]
    fn broken_keys_are_reported_and_not_replaced() {
        let proxy = validated(&json!({}));
        for file in [
            "",
            "{}",
            r#"{"keys": []}"#,
            r#"{"keys": [{"kid": "a", "privateKey": "AAAA", "useFrom": "2026-01-01T00:00:00Z"}]}"#,
        ] {
            let judged = judge(&proxy, Some(&secret(&proxy, file)), Timestamp::UNIX_EPOCH).unwrap();
            assert_eq!(judged, KeySecret::Unreadable, "{file}");
        }
    }

    #[test]
    fn somebody_elses_secret_is_not_used() {
        let proxy = validated(&json!({}));
        let mut foreign = secret(&proxy, "{}");
        foreign.metadata.owner_references = None;
        let judged = judge(&proxy, Some(&foreign), Timestamp::UNIX_EPOCH).unwrap();
        assert!(matches!(judged, KeySecret::Taken(Ownership::Foreign { .. })));
    }

    #[test]
    fn a_successor_is_written_over_what_was_read_and_beside_the_old_key() {
        let proxy = validated(&json!({}));
        let keys = SigningKeys::generate(Timestamp::UNIX_EPOCH).unwrap();
        let mut stored = secret(&proxy, &keys.to_json().unwrap());
        stored.metadata.resource_version = Some("7".to_owned());
        let due = Timestamp::UNIX_EPOCH + SIGNS_FOR;
        let KeySecret::Due(new) = judge(&proxy, Some(&stored), due).unwrap() else { panic!("it is time") };
        assert_eq!(new.metadata.resource_version.as_deref(), Some("7"));
        let file = &new.data.unwrap()["keys.json"];
        let kids: Vec<String> = SigningKeys::parse(&file.0).unwrap().keys.into_iter().map(|key| key.kid).collect();
        assert!(kids.len() == 2 && kids[0] == keys.keys[0].kid, "{kids:?}");
    }
}
