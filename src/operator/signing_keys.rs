use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};

use super::{
    apply::{Ownership, ownership},
    build::metadata,
    error::Error,
    mounts,
    validate::ValidatedProxy,
};
use crate::proxy::config::SigningKeys;

/// What has become of the Secret with the keys that access tokens are signed with.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum KeySecret {
    /// It has keys.
    Present,
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
    Ok(judge(proxy, secret.as_ref()))
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

fn judge(proxy: &ValidatedProxy, secret: Option<&Secret>) -> KeySecret {
    let Some(secret) = secret else {
        return KeySecret::Absent;
    };
    match ownership(proxy, &secret.metadata) {
        Ownership::Ours => {}
        other => return KeySecret::Taken(other),
    }
    let file = secret.data.as_ref().and_then(|data| data.get(mounts::SIGNING_KEYS_FILE));
    let readable = file
        .and_then(|file| SigningKeys::parse(&file.0).ok())
        .is_some_and(|keys| !keys.keys.is_empty() && keys.keys.iter().all(|key| key.decode().is_ok()));
    if readable { KeySecret::Present } else { KeySecret::Unreadable }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;
    use serde_json::json;

    use super::*;
    use crate::operator::validate::tests::validated;

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
        assert_eq!(judge(&proxy, Some(&secret(&proxy, &keys))), KeySecret::Present);
        assert_eq!(judge(&proxy, None), KeySecret::Absent);
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
            assert_eq!(judge(&proxy, Some(&secret(&proxy, file))), KeySecret::Unreadable, "{file}");
        }
    }

    #[test]
    fn somebody_elses_secret_is_not_used() {
        let proxy = validated(&json!({}));
        let mut foreign = secret(&proxy, "{}");
        foreign.metadata.owner_references = None;
        assert!(matches!(judge(&proxy, Some(&foreign)), KeySecret::Taken(Ownership::Foreign { .. })));
    }
}
