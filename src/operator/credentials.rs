use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{Api, Client};

use super::{
    error::Error,
    validate::{CredentialsSource, ValidatedProxy},
};
use crate::api::proxy::{ConfigMapKeyReference, SecretKeyReference};

/// State of the Secrets and the `ConfigMap` that the pods mount. Their content never leaves this module.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum CredentialsState {
    /// Every key exists.
    Complete,
    /// The Secret does not exist.
    NotFound,
    /// These keys are missing or empty.
    KeysMissing(Vec<String>),
    /// A Secret of a client in `clients.static`, or its key, does not exist. Pods wait for it.
    ClientSecretMissing(SecretKeyReference),
    /// The `ConfigMap` of `identityProvider.caRef`, or its key, does not exist. Pods wait for it.
    CaMissing(ConfigMapKeyReference),
    /// With a 1Password item: a Secret with the item's name exists that was not created from an item. The 1Password operator
    /// would overwrite it.
    Foreign,
}

/// Reads the Secrets and the `ConfigMap` that the resource refers to. It only uses `get`, so that the operator needs neither
/// `list` nor `watch` on Secrets.
pub(super) async fn fetch(client: &Client, proxy: &ValidatedProxy) -> Result<CredentialsState, Error> {
    let name = proxy.credentials_secret();
    let api: Api<Secret> = Api::namespaced(client.clone(), &proxy.namespace);
    let get = async |name: &str| api.get_opt(name).await.map_err(Error::kube(format!("read Secret {name}")));
    let found = evaluate(proxy, get(name).await?.as_ref());
    if found != CredentialsState::Complete {
        return Ok(found);
    }
    for reference in proxy.client_secrets() {
        if !get(&reference.name).await?.is_some_and(|secret| has(&secret, &reference.key)) {
            return Ok(CredentialsState::ClientSecretMissing(reference.clone()));
        }
    }
    if let Some(reference) = &proxy.config.identity_provider.ca_ref {
        let api: Api<ConfigMap> = Api::namespaced(client.clone(), &proxy.namespace);
        let name = &reference.name;
        let map = api.get_opt(name).await.map_err(Error::kube(format!("read ConfigMap {name}")))?;
        if !map.and_then(|map| map.data).is_some_and(|data| data.contains_key(reference.key.as_str())) {
            return Ok(CredentialsState::CaMissing(reference.clone()));
        }
    }
    Ok(found)
}

fn has(secret: &Secret, key: &str) -> bool {
    secret.data.as_ref().and_then(|data| data.get(key)).is_some_and(|value| !value.0.is_empty())
}

fn evaluate(proxy: &ValidatedProxy, secret: Option<&Secret>) -> CredentialsState {
    let Some(secret) = secret else {
        return CredentialsState::NotFound;
    };
    if matches!(proxy.credentials, CredentialsSource::OnePassword { .. }) && !is_made_from_item(secret, &proxy.name) {
        return CredentialsState::Foreign;
    }
    let missing = proxy.credential_keys().into_iter().filter(|key| !has(secret, key));
    let missing: Vec<String> = missing.map(str::to_owned).collect();
    if missing.is_empty() { CredentialsState::Complete } else { CredentialsState::KeysMissing(missing) }
}

fn is_made_from_item(secret: &Secret, item: &str) -> bool {
    secret.metadata.owner_references.iter().flatten().any(|owner| {
        owner.kind == "OnePasswordItem" && owner.api_version.starts_with("onepassword.com/") && owner.name == item
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::validate::tests::validated;
    use super::*;

    fn secret(metadata: &Value, keys: &[&str]) -> Secret {
        let data: serde_json::Map<_, _> = keys.iter().map(|key| ((*key).to_owned(), json!("eA=="))).collect();
        serde_json::from_value(json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data}))
            .unwrap()
    }

    const ALL: [&str; 3] = ["OAUTH_CLIENT_ID", "OAUTH_CLIENT_SECRET", "ENCRYPTION_KEY"];

    #[test]
    fn missing_credential_key_is_named() {
        let proxy = validated(&json!({}));
        assert_eq!(evaluate(&proxy, None), CredentialsState::NotFound);
        assert_eq!(evaluate(&proxy, Some(&secret(&json!({}), &ALL))), CredentialsState::Complete);
        assert_eq!(
            evaluate(&proxy, Some(&secret(&json!({}), &["OAUTH_CLIENT_ID", "ENCRYPTION_KEY"]))),
            CredentialsState::KeysMissing(vec!["OAUTH_CLIENT_SECRET".to_owned()])
        );
    }

    #[test]
    fn empty_credential_value_counts_as_missing() {
        let mut secret = secret(&json!({}), &ALL);
        secret.data.as_mut().unwrap().get_mut("ENCRYPTION_KEY").unwrap().0.clear();
        assert_eq!(
            evaluate(&validated(&json!({})), Some(&secret)),
            CredentialsState::KeysMissing(vec!["ENCRYPTION_KEY".to_owned()])
        );
    }

    #[test]
    fn credential_keys_can_be_renamed() {
        let proxy = validated(&json!({"credentials": {"secretRef": {"name": "login"},
            "keys": {"clientID": "id", "clientSecret": "secret", "encryptionKey": "key"}}}));
        assert_eq!(evaluate(&proxy, Some(&secret(&json!({}), &["id", "secret", "key"]))), CredentialsState::Complete);
    }

    #[test]
    fn secret_not_created_by_an_item_is_foreign() {
        let proxy = validated(&json!({"credentials": {"onePassword": {"itemPath": "vaults/v/items/i"}}}));
        assert_eq!(evaluate(&proxy, Some(&secret(&json!({}), &ALL))), CredentialsState::Foreign);
        let owner = |name: &str| json!({"ownerReferences": [{"apiVersion": "onepassword.com/v1", "kind": "OnePasswordItem", "name": name, "uid": "u"}]});
        assert_eq!(evaluate(&proxy, Some(&secret(&owner("another"), &ALL))), CredentialsState::Foreign);
        assert_eq!(evaluate(&proxy, Some(&secret(&owner("mcp"), &ALL))), CredentialsState::Complete);
    }
}
