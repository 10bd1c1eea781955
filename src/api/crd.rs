use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::{Map, Value};

use super::{McpOAuthProxy, McpOAuthSession};

/// A custom resource definition of this project, ready to be written to a file.
#[derive(Clone, Debug)]
pub struct CustomResource {
    /// `<plural>.<group>`, also the file name in `crds/`.
    pub name: String,
    /// The definition in the form in which an API server stores it.
    pub definition: Value,
}

/// The pattern that controller-gen generates for `resource.Quantity`.
const QUANTITY: &str = r"^(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))))?$";

/// The custom resource definitions of this version, in the order to apply them.
///
/// # Errors
/// A definition cannot be serialized to JSON; no input can cause this.
pub fn crds() -> Result<Vec<CustomResource>, serde_json::Error> {
    [McpOAuthProxy::crd(), McpOAuthSession::crd()].into_iter().map(render).collect()
}

fn render(crd: CustomResourceDefinition) -> Result<CustomResource, serde_json::Error> {
    let name = crd.metadata.name.clone().unwrap_or_default();
    let mut definition = serde_json::to_value(crd)?;
    normalise(&mut definition);
    // As in the Gateway API: a resource that no operator has reconciled yet is not Ready.
    if let Some(status) = definition.pointer_mut("/spec/versions/0/schema/openAPIV3Schema/properties/status") {
        status["default"] = serde_json::json!({"conditions": [{
            "type": "Ready",
            "status": "Unknown",
            "reason": "Pending",
            "message": "waiting for the operator",
            "lastTransitionTime": "1970-01-01T00:00:00Z",
        }]});
    }
    Ok(CustomResource { name, definition })
}

/// Normalises the schema to the form in which an API server stores it, so that `GitOps` tools report no difference:
/// bounds are integers (schemars writes `0.0`), and optional fields are not `nullable`.
fn normalise(value: &mut Value) {
    match value {
        Value::Object(object) => {
            object.remove("nullable");
            // The API server does not know the formats of Rust's integer types and warns about them.
            if object.get("format").and_then(Value::as_str).is_some_and(|format| format.starts_with("uint")) {
                object.remove("format");
            }
            // Without the pattern, an invalid quantity would be rejected only in the Deployment, with status 500.
            let is_quantity = object
                .get("description")
                .and_then(Value::as_str)
                .is_some_and(|description| description.starts_with("Quantity is a fixed-point"));
            if is_quantity && object.contains_key("x-kubernetes-int-or-string") {
                object.insert("description".to_owned(), "Kubernetes quantity, such as 100m or 128Mi.".into());
                object.insert("pattern".to_owned(), QUANTITY.into());
                object.insert("anyOf".to_owned(), serde_json::json!([{"type": "integer"}, {"type": "string"}]));
            }
            // Claims refer to the pod's resourceClaims, which this CRD does not expose.
            if let Some(properties) = object.get_mut("properties").and_then(Value::as_object_mut)
                && properties.contains_key("limits")
                && properties.contains_key("requests")
            {
                properties.remove("claims");
            }
            if is_condition(object) {
                check_condition(object);
            }
            for bound in ["minimum", "maximum"] {
                if let Some(number) = object.get_mut(bound)
                    && let Some(float) = number.as_f64()
                    && float.fract() == 0.0
                {
                    #[expect(clippy::cast_possible_truncation, reason = "bounds are small whole numbers")]
                    let whole = float as i64;
                    *number = whole.into();
                }
            }
            object.values_mut().for_each(normalise);
        }
        Value::Array(items) => items.iter_mut().for_each(normalise),
        _ => {}
    }
}

fn is_condition(schema: &Map<String, Value>) -> bool {
    let has = |name| schema.get("properties").is_some_and(|properties| properties.get(name).is_some());
    ["lastTransitionTime", "reason", "status", "type"].into_iter().all(has)
}

/// Adds the validation that kubebuilder generates for `metav1.Condition`.
fn check_condition(schema: &mut Map<String, Value>) {
    let checks = [
        (
            "type",
            serde_json::json!({"maxLength": 316, "pattern": "^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])$"}),
        ),
        ("status", serde_json::json!({"enum": ["True", "False", "Unknown"]})),
        (
            "reason",
            serde_json::json!({"minLength": 1, "maxLength": 1024, "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"}),
        ),
        ("message", serde_json::json!({"maxLength": 32768})),
        ("observedGeneration", serde_json::json!({"minimum": 0})),
    ];
    for (field, check) in checks {
        if let (Some(field), Value::Object(check)) = (schema["properties"][field].as_object_mut(), check) {
            field.extend(check);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schemas() -> Vec<(String, Value)> {
        crds()
            .unwrap()
            .into_iter()
            .map(|crd| (crd.name, crd.definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()))
            .collect()
    }

    fn visit(path: &str, schema: &Value, check: &mut impl FnMut(&str, &Value)) {
        check(path, schema);
        if let Some(properties) = schema["properties"].as_object() {
            for (name, property) in properties {
                visit(&format!("{path}.{name}"), property, check);
            }
        }
        if schema["items"].is_object() {
            visit(&format!("{path}[]"), &schema["items"], check);
        }
    }

    /// Whether the field belongs to a Kubernetes type, whose bounds Kubernetes defines.
    fn is_kubernetes_type(path: &str) -> bool {
        let types = ["resources.", "tolerations[]", "affinity.", "topologySpreadConstraints[]", "imagePullSecrets[]"];
        path.split_once(".spec.pod.").is_some_and(|(_, field)| types.iter().any(|own| field.starts_with(own)))
    }

    #[test]
    fn every_field_has_a_description() {
        for (name, schema) in schemas() {
            visit(&name, &schema, &mut |path, schema| {
                let is_field = path.contains('.') && path != name && !path.ends_with(']') && !is_kubernetes_type(path);
                assert!(!is_field || schema["description"].is_string(), "{path} has no description");
            });
        }
    }

    #[test]
    fn every_string_and_list_is_bounded() {
        for (name, schema) in schemas() {
            visit(&name, &schema, &mut |path, schema| {
                let is_ours = path.contains(".spec") || path.contains(".status");
                if !is_ours || is_kubernetes_type(path) || schema["format"] == "date-time" {
                    return;
                }
                let bounded = match schema["type"].as_str() {
                    Some("string") => schema["maxLength"].is_number() || schema["enum"].is_array(),
                    Some("array") => schema["maxItems"].is_number(),
                    _ => true,
                };
                assert!(bounded, "{path} has no bound: {schema}");
            });
        }
    }

    #[test]
    fn new_resource_defaults_to_ready_unknown() {
        let schemas = schemas();
        let status = |index: usize| &schemas[index].1["properties"]["status"];
        assert_eq!(status(0)["default"]["conditions"][0]["status"], "Unknown");
        assert!(status(1).is_null(), "sessions have no status");
    }

    #[test]
    fn quantities_have_a_pattern() {
        let schemas = schemas();
        let limits = &schemas[0].1["properties"]["spec"]["properties"]["pod"]["properties"]["resources"]["properties"]
            ["limits"]["additionalProperties"];
        assert_eq!(limits["pattern"], QUANTITY);
        assert!(limits["x-kubernetes-int-or-string"].as_bool().unwrap());
    }

    #[test]
    fn bounds_are_integers_and_no_field_is_nullable() {
        for (_, schema) in schemas() {
            let text = schema.to_string();
            assert!(!text.contains("nullable"));
            assert!(!text.contains(".0,") && !text.contains(".0}"), "{text}");
        }
    }
}
