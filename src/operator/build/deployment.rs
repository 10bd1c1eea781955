use std::{collections::BTreeMap, time::Duration};

use aws_lc_rs::digest::{SHA256, digest};
use k8s_openapi::{
    api::{
        apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment},
        core::v1::{
            Capabilities, ConfigMapProjection, Container, ContainerPort, HTTPGetAction, KeyToPath, PodSecurityContext,
            PodSpec, PodTemplateSpec, Probe, ProjectedVolumeSource, ResourceRequirements, SeccompProfile,
            SecretProjection, SecurityContext, TopologySpreadConstraint, Volume, VolumeMount, VolumeProjection,
        },
    },
    apimachinery::pkg::{
        api::resource::Quantity,
        apis::meta::v1::{LabelSelector, ObjectMeta},
        util::intstr::IntOrString,
    },
};

use super::{labels, metadata, selector};
use crate::{
    api::proxy::{ConfigMapKeyReference, SecretKeyReference},
    config::UNREADY_BEFORE_DRAIN,
    operator::{mounts, validate::ValidatedProxy},
};

/// Changes with the configuration and thereby starts a rollout. It does not cover Secrets, because the pods reload them.
const CONFIG_HASH: &str = "mcp.jomcgi.dev/config-hash";

/// The user and group in the image.
const UID: i64 = 65532;

/// Time to terminate after the drain timeout.
const TERMINATION_MARGIN: Duration = Duration::from_secs(10);

/// Readable by root, which owns the files, and by the pods' group.
const FILE_MODE: i32 = 0o440;

pub(super) fn build(proxy: &ValidatedProxy, config: &str) -> Deployment {
    Deployment {
        metadata: metadata(proxy, &proxy.name),
        spec: Some(DeploymentSpec {
            replicas: Some(proxy.replicas),
            revision_history_limit: Some(3),
            selector: LabelSelector { match_labels: Some(selector(&proxy.name)), ..LabelSelector::default() },
            strategy: Some(DeploymentStrategy {
                type_: Some("RollingUpdate".to_owned()),
                // A pod terminates only after its replacement is ready.
                rolling_update: Some(RollingUpdateDeployment {
                    max_surge: Some(IntOrString::Int(1)),
                    max_unavailable: Some(IntOrString::Int(0)),
                }),
            }),
            template: PodTemplateSpec { metadata: Some(pod_metadata(proxy, config)), spec: Some(pod(proxy)) },
            ..DeploymentSpec::default()
        }),
        ..Deployment::default()
    }
}

fn pod_metadata(proxy: &ValidatedProxy, config: &str) -> ObjectMeta {
    let mut annotations = proxy.pod.annotations.clone();
    annotations.insert(CONFIG_HASH.to_owned(), fingerprint(config));
    let mut all = proxy.pod.labels.clone();
    all.extend(labels(&proxy.name));
    ObjectMeta { labels: Some(all), annotations: Some(annotations), ..ObjectMeta::default() }
}

fn fingerprint(config: &str) -> String {
    digest(&SHA256, config.as_bytes()).as_ref()[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}

fn pod(proxy: &ValidatedProxy) -> PodSpec {
    // Unset fields must be absent: server-side apply would take ownership of empty values.
    let additions = proxy.pod.clone();
    PodSpec {
        service_account_name: Some(proxy.name.clone()),
        automount_service_account_token: Some(true),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(UID),
            run_as_group: Some(UID),
            fs_group: Some(UID),
            seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), localhost_profile: None }),
            ..PodSecurityContext::default()
        }),
        termination_grace_period_seconds: Some(termination_grace_seconds(proxy)),
        containers: vec![container(proxy)],
        volumes: Some(vec![files(proxy)]),
        node_selector: Some(additions.node_selector).filter(|selector| !selector.is_empty()),
        tolerations: Some(additions.tolerations).filter(|tolerations| !tolerations.is_empty()),
        affinity: additions.affinity,
        topology_spread_constraints: Some(topology_spread(proxy)).filter(|constraints| !constraints.is_empty()),
        image_pull_secrets: Some(additions.image_pull_secrets).filter(|secrets| !secrets.is_empty()),
        priority_class_name: additions.priority_class_name,
        ..PodSpec::default()
    }
}

fn termination_grace_seconds(proxy: &ValidatedProxy) -> i64 {
    let drain = proxy.config.upstream.timeouts.drain.get();
    i64::try_from((UNREADY_BEFORE_DRAIN + drain + TERMINATION_MARGIN).as_secs()).unwrap_or(i64::MAX)
}

/// Adds the pod selector to constraints without one: they would match no pods and have no effect.
fn topology_spread(proxy: &ValidatedProxy) -> Vec<TopologySpreadConstraint> {
    let ours = LabelSelector { match_labels: Some(selector(&proxy.name)), ..LabelSelector::default() };
    let constraints = proxy.pod.topology_spread_constraints.iter().cloned();
    constraints
        .map(|constraint| TopologySpreadConstraint {
            label_selector: constraint.label_selector.or_else(|| Some(ours.clone())),
            ..constraint
        })
        .collect()
}

fn container(proxy: &ValidatedProxy) -> Container {
    let port = |name: &str, port: u16| ContainerPort {
        name: Some(name.to_owned()),
        container_port: port.into(),
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    };
    Container {
        name: "proxy".to_owned(),
        image: Some(proxy.image.clone()),
        args: Some(
            ["proxy", "--log-format=json", "--config", &mounts::path(mounts::CONFIG_FILE)].map(str::to_owned).to_vec(),
        ),
        ports: Some(vec![port("http", mounts::PORT), port("health", mounts::HEALTH_PORT)]),
        readiness_probe: Some(probe("/readyz", 5)),
        liveness_probe: Some(probe("/healthz", 10)),
        resources: Some(proxy.pod.resources.clone().unwrap_or_else(resources)),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), add: None }),
            ..SecurityContext::default()
        }),
        volume_mounts: Some(vec![VolumeMount {
            name: "files".to_owned(),
            mount_path: mounts::FOLDER.to_owned(),
            read_only: Some(true),
            ..VolumeMount::default()
        }]),
        ..Container::default()
    }
}

fn probe(path: &str, period: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String("health".to_owned()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period),
        timeout_seconds: Some(2),
        ..Probe::default()
    }
}

fn resources() -> ResourceRequirements {
    let quantities = |pairs: &[(&str, &str)]| -> BTreeMap<String, Quantity> {
        pairs.iter().map(|(name, amount)| ((*name).to_owned(), Quantity((*amount).to_owned()))).collect()
    };
    ResourceRequirements {
        requests: Some(quantities(&[("cpu", "10m"), ("memory", "32Mi")])),
        // No CPU limit: it would throttle the proxy and protect no other pod better than the CPU requests do.
        limits: Some(quantities(&[("memory", "128Mi")])),
        claims: None,
    }
}

/// One projected volume for all files: they change atomically, and there are no nested mounts. Only the previous encryption
/// key is optional. The kubelet waits for every other missing source and starts the pod when it appears.
fn files(proxy: &ValidatedProxy) -> Volume {
    let item = |key: &str, folder: &str| KeyToPath {
        key: key.to_owned(),
        path: if folder.is_empty() { key.to_owned() } else { format!("{folder}/{key}") },
        mode: None,
    };
    let secret = |name: &str, items: Vec<KeyToPath>, optional: Option<bool>| VolumeProjection {
        secret: Some(SecretProjection { name: name.to_owned(), items: Some(items), optional }),
        ..VolumeProjection::default()
    };
    // Only named keys: other fields of a 1Password item (notes, a password) must not reach the pods.
    let credentials = proxy.credential_keys().into_iter().map(|key| item(key, mounts::CREDENTIALS)).collect();
    let config_map = |name: &str, items: Vec<KeyToPath>| VolumeProjection {
        config_map: Some(ConfigMapProjection { name: name.to_owned(), items: Some(items), optional: None }),
        ..VolumeProjection::default()
    };
    let signing_keys = vec![item(mounts::SIGNING_KEYS_FILE, mounts::SIGNING_KEYS)];
    let mut sources = vec![
        config_map(&proxy.name, vec![item(mounts::CONFIG_FILE, "")]),
        secret(proxy.credentials_secret(), credentials, None),
        secret(&proxy.signing_keys_secret(), signing_keys, None),
    ];
    if let Some(key) = proxy.optional_credential_key() {
        sources.push(secret(proxy.credentials_secret(), vec![item(key, mounts::CREDENTIALS)], Some(true)));
    }
    for SecretKeyReference { name, key } in proxy.client_secrets() {
        // The proxy reads it at this path: ProxyConfig::secret_file.
        let items = vec![item(key, &format!("{}/secrets/{name}", mounts::REFERENCES))];
        sources.push(secret(name, items, None));
    }
    if let Some(ConfigMapKeyReference { name, key }) = &proxy.config.identity_provider.ca_ref {
        let items = vec![item(key, &format!("{}/configmaps/{name}", mounts::REFERENCES))];
        sources.push(config_map(name, items));
    }
    Volume {
        name: "files".to_owned(),
        projected: Some(ProjectedVolumeSource { default_mode: Some(FILE_MODE), sources: Some(sources) }),
        ..Volume::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::without_key_secret as build_all;
    use super::*;
    use crate::operator::validate::tests::validated;

    fn deployment(spec: &Value) -> Value {
        serde_json::to_value(build_all(&validated(spec)).unwrap().deployment).unwrap()
    }

    fn hash(deployment: &Value) -> &str {
        deployment["spec"]["template"]["metadata"]["annotations"][CONFIG_HASH].as_str().unwrap()
    }

    #[test]
    fn termination_grace_period_covers_draining() {
        let grace = |spec| deployment(&spec)["spec"]["template"]["spec"]["terminationGracePeriodSeconds"].clone();
        assert_eq!(grace(json!({})), 40);
        assert_eq!(grace(json!({"upstream": {"url": "http://g", "timeouts": {"drain": "10m"}}})), 615);
    }

    #[test]
    fn pod_security_context_is_restricted() {
        let deployment = deployment(&json!({}));
        let pod = &deployment["spec"]["template"]["spec"];
        assert_eq!(
            pod["securityContext"],
            json!({"runAsNonRoot": true, "runAsUser": 65532, "runAsGroup": 65532, "fsGroup": 65532,
                "seccompProfile": {"type": "RuntimeDefault"}})
        );
        assert_eq!(
            pod["containers"][0]["securityContext"],
            json!({"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}})
        );
    }

    #[test]
    fn configuration_change_replaces_pods_and_scale_change_does_not() {
        let before = deployment(&json!({}));
        let changed = deployment(&json!({"tokens": {"accessTTL": "5m"}}));
        let scaled = deployment(&json!({"replicas": 5}));
        assert_ne!(hash(&before), hash(&changed));
        assert_eq!(before["spec"]["template"], scaled["spec"]["template"]);
        assert_eq!(scaled["spec"]["replicas"], 5);
    }

    #[test]
    fn only_named_secret_keys_are_mounted() {
        let deployment =
            deployment(&json!({"credentials": {"secretRef": {"name": "login"}, "keys": {"clientID": "id"}}}));
        let sources = &deployment["spec"]["template"]["spec"]["volumes"][0]["projected"]["sources"];
        let keys: Vec<_> =
            sources[1]["secret"]["items"].as_array().unwrap().iter().map(|item| item["path"].clone()).collect();
        assert_eq!(keys, ["credentials/id", "credentials/OAUTH_CLIENT_SECRET", "credentials/ENCRYPTION_KEY"]);
        // Only the previous encryption key may be missing.
        let optional: Vec<_> = sources.as_array().unwrap().iter().filter(|s| s["secret"]["optional"] == true).collect();
        assert_eq!(optional.len(), 1);
        assert_eq!(optional[0]["secret"]["items"][0]["path"], "credentials/PREVIOUS_ENCRYPTION_KEY");
    }

    #[test]
    fn static_client_secret_is_mounted_at_the_configured_path() {
        let reference = json!({"name": "chat", "key": "secret"});
        let listed = json!({"clientID": "chat", "secretRef": reference, "redirectURIs": ["https://chat.example/cb"]});
        let proxy = validated(&json!({"clients": {"static": [listed]}}));
        let sources = serde_json::to_value(build_all(&proxy).unwrap().deployment).unwrap();
        let sources = &sources["spec"]["template"]["spec"]["volumes"][0]["projected"]["sources"];
        let last = &sources.as_array().unwrap().last().unwrap()["secret"];
        assert_eq!(last["name"], "chat");
        let mounted = mounts::path(last["items"][0]["path"].as_str().unwrap());
        let expected = proxy.config.secret_file(proxy.client_secrets()[0]);
        assert_eq!(Some(std::path::PathBuf::from(mounted)), expected);
    }

    #[test]
    fn issuer_ca_is_mounted_at_the_configured_path() {
        let provider =
            json!({"issuerURL": "https://login.corp.example", "caRef": {"name": "corp-ca", "key": "ca.crt"}});
        let proxy = validated(&json!({"identityProvider": provider}));
        let sources = serde_json::to_value(build_all(&proxy).unwrap().deployment).unwrap();
        let sources = &sources["spec"]["template"]["spec"]["volumes"][0]["projected"]["sources"];
        let last = &sources.as_array().unwrap().last().unwrap()["configMap"];
        assert_eq!(last["name"], "corp-ca");
        let mounted = mounts::path(last["items"][0]["path"].as_str().unwrap());
        assert_eq!(proxy.config.ca_file(), Some(std::path::PathBuf::from(mounted)));
    }

    #[test]
    fn shared_key_is_mounted_once() {
        let deployment = deployment(
            &json!({"credentials": {"secretRef": {"name": "login"}, "keys": {"clientID": "id", "clientSecret": "id"}}}),
        );
        let sources = &deployment["spec"]["template"]["spec"]["volumes"][0]["projected"]["sources"];
        assert_eq!(sources[1]["secret"]["items"].as_array().unwrap().len(), 2);
    }

    /// Each field of `pod`, a value, and the JSON pointer where the value must be in the Deployment.
    fn pod_fields() -> Vec<(&'static str, Value, &'static str)> {
        let affinity = json!({"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 1, "podAffinityTerm": {"topologyKey": "kubernetes.io/hostname"}}]}});
        let spread = json!([{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": {"app": "x"}}}]);
        vec![
            ("resources", json!({"limits": {"memory": "1Gi"}}), "/spec/template/spec/containers/0/resources"),
            ("nodeSelector", json!({"disk": "ssd"}), "/spec/template/spec/nodeSelector"),
            ("tolerations", json!([{"key": "a", "operator": "Exists"}]), "/spec/template/spec/tolerations"),
            ("affinity", affinity, "/spec/template/spec/affinity"),
            ("topologySpreadConstraints", spread, "/spec/template/spec/topologySpreadConstraints"),
            ("imagePullSecrets", json!([{"name": "pull"}]), "/spec/template/spec/imagePullSecrets"),
            ("priorityClassName", json!("high"), "/spec/template/spec/priorityClassName"),
            ("labels", json!({"team": "a"}), "/spec/template/metadata/labels"),
            ("annotations", json!({"linkerd.io/inject": "enabled"}), "/spec/template/metadata/annotations"),
        ]
    }

    #[test]
    fn every_pod_field_is_applied_and_unset_fields_are_absent() {
        let unset = deployment(&json!({}));
        for (field, value, pointer) in pod_fields() {
            let set = deployment(&json!({"pod": {field: value}}));
            let applied = set.pointer(pointer).unwrap();
            match field {
                // The operator adds its own entries.
                "labels" | "annotations" => {
                    for (key, value) in value.as_object().unwrap() {
                        assert_eq!(&applied[key], value, "{field}");
                    }
                }
                _ => assert_eq!(applied, &value, "{field}"),
            }
            assert_eq!(deployment(&json!({"pod": {}})), unset, "{field}");
            if !matches!(field, "labels" | "annotations" | "resources") {
                assert_eq!(unset.pointer(pointer), None, "unset field {field} is applied");
            }
        }
    }

    #[test]
    fn every_pod_field_has_a_test() {
        let schema = serde_json::to_value(schemars::schema_for!(crate::api::proxy::Pod)).unwrap();
        let mut fields: Vec<&String> = schema["properties"].as_object().unwrap().keys().collect();
        fields.sort();
        let mut tested: Vec<&str> = pod_fields().into_iter().map(|(field, ..)| field).collect();
        tested.sort_unstable();
        assert_eq!(fields, tested);
    }

    #[test]
    fn topology_spread_selects_own_pods_by_default() {
        let deployment = deployment(&json!({"pod": {"topologySpreadConstraints": [
            {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}]}}));
        let spec = &deployment["spec"]["template"]["spec"]["topologySpreadConstraints"][0];
        assert_eq!(spec["labelSelector"], deployment["spec"]["selector"]);
    }

    #[test]
    fn pod_labels_and_annotations_cannot_override_ours() {
        let plain = deployment(&json!({}));
        let deployment = deployment(&json!({"pod": {
            "labels": {"app.kubernetes.io/name": "other"},
            "annotations": {CONFIG_HASH: "fixed"},
        }}));
        let metadata = &deployment["spec"]["template"]["metadata"];
        assert_eq!(metadata["labels"]["app.kubernetes.io/name"], "mcp");
        assert_eq!(hash(&deployment), hash(&plain));
    }
}
