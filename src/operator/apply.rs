use std::fmt::Debug;

use k8s_openapi::{
    api::{
        apps::v1::{Deployment, DeploymentStatus},
        core::v1::Secret,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{
        ApiResource, DeleteParams, DynamicObject, NotUsed, Object, PartialObjectMeta, Patch, PatchParams, PostParams,
        Preconditions,
    },
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::{
    FIELD_MANAGER,
    build::{Children, value},
    credentials::Credentials,
    error::Error,
    signing_keys::{self, KeySecret},
    validate::ValidatedProxy,
};
use crate::api::{GROUP, OnePasswordItem};

/// Whose an object is.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Ownership {
    /// Of the resource at hand.
    Ours,
    /// Of a resource of the same name that has been deleted: it will be gone in a moment.
    Former,
    /// Of somebody else, who is described.
    Foreign { owner: String },
}

/// A name that we need and that is taken.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Taken {
    pub(super) kind: String,
    pub(super) name: String,
    pub(super) by: Ownership,
}

/// A Deployment as the API server has it now, without what we asked for.
pub(super) type LiveDeployment = Object<NotUsed, DeploymentStatus>;

/// How far we came.
#[derive(Clone, Debug)]
pub(super) enum Applied {
    /// Names are taken, so nothing was written at all.
    NamesTaken(Vec<Taken>),
    /// Everything is as it should be.
    Everything {
        /// The pods' Deployment.
        deployment: Box<LiveDeployment>,
        /// False: a `OnePasswordItem` is asked for, but this cluster does not know the kind.
        one_password_served: bool,
        /// False: the key Secret has no keys that can be read.
        signing_keys_readable: bool,
    },
}

/// Makes the cluster have the children, by server-side apply. Applying what is there already changes nothing, not even
/// a resourceVersion; so there is no comparison of ours, which would have to know what the API server adds and how it
/// spells a quantity.
pub(super) async fn apply(
    client: &Client,
    proxy: &ValidatedProxy,
    children: &Children,
    credentials: &Credentials,
) -> Result<Applied, Error> {
    // No `..`: a new kind of child must not be forgotten, neither here nor below.
    let Children { service_account, role_binding, config_map, one_password_item, service, deployment } = children;
    let step = Step { client, proxy };

    let keys = signing_keys::look(client, proxy).await?;
    let mut taken = Vec::new();
    taken.extend(step.taken(service_account).await?);
    taken.extend(step.taken(role_binding).await?);
    taken.extend(step.taken(config_map).await?);
    taken.extend(step.taken(service).await?);
    taken.extend(step.taken(deployment).await?);
    if let Some(item) = one_password_item {
        taken.extend(step.taken(item).await?);
    }
    if *credentials == Credentials::Foreign {
        // An item of this name would make the 1Password operator overwrite the Secret.
        taken.push(Taken {
            kind: Secret::kind(&()).into_owned(),
            name: proxy.credentials_secret().to_owned(),
            by: Ownership::Foreign { owner: "somebody else".to_owned() },
        });
    }
    if let KeySecret::Taken(by) = &keys {
        taken.push(Taken { kind: Secret::kind(&()).into_owned(), name: proxy.signing_keys_secret(), by: by.clone() });
    }
    if !taken.is_empty() {
        return Ok(Applied::NamesTaken(taken));
    }

    match &keys {
        KeySecret::Absent => step.create(&signing_keys::generate(proxy)?).await?,
        KeySecret::Due(rotated) => step.rotate(rotated).await?,
        KeySecret::Present | KeySecret::Unreadable | KeySecret::Taken(_) => (),
    }
    step.apply(service_account).await?;
    step.apply(role_binding).await?;
    step.apply(config_map).await?;
    let one_password_served = match one_password_item {
        Some(item) => step.apply_if_served(item).await?,
        None => true,
    };
    step.apply(service).await?;
    // The pods come last: a changed ConfigMap has to be there before they start.
    let kind = ApiResource::erase::<Deployment>(&());
    let deployments: Api<LiveDeployment> = Api::namespaced_with(client.clone(), &proxy.namespace, &kind);
    let deployment = Box::new(apply_to(&deployments, &kind, &deployment.name_any(), value(deployment)?).await?);
    // The Secret goes with the item: not before the new one can be mounted, because running pods may have to restart, and
    // not while the resource names that very Secret.
    let needed = proxy.credentials_secret() == proxy.name;
    if one_password_item.is_none() && !needed && *credentials == Credentials::Complete {
        step.prune(&ApiResource::erase::<OnePasswordItem>(&()), &proxy.name).await?;
    }
    Ok(Applied::Everything { deployment, one_password_served, signing_keys_readable: keys != KeySecret::Unreadable })
}

struct Step<'a> {
    client: &'a Client,
    proxy: &'a ValidatedProxy,
}

impl Step<'_> {
    /// Objects of a kind. Of an answer only the metadata is read, and the kind is a value: the code that reads whole objects
    /// is large, and so is all of it once more for each kind.
    fn api(&self, kind: &ApiResource) -> Api<PartialObjectMeta<DynamicObject>> {
        Api::namespaced_with(self.client.clone(), &self.proxy.namespace, kind)
    }

    /// An object's metadata as the API server has it now. A kind that the cluster does not know has no objects; its 404
    /// is another one than that of a missing object, so kube's own `_opt` does not do.
    async fn live(&self, kind: &ApiResource, name: &str) -> Result<Option<ObjectMeta>, Error> {
        match self.api(kind).get_metadata(name).await {
            Ok(live) => Ok(Some(live.metadata)),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
            Err(error) => Err(Error::kube(format!("look at {} {name}", kind.kind))(error)),
        }
    }

    /// Whether the name of a child is somebody else's.
    fn taken<K: Resource<DynamicType = ()>>(&self, child: &K) -> impl Future<Output = Result<Option<Taken>, Error>> {
        self.name_taken(ApiResource::erase::<K>(&()), child.name_any())
    }

    async fn name_taken(&self, kind: ApiResource, name: String) -> Result<Option<Taken>, Error> {
        let live = self.live(&kind, &name).await?;
        Ok(live.and_then(|live| match ownership(self.proxy, &live) {
            Ownership::Ours => None,
            by => Some(Taken { kind: kind.kind, name, by }),
        }))
    }

    async fn apply<K: Resource<DynamicType = ()> + Serialize>(&self, child: &K) -> Result<(), Error> {
        let kind = ApiResource::erase::<K>(&());
        apply_to(&self.api(&kind), &kind, &child.name_any(), value(child)?).await.map(drop)
    }

    /// Makes a Secret that is not changed afterwards: whoever comes second gets 409, and what the first one made stays.
    async fn create(&self, secret: &Secret) -> Result<(), Error> {
        let parameters = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &self.proxy.namespace);
        let created = api.create(&parameters, secret).await;
        created.map(drop).map_err(Error::kube(format!("create Secret {}", secret.name_any())))
    }

    /// Writes rotated signing keys, unless somebody has written the Secret since it was read; then the next pass looks again.
    async fn rotate(&self, rotated: &Secret) -> Result<(), Error> {
        let name = rotated.name_any();
        let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        match self.api(&ApiResource::erase::<Secret>(&())).patch(&name, &parameters, &Patch::Merge(rotated)).await {
            Ok(_) => {
                tracing::info!(namespace = self.proxy.namespace, secret = name, "signing keys rotated");
                Ok(())
            }
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            Err(error) => Err(Error::kube(format!("rotate Secret {name}"))(error)),
        }
    }

    /// Applies an object of a kind that may be unknown to the cluster; says whether it is known.
    async fn apply_if_served(&self, item: &OnePasswordItem) -> Result<bool, Error> {
        if !is_served::<OnePasswordItem>(self.client).await? {
            return Ok(false);
        }
        self.apply(item).await.map(|()| true)
    }

    /// Deletes a child that is no longer asked for. Another object of its name is left alone.
    async fn prune(&self, kind: &ApiResource, name: &str) -> Result<(), Error> {
        let live = self.live(kind, name).await?;
        let Some(live) =
            live.filter(|live| live.deletion_timestamp.is_none() && ownership(self.proxy, live) == Ownership::Ours)
        else {
            return Ok(());
        };
        let parameters = DeleteParams {
            preconditions: Some(Preconditions { uid: live.uid, resource_version: None }),
            ..DeleteParams::default()
        };
        match self.api(kind).delete(name, &parameters).await {
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
            other => other.map(drop).map_err(Error::kube(format!("delete {} {name}", kind.kind))),
        }
    }
}

/// Makes a child what it should be.
async fn apply_to<A: Clone + Debug + DeserializeOwned>(
    api: &Api<A>,
    kind: &ApiResource,
    name: &str,
    child: Value,
) -> Result<A, Error> {
    api.patch(name, &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(child))
        .await
        .map_err(Error::kube(format!("apply {} {name}", kind.kind)))
}

/// Whether the cluster knows a kind at all: it may come later, with the operator that it belongs to.
pub(super) async fn is_served<K: Resource<DynamicType = ()>>(client: &Client) -> Result<bool, Error> {
    let version = K::api_version(&());
    match client.list_api_group_resources(&version).await {
        Ok(list) => Ok(list.resources.iter().any(|resource| resource.name == K::plural(&()))),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
        Err(error) => Err(Error::kube(format!("ask which kinds {version} has"))(error)),
    }
}

/// Whose an object is, by its controller owner reference; the name alone says nothing.
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
        None => Ownership::Foreign { owner: "somebody else".to_owned() },
    }
}

#[cfg(test)]
mod tests;
