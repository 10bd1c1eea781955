//! Ownership of objects that have the name of a child.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::validate::ValidatedProxy;
use crate::api::GROUP;

/// The owner of an object.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Ownership {
    /// The resource being reconciled.
    Ours,
    /// A deleted resource of the same name: the garbage collector will delete the object.
    Former,
    /// Another owner, with its kind and name.
    Foreign { owner: String },
}

/// An object of another owner that has the name of a child.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct NameConflict {
    pub(super) kind: String,
    pub(super) name: String,
    pub(super) owner: Ownership,
}

/// Returns the owner of an object by its controller owner reference. Names and labels prove nothing.
pub(super) fn ownership(proxy: &ValidatedProxy, metadata: &ObjectMeta) -> Ownership {
    let controller = metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true));
    match controller {
        Some(owner) if owner.uid == proxy.uid => Ownership::Ours,
        Some(owner)
            if owner.kind == proxy.owner.kind
                && owner.name == proxy.name
                && owner.api_version.starts_with(&format!("{GROUP}/")) =>
        {
            Ownership::Former
        }
        Some(owner) => Ownership::Foreign { owner: format!("{} {}", owner.kind, owner.name) },
        None => Ownership::Foreign { owner: "another owner".to_owned() },
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{
        super::{build::metadata, validate::tests::validated},
        *,
    };

    #[test]
    fn ownership_is_decided_by_uid_and_not_by_name() {
        let proxy = validated(&json!({}));
        let ours = metadata(&proxy, "mcp");
        assert_eq!(ownership(&proxy, &ours), Ownership::Ours);

        let mut former = ours.clone();
        former.owner_references.as_mut().unwrap()[0].uid = "another".to_owned();
        assert_eq!(ownership(&proxy, &former), Ownership::Former);

        let mut foreign = former.clone();
        foreign.owner_references.as_mut().unwrap()[0].kind = "Application".to_owned();
        assert_eq!(ownership(&proxy, &foreign), Ownership::Foreign { owner: "Application mcp".to_owned() });

        let labelled_only = ObjectMeta { owner_references: None, ..ours };
        assert!(matches!(ownership(&proxy, &labelled_only), Ownership::Foreign { .. }));
    }
}
