use std::{collections::BTreeMap, fmt, marker::PhantomData};

use k8s_openapi::api::core::v1::{
    Affinity, LocalObjectReference, ResourceRequirements, Toleration, TopologySpreadConstraint,
};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{
        DeserializeOwned, Error, MapAccess, SeqAccess, Visitor,
        value::{MapAccessDeserializer, SeqAccessDeserializer},
    },
};
use serde_json::Value;

use crate::api::{Bounded, rules};

/// Additional settings of the pods. The security context (user, capabilities, read-only root file system) is fixed.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Pod {
    /// Resource requests and limits of the container. Default: requests of 10m CPU and 32Mi memory, a limit of 128Mi memory.
    #[serde(default, deserialize_with = "kubernetes", skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,

    /// Additional labels. Labels that the operator sets cannot be overridden.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "label_map")]
    #[x_kube(validation = rules::QUALIFIED_NAME.keys_schema())]
    pub labels: BTreeMap<String, String>,

    /// Additional annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "annotation_map")]
    #[x_kube(validation = rules::QUALIFIED_NAME.keys_schema())]
    pub annotations: BTreeMap<String, String>,

    /// Node selector: labels of the nodes on which the pods may run.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "label_map")]
    #[x_kube(validation = rules::QUALIFIED_NAME.keys_schema())]
    pub node_selector: BTreeMap<String, String>,

    /// Tolerations of the pods.
    #[serde(default, deserialize_with = "kubernetes", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub tolerations: Vec<Toleration>,

    /// Affinity of the pods.
    #[serde(default, deserialize_with = "kubernetes", skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,

    /// Topology spread constraints of the pods. The default labelSelector of a constraint matches the pods of this proxy.
    #[serde(default, deserialize_with = "kubernetes", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub topology_spread_constraints: Vec<TopologySpreadConstraint>,

    /// Image pull secrets of the pods.
    #[serde(default, deserialize_with = "kubernetes", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub image_pull_secrets: Vec<LocalObjectReference>,

    /// Priority class of the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub priority_class_name: Option<String>,
}

/// Service in front of the pods.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Service {
    /// Type of the Service. Default: ClusterIP.
    #[serde(default, rename = "type")]
    pub kind: ServiceType,

    /// Port of the Service. Default: 8080.
    #[serde(default = "default_port")]
    pub port: Bounded<1, 65535>,

    /// Additional annotations, for example for load balancers.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "annotation_map")]
    #[x_kube(validation = rules::QUALIFIED_NAME.keys_schema())]
    pub annotations: BTreeMap<String, String>,
}

impl Default for Service {
    fn default() -> Self {
        Self { kind: ServiceType::ClusterIP, port: default_port(), annotations: BTreeMap::new() }
    }
}

/// Type of the Service.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum ServiceType {
    /// Reachable inside the cluster only.
    #[default]
    ClusterIP,
    /// Reachable at a port of every node.
    NodePort,
    /// Reachable through the cloud provider's load balancer.
    LoadBalancer,
}

/// Deserializes a Kubernetes type through `serde_json::Value`, so that its large deserializer is compiled once instead of
/// once per input format.
fn kubernetes<'de, D: Deserializer<'de>, T: DeserializeOwned>(deserializer: D) -> Result<T, D::Error> {
    deserializer.deserialize_any(Kubernetes(PhantomData))
}

/// Converts inside the visitor, so that the format's error names the field and the line.
struct Kubernetes<T>(PhantomData<T>);

impl<'de, T: DeserializeOwned> Visitor<'de> for Kubernetes<T> {
    type Value = T;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object or a list of them")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        read(Value::deserialize(MapAccessDeserializer::new(map))?)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<T, A::Error> {
        read(Value::deserialize(SeqAccessDeserializer::new(list))?)
    }

    fn visit_unit<E: Error>(self) -> Result<T, E> {
        read(Value::Null)
    }
}

fn read<T: DeserializeOwned, E: Error>(value: Value) -> Result<T, E> {
    serde_json::from_value(value).map_err(E::custom)
}

/// Labels with the API server's own limits: an invalid label is rejected here and not when the Deployment is applied.
fn label_map(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "object",
        "maxProperties": 64,
        "additionalProperties": {
            "type": "string",
            "maxLength": 63,
            "pattern": "^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$",
        },
    })
}

fn annotation_map(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "object",
        "maxProperties": 64,
        "additionalProperties": {"type": "string", "maxLength": 4096},
    })
}

const fn default_port() -> Bounded<1, 65535> {
    Bounded::of::<8080>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubernetes_types_deserialize_from_yaml_and_json() {
        let text = "
resources: {limits: {cpu: 1, memory: 64Mi}}
tolerations: [{key: spot, operator: Exists, tolerationSeconds: 30}]
affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: zone, operator: In, values: [a]}]}]}}}
topologySpreadConstraints: [{maxSkew: 1, topologyKey: zone, whenUnsatisfiable: DoNotSchedule}]
imagePullSecrets: [{name: registry}]
";
        let pod: Pod = serde_yaml::from_str(text).unwrap();
        assert_eq!(pod.resources.as_ref().unwrap().limits.as_ref().unwrap()["cpu"].0, "1");
        assert_eq!(pod.tolerations[0].toleration_seconds, Some(30));
        assert_eq!(pod.topology_spread_constraints[0].max_skew, 1);
        let json = serde_json::to_value(&pod).unwrap();
        assert_eq!(json["affinity"]["nodeAffinity"].as_object().unwrap().len(), 1);
        assert_eq!(serde_json::from_value::<Pod>(json).unwrap(), pod);
        assert_eq!(serde_yaml::from_str::<Pod>("priorityClassName: high").unwrap().affinity, None);
    }

    #[test]
    fn invalid_kubernetes_type_error_names_field_and_line() {
        let text = "priorityClassName: high\naffinity: null\ntolerations:\n- tolerationSeconds: soon\n";
        let error = serde_yaml::from_str::<Pod>(text).unwrap_err().to_string();
        assert_eq!(error, "tolerations: invalid type: string \"soon\", expected i64 at line 4 column 1");
        let error = serde_yaml::from_str::<Pod>("affinity: near").unwrap_err().to_string();
        assert!(error.starts_with("affinity: invalid type: string \"near\", expected an object"), "{error}");
    }
}
