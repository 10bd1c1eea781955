//! All reads of a reconcile, before it writes anything.

use k8s_openapi::{api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{
    Api, Client, Resource,
    api::{ApiResource, DynamicObject, PartialObjectMeta},
};

use super::{
    build,
    credentials::{self, CredentialsState},
    error::Error,
    ownership::{NameConflict, Ownership, ownership},
    pods,
    signing_keys::{self, KeySecret},
    validate::{CredentialsSource, ValidatedProxy},
};
use crate::{api::OnePasswordItem, config::PodStatus};

/// The existing state of the cluster that a reconcile depends on.
#[derive(Clone, Debug)]
pub(super) struct Existing {
    pub(super) credentials: CredentialsState,
    pub(super) signing_keys: KeySecret,
    /// Objects of other owners with a child's name, except Secrets.
    pub(super) conflicts: Vec<NameConflict>,
    /// False: the resource wants a `OnePasswordItem`, and the cluster does not serve that kind.
    pub(super) one_password_served: bool,
    /// UID of the resource's `OnePasswordItem` if the resource no longer needs it.
    pub(super) surplus_item: Option<String>,
    pub(super) pods: Vec<PodStatus>,
}

impl Existing {
    /// All name conflicts. If there is one, nothing may be written.
    pub(super) fn name_conflicts(&self, proxy: &ValidatedProxy) -> Vec<NameConflict> {
        let secret =
            |name: String, owner: Ownership| NameConflict { kind: Secret::kind(&()).into_owned(), name, owner };
        let mut conflicts = self.conflicts.clone();
        if self.credentials == CredentialsState::Foreign {
            // The 1Password operator would overwrite the Secret for an item of this name.
            let owner = Ownership::Foreign { owner: "another owner".to_owned() };
            conflicts.push(secret(proxy.credentials_secret().to_owned(), owner));
        }
        if let KeySecret::Conflict(owner) = &self.signing_keys {
            conflicts.push(secret(proxy.signing_keys_secret(), owner.clone()));
        }
        conflicts
    }
}

/// Reads the existing state of a resource's children, credentials and pods.
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

/// UID of an item that the resource still owns, unless it is already being deleted.
async fn surplus_item(client: &Client, proxy: &ValidatedProxy) -> Result<Option<String>, Error> {
    let live = metadata(client, proxy, &ApiResource::erase::<OnePasswordItem>(&()), &proxy.name).await?;
    let ours = live.filter(|live| live.deletion_timestamp.is_none() && ownership(proxy, live) == Ownership::Ours);
    Ok(ours.and_then(|live| live.uid))
}

/// Reads an object's metadata. `None` also if the cluster does not serve the kind: its 404 has another body than that of a
/// missing object, so kube's `_opt` functions would return an error.
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
        Err(error) => Err(Error::kube(format!("read {} {name}", kind.kind))(error)),
    }
}

/// Whether the cluster serves a kind. Its CRD may be installed later.
pub(super) async fn is_served<K: Resource<DynamicType = ()>>(client: &Client) -> Result<bool, Error> {
    let version = K::api_version(&());
    match client.list_api_group_resources(&version).await {
        Ok(list) => Ok(list.resources.iter().any(|resource| resource.name == K::plural(&()))),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
        Err(error) => Err(Error::kube(format!("list the kinds of {version}"))(error)),
    }
}
