use std::borrow::Cow;

use k8s_openapi::{NamespaceResourceScope, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::Resource;
use serde::Deserialize;
use serde_json::Value;

use crate::api::{McpOAuthProxy, McpOAuthProxySpec};

/// A resource as it came: it is read when its turn comes, so that a single one that this version cannot read does not blind us to
/// all others. kube has `DeserializeGuard` for that, which costs 0.4 MiB of code: it reads from another kind of value.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Unread {
    metadata: ObjectMeta,
    #[serde(default)]
    spec: Value,
}

impl Unread {
    /// The resource, but for its status: that is what we say, not what we are told.
    pub(super) fn read(&self) -> Result<McpOAuthProxy, serde_json::Error> {
        let spec = McpOAuthProxySpec::deserialize(&self.spec)?;
        Ok(McpOAuthProxy { metadata: self.metadata.clone(), spec, status: None })
    }
}

impl Resource for Unread {
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
        let unread: Unread = serde_json::from_value(serde_json::to_value(&sent).unwrap()).unwrap();
        let read = unread.read().unwrap();
        assert_eq!((read.metadata, read.spec), (sent.metadata, sent.spec));
    }

    #[test]
    fn unparsable_resource_keeps_its_metadata() {
        for (spec, says) in [
            (json!({"publicURL": 1}), "expected"),
            (json!({"of": "another version"}), "unknown field `of`"),
            (Value::Null, "invalid type: null"),
        ] {
            let mut sent =
                json!({"apiVersion": "mcp.jomcgi.dev/v1alpha1", "kind": "McpOAuthProxy", "metadata": {"name": "mcp"}});
            if !spec.is_null() {
                sent["spec"] = spec;
            }
            let unread: Unread = serde_json::from_value(sent).unwrap();
            assert_eq!(unread.meta().name.as_deref(), Some("mcp"));
            let error = unread.read().unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
