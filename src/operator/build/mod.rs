//! Builds the children of a validated resource, one file per kind. All functions are pure: no requests and no logs.

mod config_map;
mod deployment;
pub(super) mod key_secret;
mod labels;
mod one_password_item;
mod role_binding;
mod service;
mod service_account;

use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        core::v1::{ConfigMap, Service, ServiceAccount},
        rbac::v1::RoleBinding,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use jiff::Timestamp;
use kube::{Resource, ResourceExt, api::ApiResource};
use serde::Serialize;
use serde_json::Value;

pub(super) use labels::{MANAGED_BY, MANAGED_BY_US, label_selector, labels, selector};

pub(super) use key_secret::KeySecretChange;

use super::{error::Error, signing_keys::KeySecret, validate::ValidatedProxy};
use crate::api::OnePasswordItem;

/// All children in the order in which they are applied: the Deployment comes last, after everything that its pods need.
#[derive(Clone, Debug)]
pub(super) struct Children {
    /// `None`: the key Secret needs no change.
    pub(super) key_secret: Option<KeySecretChange>,
    pub(super) service_account: ServiceAccount,
    pub(super) role_binding: RoleBinding,
    pub(super) config_map: ConfigMap,
    pub(super) one_password_item: Option<OnePasswordItem>,
    pub(super) service: Service,
    pub(super) deployment: Deployment,
}

/// Builds all children. `keys` is the existing key Secret.
pub(super) fn build(proxy: &ValidatedProxy, keys: &KeySecret, now: Timestamp) -> Result<Children, Error> {
    let config = serde_yaml::to_string(&proxy.config).map_err(|error| Error::Serialize(error.into()))?;
    Ok(Children {
        key_secret: key_secret::build(proxy, keys, now)?,
        service_account: service_account::build(proxy),
        role_binding: role_binding::build(proxy),
        one_password_item: one_password_item::build(proxy),
        service: service::build(proxy),
        deployment: deployment::build(proxy, &config),
        config_map: config_map::build(proxy, config),
    })
}

impl Children {
    /// Kind and name of every applied child, for the check for name conflicts.
    fn names(&self) -> Vec<(ApiResource, String)> {
        fn of<K: Resource<DynamicType = ()>>(child: &K) -> (ApiResource, String) {
            (ApiResource::erase::<K>(&()), child.name_any())
        }
        // `signing_keys::fetch` checks the key Secret.
        let Self { key_secret: _, service_account, role_binding, config_map, one_password_item, service, deployment } =
            self;
        let mut names = vec![of(service_account), of(role_binding), of(config_map), of(service), of(deployment)];
        names.extend(one_password_item.as_ref().map(of));
        names
    }
}

/// Builds the children that depend only on the resource: all except the key Secret.
pub(super) fn without_key_secret(proxy: &ValidatedProxy) -> Result<Children, Error> {
    // For unreadable keys, `build` generates nothing.
    build(proxy, &KeySecret::Unreadable, Timestamp::UNIX_EPOCH)
}

/// Kind and name of every applied child.
pub(super) fn names(proxy: &ValidatedProxy) -> Result<Vec<(ApiResource, String)>, Error> {
    without_key_secret(proxy).map(|children| children.names())
}

/// Serializes an object for a request to the API server.
pub(super) fn value(object: &impl Serialize) -> Result<Value, Error> {
    serde_json::to_value(object).map_err(|error| Error::Serialize(error.into()))
}

/// The common metadata of all children. The resource's labels and annotations are not copied: a GitOps tool would prune
/// children that have its tracking label.
pub(super) fn metadata(proxy: &ValidatedProxy, name: impl Into<String>) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.into()),
        namespace: Some(proxy.namespace.clone()),
        labels: Some(labels(&proxy.name)),
        owner_references: Some(vec![proxy.owner.clone()]),
        ..ObjectMeta::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::validate::tests::{resource, settings, validated};
    use super::*;

    #[test]
    fn every_child_has_owner_and_labels() {
        let proxy = validated(&json!({"credentials": {"onePassword": {"itemPath": "vaults/v/items/i"}}}));
        let Children {
            key_secret: _,
            service_account,
            role_binding,
            config_map,
            one_password_item,
            service,
            deployment,
        } = without_key_secret(&proxy).unwrap();
        for metadata in [
            service_account.metadata,
            role_binding.metadata,
            config_map.metadata,
            one_password_item.unwrap().metadata,
            service.metadata,
            deployment.metadata,
        ] {
            assert_eq!(metadata.name.as_deref(), Some("mcp"));
            assert_eq!(metadata.namespace.as_deref(), Some("gateway"));
            assert_eq!(metadata.labels.unwrap()[MANAGED_BY], MANAGED_BY_US);
            let [owner] = &metadata.owner_references.unwrap()[..] else { panic!("one owner") };
            assert_eq!((owner.uid.as_str(), owner.controller), (proxy.uid.as_str(), Some(true)));
        }
    }

    #[test]
    fn resource_labels_and_annotations_are_not_copied_to_children() {
        let mut object = resource(&json!({}));
        object.metadata.labels = Some([("app.kubernetes.io/instance".to_owned(), "argo-app".to_owned())].into());
        object.metadata.annotations =
            Some([("argocd.argoproj.io/tracking-id".to_owned(), "argo-app:x".to_owned())].into());
        let proxy = super::super::validate::validate(&object, &settings()).unwrap();
        let children = format!("{:?}", without_key_secret(&proxy).unwrap());
        assert!(!children.contains("argo"), "{children}");
    }
}
