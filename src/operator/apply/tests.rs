use jiff::Timestamp;
use serde_json::json;

use super::super::{build::build, fetch::fetch, validate::tests::validated};
use super::*;
use crate::testing::FakeApi;

const ITEM: &str = "/apis/onepassword.com/v1/namespaces/gateway/onepassworditems/mcp";
const KEYS: &str = "/api/v1/namespaces/gateway/secrets/mcp-signing-keys";

fn with_item() -> ValidatedProxy {
    validated(&json!({"credentials": {"onePassword": {"itemPath": "vaults/v/items/i"}}}))
}

async fn applied_to(api: &FakeApi, proxy: &ValidatedProxy, credentials: &CredentialsState) -> Applied {
    let client = api.client();
    let existing = Existing { credentials: credentials.clone(), ..fetch(&client, proxy).await.unwrap() };
    let children = build(proxy, &existing.signing_keys, Timestamp::now()).unwrap();
    apply(&client, proxy, &children, &existing).await.unwrap()
}

#[tokio::test]
async fn deployment_is_applied_last() {
    let api = FakeApi::default();
    api.serve("onepassword.com/v1", "onepassworditems");
    let applied = applied_to(&api, &with_item(), &CredentialsState::NotFound).await;
    assert!(matches!(applied, Applied::Everything { one_password_served: true, signing_keys_readable: true, .. }));
    assert_eq!(
        api.writes(),
        [
            "POST /api/v1/namespaces/gateway/secrets",
            "PATCH /api/v1/namespaces/gateway/serviceaccounts/mcp",
            "PATCH /apis/rbac.authorization.k8s.io/v1/namespaces/gateway/rolebindings/mcp",
            "PATCH /api/v1/namespaces/gateway/configmaps/mcp",
            &format!("PATCH {ITEM}"),
            "PATCH /api/v1/namespaces/gateway/services/mcp",
            "PATCH /apis/apps/v1/namespaces/gateway/deployments/mcp",
        ]
    );
}

#[tokio::test]
async fn signing_keys_are_created_once() {
    let api = FakeApi::default();
    let proxy = validated(&json!({}));
    applied_to(&api, &proxy, &CredentialsState::Complete).await;
    let keys = api.get(KEYS).unwrap();
    api.writes();
    applied_to(&api, &proxy, &CredentialsState::Complete).await;
    assert!(!api.writes().iter().any(|write| write.contains("secrets")));
    assert_eq!(api.get(KEYS).unwrap(), keys);
}

#[tokio::test]
async fn foreign_object_with_a_childs_name_prevents_all_writes() {
    for path in [
        "/api/v1/namespaces/gateway/serviceaccounts/mcp",
        "/apis/rbac.authorization.k8s.io/v1/namespaces/gateway/rolebindings/mcp",
        "/api/v1/namespaces/gateway/configmaps/mcp",
        "/api/v1/namespaces/gateway/services/mcp",
        "/apis/apps/v1/namespaces/gateway/deployments/mcp",
        ITEM,
        KEYS,
    ] {
        let api = FakeApi::default();
        api.put(path, json!({"metadata": {"name": "mcp", "namespace": "gateway"}}));
        let applied = applied_to(&api, &with_item(), &CredentialsState::NotFound).await;
        assert!(matches!(&applied, Applied::NameConflicts(conflicts) if conflicts.len() == 1), "{path}: {applied:?}");
        assert_eq!(api.writes(), [""; 0], "{path}");
    }
}

#[tokio::test]
async fn foreign_secret_prevents_the_1password_item() {
    let api = FakeApi::default();
    api.serve("onepassword.com/v1", "onepassworditems");
    let applied = applied_to(&api, &with_item(), &CredentialsState::Foreign).await;
    assert!(matches!(applied, Applied::NameConflicts(_)));
    assert_eq!(api.writes(), [""; 0]);
}

#[tokio::test]
async fn missing_1password_kind_does_not_block_other_children() {
    let api = FakeApi::default();
    let applied = applied_to(&api, &with_item(), &CredentialsState::NotFound).await;
    assert!(matches!(applied, Applied::Everything { one_password_served: false, .. }));
    let writes = api.writes();
    assert!(writes.iter().any(|write| write.ends_with("deployments/mcp")));
    assert!(!writes.iter().any(|write| write.contains("onepassword")));
}

#[tokio::test]
async fn item_is_pruned_once_its_replacement_secret_is_complete() {
    let api = FakeApi::default();
    api.serve("onepassword.com/v1", "onepassworditems");
    applied_to(&api, &with_item(), &CredentialsState::NotFound).await;
    let proxy = validated(&json!({}));
    applied_to(&api, &proxy, &CredentialsState::NotFound).await;
    let mut item = api.get(ITEM).unwrap();
    item["metadata"]["uid"] = json!("item-uid");
    api.put(ITEM, item);
    api.writes();
    applied_to(&api, &proxy, &CredentialsState::Complete).await;
    assert!(api.get(ITEM).is_none());
    assert!(api.writes().contains(&format!("DELETE {ITEM} with uid item-uid")));
}

#[tokio::test]
async fn item_is_kept_while_its_secret_is_in_use() {
    let api = FakeApi::default();
    api.serve("onepassword.com/v1", "onepassworditems");
    applied_to(&api, &with_item(), &CredentialsState::NotFound).await;
    let same_secret = validated(&json!({"credentials": {"secretRef": {"name": "mcp"}}}));
    applied_to(&api, &same_secret, &CredentialsState::Complete).await;
    assert!(api.get(ITEM).is_some());
}

#[tokio::test]
async fn foreign_item_is_never_pruned() {
    let api = FakeApi::default();
    api.put(ITEM, json!({"metadata": {"name": "mcp", "namespace": "gateway"}}));
    applied_to(&api, &validated(&json!({})), &CredentialsState::Complete).await;
    assert!(api.get(ITEM).is_some());
}
