//! Writes the status subresource.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{
    Api, Client, Resource,
    api::{ApiResource, DynamicObject, Patch, PatchParams},
};
use serde_json::json;

use super::{
    FIELD_MANAGER,
    conditions::{ObservedState, READY, TYPES},
    error::Error,
};
use crate::api::{McpOAuthProxy, McpOAuthProxyStatus};

/// Writes the status if it differs. Returns whether the status or reason of `Ready` changed.
pub(super) async fn update(
    client: &Client,
    object: &McpOAuthProxyRef,
    observed: &ObservedState,
) -> Result<bool, Error> {
    // Untyped, because a resource that this version cannot parse gets a status too.
    let kind = ApiResource::erase::<McpOAuthProxy>(&());
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &object.namespace, &kind);
    let action = format!("write the status of McpOAuthProxy {}", object.name);
    let Some(live) = api.get_opt(&object.name).await.map_err(Error::kube(action.clone()))? else {
        return Ok(false);
    };
    // The cache may be stale, so transition times come from the live object. Another UID is a recreated object.
    if live.metadata.uid != object.uid {
        return Ok(false);
    }
    let old: McpOAuthProxyStatus =
        live.data.get("status").and_then(|status| serde_json::from_value(status.clone()).ok()).unwrap_or_default();
    let new = observed.status(&old, object.generation, Timestamp::now());
    if is_same(&old, &new) {
        return Ok(false);
    }
    let patch = json!({
        "apiVersion": McpOAuthProxy::api_version(&()),
        "kind": McpOAuthProxy::kind(&()),
        "metadata": {"name": object.name, "uid": object.uid},
        "status": new,
    });
    api.patch_status(&object.name, &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(patch))
        .await
        .map_err(Error::kube(action))?;
    Ok(ready_reason(&old) != ready_reason(&new))
}

/// Identifies the object that a status belongs to.
#[derive(Clone, Debug)]
pub(super) struct McpOAuthProxyRef {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) uid: Option<String>,
    pub(super) generation: Option<i64>,
}

fn is_same(old: &McpOAuthProxyStatus, new: &McpOAuthProxyStatus) -> bool {
    let mut ours: Vec<&Condition> =
        old.conditions.iter().filter(|condition| TYPES.contains(&condition.type_.as_str())).collect();
    let mut wanted: Vec<&Condition> = new.conditions.iter().collect();
    ours.sort_by(|a, b| a.type_.cmp(&b.type_));
    wanted.sort_by(|a, b| a.type_.cmp(&b.type_));
    let rest = |status: &McpOAuthProxyStatus| McpOAuthProxyStatus { conditions: Vec::new(), ..status.clone() };
    ours == wanted && rest(old) == rest(new)
}

fn ready_reason(status: &McpOAuthProxyStatus) -> Option<(&str, &str)> {
    let ready = status.conditions.iter().find(|condition| condition.type_ == READY)?;
    Some((&ready.status, &ready.reason))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::{
        conditions::tests::{at, observe, running},
        credentials::CredentialsState,
    };
    use super::*;
    use crate::testing::FakeApi;

    #[test]
    fn equal_observed_state_gives_equal_status() {
        let observed = observe(&CredentialsState::Complete, &running());
        let first = observed.status(&McpOAuthProxyStatus::default(), Some(1), at(10));
        assert!(is_same(&first, &observed.status(&first, Some(1), at(99))));
        assert!(!is_same(&first, &observed.status(&first, Some(2), at(99))));
    }

    #[test]
    fn foreign_conditions_cause_no_write() {
        let observed = observe(&CredentialsState::Complete, &running());
        let mut status = observed.status(&McpOAuthProxyStatus::default(), Some(1), at(10));
        let ours = status.clone();
        status.conditions.insert(0, Condition { type_: "Audited".to_owned(), ..ours.conditions[0].clone() });
        assert!(is_same(&status, &ours));
    }

    #[tokio::test]
    async fn unchanged_status_is_not_written() {
        let api = FakeApi::default();
        let path = "/apis/mcp.jomcgi.dev/v1alpha1/namespaces/gateway/mcpoauthproxies/mcp";
        let object = McpOAuthProxyRef {
            namespace: "gateway".to_owned(),
            name: "mcp".to_owned(),
            uid: Some("u".to_owned()),
            generation: Some(1),
        };
        let live = |status: &Value| {
            json!({"apiVersion": "mcp.jomcgi.dev/v1alpha1", "kind": "McpOAuthProxy",
            "metadata": {"name": "mcp", "namespace": "gateway", "uid": "u"}, "status": status})
        };
        api.put(path, live(&json!({})));
        let observed = observe(&CredentialsState::Complete, &running());
        assert!(update(&api.client(), &object, &observed).await.unwrap());
        assert_eq!(api.writes(), [format!("PATCH {path}/status")]);

        api.put(path, live(&api.get(&format!("{path}/status")).unwrap()["status"]));
        assert!(!update(&api.client(), &object, &observed).await.unwrap());
        assert_eq!(api.writes(), [""; 0]);
        let recreated = McpOAuthProxyRef { uid: Some("another".to_owned()), ..object };
        update(&api.client(), &recreated, &observe(&CredentialsState::NotFound, &running())).await.unwrap();
        assert_eq!(api.writes(), [""; 0], "status written to another resource with the same name");
    }
}
