use k8s_openapi::{
    api::core::v1::{Service, ServicePort, ServiceSpec},
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::{metadata, selector};
use crate::{api::proxy::ServiceType, operator::validate::ValidatedProxy};

/// The Service that tunnels and gateways route to.
pub(super) fn build(proxy: &ValidatedProxy) -> Service {
    let mut metadata = metadata(proxy, &proxy.name);
    metadata.annotations = Some(proxy.service.annotations.clone()).filter(|annotations| !annotations.is_empty());
    let kind = match proxy.service.kind {
        ServiceType::ClusterIP => "ClusterIP",
        ServiceType::NodePort => "NodePort",
        ServiceType::LoadBalancer => "LoadBalancer",
    };
    Service {
        metadata,
        spec: Some(ServiceSpec {
            type_: Some(kind.to_owned()),
            selector: Some(selector(&proxy.name)),
            ports: Some(vec![ServicePort {
                name: Some("http".to_owned()),
                port: proxy.service.port.get().cast_signed(),
                // Part of the list's merge key: without it, applying a changed port fails (kubernetes/kubernetes#103544).
                protocol: Some("TCP".to_owned()),
                target_port: Some(IntOrString::String("http".to_owned())),
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::without_key_secret as build_all;
    use super::*;
    use crate::operator::validate::tests::validated;

    #[test]
    fn service_fields_are_applied_and_unset_fields_are_absent() {
        let set =
            build(&validated(&json!({"service": {"type": "LoadBalancer", "port": 80, "annotations": {"a": "b"}}})));
        let spec = set.spec.unwrap();
        assert_eq!((spec.type_.as_deref(), spec.ports.unwrap()[0].port), (Some("LoadBalancer"), 80));
        assert_eq!(set.metadata.annotations.unwrap()["a"], "b");

        let unset = build(&validated(&json!({})));
        assert_eq!(unset.metadata.annotations, None);
        let spec = unset.spec.unwrap();
        assert_eq!((spec.type_.as_deref(), spec.ports.unwrap()[0].port), (Some("ClusterIP"), 8080));
    }

    #[test]
    fn service_selects_the_deployments_pods() {
        let children = build_all(&validated(&json!({"pod": {"labels": {"app.kubernetes.io/name": "other"}}}))).unwrap();
        let pods = children.deployment.spec.unwrap().template.metadata.unwrap().labels.unwrap();
        for (key, value) in children.service.spec.unwrap().selector.unwrap() {
            assert_eq!(pods.get(&key), Some(&value));
        }
    }
}
