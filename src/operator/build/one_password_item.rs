use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use super::metadata;
use crate::{
    api::{OnePasswordItem, OnePasswordItemSpec},
    operator::validate::{CredentialsSource, ValidatedProxy},
};

/// The 1Password operator creates a Secret with this item's name and copies the item's labels to it.
pub(super) fn build(proxy: &ValidatedProxy) -> Option<OnePasswordItem> {
    let CredentialsSource::OnePassword { item_path } = &proxy.credentials else {
        return None;
    };
    let mut item = OnePasswordItem::new(&proxy.name, OnePasswordItemSpec { item_path: item_path.clone() });
    item.metadata = metadata(proxy, &proxy.name);
    // The item has a finalizer of the 1Password operator. If that operator is down, the resource's deletion must not hang.
    item.metadata.owner_references =
        Some(vec![OwnerReference { block_owner_deletion: Some(false), ..proxy.owner.clone() }]);
    Some(item)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::operator::validate::tests::validated;

    #[test]
    fn item_exists_only_with_a_1password_source() {
        assert!(build(&validated(&json!({}))).is_none());
        let item = build(&validated(&json!({"credentials": {"onePassword": {"itemPath": "vaults/v/items/i"}}})));
        assert_eq!(item.unwrap().spec.item_path, "vaults/v/items/i");
    }

    #[test]
    fn item_does_not_block_owner_deletion() {
        let item = build(&validated(&json!({"credentials": {"onePassword": {"itemPath": "vaults/v/items/i"}}})));
        assert_eq!(item.unwrap().metadata.owner_references.unwrap()[0].block_owner_deletion, Some(false));
    }
}
