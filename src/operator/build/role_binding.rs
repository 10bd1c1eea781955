use k8s_openapi::api::rbac::v1::{RoleBinding, RoleRef, Subject};

use super::metadata;
use crate::operator::validate::ValidatedProxy;

/// The role of the proxy pods, from the installation. The operator may bind no other role.
const CLUSTER_ROLE: &str = "mcp-oauth-proxy";

/// Allows the pods to store sessions in their namespace.
pub(super) fn build(proxy: &ValidatedProxy) -> RoleBinding {
    RoleBinding {
        metadata: metadata(proxy, &proxy.name),
        role_ref: RoleRef {
            api_group: "rbac.authorization.k8s.io".to_owned(),
            kind: "ClusterRole".to_owned(),
            name: CLUSTER_ROLE.to_owned(),
        },
        subjects: Some(vec![Subject {
            kind: "ServiceAccount".to_owned(),
            name: proxy.name.clone(),
            namespace: Some(proxy.namespace.clone()),
            api_group: None,
        }]),
    }
}
