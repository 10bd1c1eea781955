//! The objects that a validated resource becomes, one file a kind. Pure: nothing here asks or tells anybody.

mod config_map;
mod deployment;
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

use serde::Serialize;
use serde_json::Value;

pub(super) use labels::{MANAGED_BY, MANAGED_BY_US, label_selector, labels, selector};

use super::{error::Error, validate::ValidatedProxy};
use crate::api::OnePasswordItem;

/// All children, in the order in which they are applied: what pods need first, the pods last.
#[derive(Clone, Debug)]
pub(super) struct Children {
    pub(super) service_account: ServiceAccount,
    pub(super) role_binding: RoleBinding,
    pub(super) config_map: ConfigMap,
    pub(super) one_password_item: Option<OnePasswordItem>,
    pub(super) service: Service,
    pub(super) deployment: Deployment,
}

/// Makes all children. The key Secret is not among them: it is made once and never again (see `signing_keys`).
pub(super) fn build(proxy: &ValidatedProxy) -> Result<Children, Error> {
    let config = serde_yaml::to_string(&proxy.config).map_err(|error| Error::Serialize(error.into()))?;
    Ok(Children {
        service_account: service_account::build(proxy),
        role_binding: role_binding::build(proxy),
        one_password_item: one_password_item::build(proxy),
        service: service::build(proxy),
        deployment: deployment::build(proxy, &config),
        config_map: config_map::build(proxy, config),
    })
}

/// An object as the API server gets it.
pub(super) fn value(object: &impl Serialize) -> Result<Value, Error> {
    serde_json::to_value(object).map_err(|error| Error::Serialize(error.into()))
}

/// The metadata that all children have. Nothing of the resource's own labels and annotations is passed on: a tracking
/// label of a GitOps tool would make it prune them.
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
    fn every_child_is_owned_and_marked() {
        let proxy = validated(&json!({"credentials": {"onePassword": {"itemPath": "vaults/v/items/i"}}}));
        let Children { service_account, role_binding, config_map, one_password_item, service, deployment } =
            build(&proxy).unwrap();
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
    fn labels_and_annotations_of_the_resource_are_not_passed_on() {
        let mut object = resource(&json!({}));
        object.metadata.labels = Some([("app.kubernetes.io/instance".to_owned(), "argo-app".to_owned())].into());
        object.metadata.annotations =
            Some([("argocd.argoproj.io/tracking-id".to_owned(), "argo-app:x".to_owned())].into());
        let proxy = super::super::validate::validate(&object, &settings()).unwrap();
        let children = format!("{:?}", build(&proxy).unwrap());
        assert!(!children.contains("argo"), "{children}");
    }
}
