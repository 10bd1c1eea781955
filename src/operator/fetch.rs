//! Every read of a reconcile. What is read here is the cluster's state before this reconcile writes anything.

use k8s_openapi::{api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{
    Api, Client, Resource,
    api::{ApiResource, DynamicObject, PartialObjectMeta},
};

use super::{
    build,
    credentials::{self, Credentials},
    error::Error,
    ownership::{NameConflict, Ownership, ownership},
    pods,
    signing_keys::{self, KeySecret},
    validate::{CredentialsSource, ValidatedProxy},
};
use crate::{api::OnePasswordItem, config::PodStatus};

/// What the cluster has.
#[derive(Clone, Debug)]
pub(super) struct Existing {
    pub(super) credentials: Credentials,
    pub(super) signing_keys: KeySecret,
    /// Objects with a child's name that are not ours, other than Secrets.
    pub(super) conflicts: Vec<NameConflict>,
    /// False: the resource wants a `OnePasswordItem`, and the cluster does not serve that kind.
    pub(super) one_password_served: bool,
    /// UID of our `OnePasswordItem` that the resource no longer wants.
    pub(super) surplus_item: Option<String>,
    /// What the pods report.
    pub(super) pods: Vec<PodStatus>,
}

impl Existing {
    /// All names that belong to somebody else; nothing may be written then.
    pub(super) fn name_conflicts(&self, proxy: &ValidatedProxy) -> Vec<NameConflict> {
        let secret =
            |name: String, owner: Ownership| NameConflict { kind: Secret::kind(&()).into_owned(), name, owner };
        let mut conflicts = self.conflicts.clone();
        if self.credentials == Credentials::Foreign {
            // An item of this name would make the 1Password operator overwrite the Secret.
            let owner = Ownership::Foreign { owner: "somebody else".to_owned() };
            conflicts.push(secret(proxy.credentials_secret().to_owned(), owner));
        }
        if let KeySecret::Conflict(owner) = &self.signing_keys {
            conflicts.push(secret(proxy.signing_keys_secret(), owner.clone()));
        }
        conflicts
    }
}

/// Reads what the cluster has of a resource.
///
/// # Errors
/// When the API server does not answer.
pub(super) async fn fetch(client: &Client, proxy: &ValidatedProxy) -> Result<Existing, Error> {
    let mut conflicts = Vec::new();
    for (kind, name) in build::names(proxy)? {
        conflicts.extend(name_conflict(client, proxy, kind, name).await?);
    }
    let wants_item = matches!(proxy.credentials, CredentialsSource::OnePassword { .. });
    Ok(Existing {
        credentials: credentials::fetch(client, proxy).await?,
        signing_keys: signing_keys::fetch(client, proxy).await?,
        conflicts,
        one_password_served: !wants_item || is_served::<OnePasswordItem>(client).await?,
        surplus_item: if wants_item { None } else { surplus_item(client, proxy).await? },
        pods: pods::fetch(client, proxy).await,
    })
}

async fn name_conflict(
    client: &Client,
    proxy: &ValidatedProxy,
    kind: ApiResource,
    name: String,
) -> Result<Option<NameConflict>, Error> {
    let live = metadata(client, proxy, &kind, &name).await?;
    Ok(live.and_then(|live| match ownership(proxy, &live) {
        Ownership::Ours => None,
        owner => Some(NameConflict { kind: kind.kind, name, owner }),
    }))
}

/// Our item of a resource that has none any more, unless it is already being deleted.
async fn surplus_item(client: &Client, proxy: &ValidatedProxy) -> Result<Option<String>, Error> {
    let live = metadata(client, proxy, &ApiResource::erase::<OnePasswordItem>(&()), &proxy.name).await?;
    let ours = live.filter(|live| live.deletion_timestamp.is_none() && ownership(proxy, live) == Ownership::Ours);
    Ok(ours.and_then(|live| live.uid))
}

/// An object's metadata, from the API server. A kind that the cluster does not serve has no objects; its 404 differs from
/// that of a missing object, so kube's own `_opt` functions do not help.
async fn metadata(
    client: &Client,
    proxy: &ValidatedProxy,
    kind: &ApiResource,
    name: &str,
) -> Result<Option<ObjectMeta>, Error> {
    let api: Api<PartialObjectMeta<DynamicObject>> = Api::namespaced_with(client.clone(), &proxy.namespace, kind);
    match api.get_metadata(name).await {
        Ok(live) => Ok(Some(live.metadata)),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
        Err(error) => Err(Error::kube(format!("look at {} {name}", kind.kind))(error)),
    }
}

/// Whether the cluster serves a kind. It may come later, with the operator that it belongs to.
pub(super) async fn is_served<K: Resource<DynamicType = ()>>(client: &Client) -> Result<bool, Error> {
    let version = K::api_version(&());
    match client.list_api_group_resources(&version).await {
        Ok(list) => Ok(list.resources.iter().any(|resource| resource.name == K::plural(&()))),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
        Err(error) => Err(Error::kube(format!("ask which kinds {version} has"))(error)),
    }
}
