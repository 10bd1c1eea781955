use std::borrow::Cow;

use k8s_openapi::{NamespaceResourceScope, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::Resource;
use serde::Deserialize;
use serde_json::Value;

use crate::api::{McpOAuthProxy, McpOAuthProxySpec};

/// An `McpOAuthProxy` whose spec is not parsed yet. The reconcile parses it, so that one resource that this version cannot
/// parse does not fail the watch of all others. kube's `DeserializeGuard` does the same for 0.4 MiB more code, because it
/// deserializes from another kind of value.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct RawProxy {
    metadata: ObjectMeta,
    #[serde(default)]
    spec: Value,
}

impl RawProxy {
    /// Parses the resource without its status: the operator writes the status and never acts on it.
    pub(super) fn parse(&self) -> Result<McpOAuthProxy, serde_json::Error> {
        let spec = McpOAuthProxySpec::deserialize(&self.spec)?;
        Ok(McpOAuthProxy { metadata: self.metadata.clone(), spec, status: None })
    }
}

impl Resource for RawProxy {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind(of: &()) -> Cow<'_, str> {
        McpOAuthProxy::kind(of)
    }

    fn group(of: &()) -> Cow<'_, str> {
        McpOAuthProxy::group(of)
    }

    fn version(of: &()) -> Cow<'_, str> {
        McpOAuthProxy::version(of)
    }

    fn plural(of: &()) -> Cow<'_, str> {
        McpOAuthProxy::plural(of)
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::validate::tests::resource;
    use super::*;

    #[test]
    fn resource_is_parsed_from_the_received_json() {
        let sent = resource(&json!({"pod": {"priorityClassName": "high", "tolerations": [{"key": "spot"}]}}));
        let raw: RawProxy = serde_json::from_value(serde_json::to_value(&sent).unwrap()).unwrap();
        let read = raw.parse().unwrap();
        assert_eq!((read.metadata, read.spec), (sent.metadata, sent.spec));
    }

    #[test]
    fn unparsable_resource_keeps_its_metadata() {
        for (spec, expected) in [
            (json!({"publicURL": 1}), "expected"),
            (json!({"of": "another version"}), "unknown field `of`"),
            (Value::Null, "invalid type: null"),
        ] {
            let mut sent =
                json!({"apiVersion": "mcp.jomcgi.dev/v1alpha1", "kind": "McpOAuthProxy", "metadata": {"name": "mcp"}});
            if !spec.is_null() {
                sent["spec"] = spec;
            }
            let raw: RawProxy = serde_json::from_value(sent).unwrap();
            assert_eq!(raw.meta().name.as_deref(), Some("mcp"));
            let error = raw.parse().unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
