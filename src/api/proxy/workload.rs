use std::{collections::BTreeMap, fmt, marker::PhantomData};

use k8s_openapi::api::core::v1::{
    Affinity, LocalObjectReference, ResourceRequirements, Toleration, TopologySpreadConstraint,
};
use kube::{KubeSchema, core::Rule};
use schemars::JsonSchema;
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{
        DeserializeOwned, Error, MapAccess, SeqAccess, Visitor,
        value::{MapAccessDeserializer, SeqAccessDeserializer},
    },
};
use serde_json::Value;

/// Additions to the pods. What makes them safe (user, capabilities, read-only root) is not for changing.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Pod {
    /// Requests and limits of the container. By default requests of 10m and 32Mi and a limit of 128Mi.
    #[serde(default, deserialize_with = "kubernetes", skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,

    /// Further labels. Those that the operator sets cannot be changed.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "label_map")]
    #[x_kube(validation = names("a label's name must be NAME or example.com/NAME, made of letters, digits and -._"))]
    pub labels: BTreeMap<String, String>,

    /// Further annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "annotation_map")]
    #[x_kube(validation = names("an annotation's name must be NAME or example.com/NAME, made of letters, digits and -._"))]
    pub annotations: BTreeMap<String, String>,

    /// Labels of the nodes that the pods may run on.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "label_map")]
    #[x_kube(validation = names("a label's name must be NAME or example.com/NAME, made of letters, digits and -._"))]
    pub node_selector: BTreeMap<String, String>,

    /// Taints that the pods tolerate.
    #[serde(default, deserialize_with = "kubernetes", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub tolerations: Vec<Toleration>,

    /// Where the pods prefer to run.
    #[serde(default, deserialize_with = "kubernetes", skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,

    /// How the pods spread over nodes and zones. Without a labelSelector a constraint counts the pods of this proxy.
    #[serde(default, deserialize_with = "kubernetes", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub topology_spread_constraints: Vec<TopologySpreadConstraint>,

    /// Secrets that the image is pulled with.
    #[serde(default, deserialize_with = "kubernetes", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub image_pull_secrets: Vec<LocalObjectReference>,

    /// The pods' priority class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub priority_class_name: Option<String>,
}

/// The Service in front of the pods.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Service {
    /// The kind of Service.
    #[serde(default, rename = "type")]
    pub kind: ServiceType,

    /// The port it listens on.
    #[serde(default = "default_port")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: i32,

    /// Further annotations, for load balancers.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "annotation_map")]
    #[x_kube(validation = names("an annotation's name must be NAME or example.com/NAME, made of letters, digits and -._"))]
    pub annotations: BTreeMap<String, String>,
}

impl Default for Service {
    fn default() -> Self {
        Self { kind: ServiceType::ClusterIP, port: default_port(), annotations: BTreeMap::new() }
    }
}

/// How the Service can be reached.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum ServiceType {
    /// From inside the cluster.
    #[default]
    ClusterIP,
    /// At a port of every node.
    NodePort,
    /// Through the cloud's load balancer.
    LoadBalancer,
}

/// A type of Kubernetes' own, by way of a value: so it is compiled once, and not for each format that a resource comes in. Those
/// five have more fields than all else that is in a resource.
fn kubernetes<'de, D: Deserializer<'de>, T: DeserializeOwned>(deserializer: D) -> Result<T, D::Error> {
    deserializer.deserialize_any(Kubernetes(PhantomData))
}

/// Reads while it visits, so that the format knows of which field an error is, and on which line.
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

/// The names of labels and annotations.
fn names(message: &str) -> Rule {
    Rule::new("self.all(key, size(key) <= 317 && key.matches('^([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$'))")
        .message(message)
}

/// Labels as the API server takes them, so that it refuses a wrong one here and not in the Deployment.
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

const fn default_port() -> i32 {
    8080
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubernetes_own_types_are_read_as_kubernetes_reads_them() {
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
    fn what_is_wrong_with_one_is_told_with_its_line() {
        let text = "priorityClassName: high\naffinity: null\ntolerations:\n- tolerationSeconds: soon\n";
        let error = serde_yaml::from_str::<Pod>(text).unwrap_err().to_string();
        assert_eq!(error, "tolerations: invalid type: string \"soon\", expected i64 at line 4 column 1");
        let error = serde_yaml::from_str::<Pod>("affinity: near").unwrap_err().to_string();
        assert!(error.starts_with("affinity: invalid type: string \"near\", expected an object"), "{error}");
    }
}
