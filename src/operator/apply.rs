use std::fmt::Debug;

use k8s_openapi::api::{
    apps::v1::{Deployment, DeploymentStatus},
    core::v1::Secret,
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
    build::{Children, KeySecretChange, value},
    credentials::CredentialsState,
    error::Error,
    fetch::Existing,
    ownership::NameConflict,
    signing_keys::KeySecret,
    validate::ValidatedProxy,
};
use crate::api::OnePasswordItem;

/// A Deployment of the API server with its status and without its spec.
pub(super) type LiveDeployment = Object<NotUsed, DeploymentStatus>;

/// The result of [`apply`].
#[derive(Clone, Debug)]
pub(super) enum Applied {
    /// Objects of other owners have names of children, so nothing was written.
    NameConflicts(Vec<NameConflict>),
    /// All children are applied.
    Everything {
        /// The Deployment after the apply.
        deployment: Box<LiveDeployment>,
        /// False: the resource wants a `OnePasswordItem`, and the cluster does not serve that kind.
        one_password_served: bool,
        /// False: the key Secret holds no readable keys.
        signing_keys_readable: bool,
    },
}

/// Writes the children by server-side apply, creates or rotates the signing keys, and prunes. There is no comparison with the
/// live objects: applying an unchanged object changes nothing, not even its resourceVersion, and a comparison would have to
/// know the API server's defaults and its normal form of quantities.
pub(super) async fn apply(
    client: &Client,
    proxy: &ValidatedProxy,
    children: &Children,
    existing: &Existing,
) -> Result<Applied, Error> {
    let conflicts = existing.name_conflicts(proxy);
    if !conflicts.is_empty() {
        return Ok(Applied::NameConflicts(conflicts));
    }
    // No `..`: a new kind of child must cause a compile error here.
    let Children { key_secret, service_account, role_binding, config_map, one_password_item, service, deployment } =
        children;
    let writer = Writer { client, proxy };
    match key_secret {
        Some(KeySecretChange::Create(secret)) => writer.create(secret).await?,
        Some(KeySecretChange::Rotate(secret)) => writer.rotate(secret).await?,
        None => (),
    }
    writer.apply(service_account).await?;
    writer.apply(role_binding).await?;
    writer.apply(config_map).await?;
    if let Some(item) = one_password_item
        && existing.one_password_served
    {
        writer.apply(item).await?;
    }
    writer.apply(service).await?;
    // The Deployment comes last: its pods read the ConfigMap when they start.
    let kind = ApiResource::erase::<Deployment>(&());
    let deployments: Api<LiveDeployment> = Api::namespaced_with(client.clone(), &proxy.namespace, &kind);
    let deployment = Box::new(apply_to(&deployments, &kind, &deployment.name_any(), value(deployment)?).await?);
    // The 1Password operator deletes the Secret with the item. The item stays until the new Secret is complete, because
    // running pods may restart, and as long as the resource refers to the item's Secret.
    let is_in_use = proxy.credentials_secret() == proxy.name;
    if let Some(uid) = &existing.surplus_item
        && !is_in_use
        && existing.credentials == CredentialsState::Complete
    {
        writer.prune(&ApiResource::erase::<OnePasswordItem>(&()), &proxy.name, uid).await?;
    }
    Ok(Applied::Everything {
        deployment,
        one_password_served: existing.one_password_served,
        signing_keys_readable: !matches!(existing.signing_keys, KeySecret::Unreadable),
    })
}

struct Writer<'a> {
    client: &'a Client,
    proxy: &'a ValidatedProxy,
}

impl Writer<'_> {
    /// The API of a kind. Only the metadata of a response is parsed, and the kind is a value and not a type parameter: both
    /// keep the binary small.
    fn api(&self, kind: &ApiResource) -> Api<PartialObjectMeta<DynamicObject>> {
        Api::namespaced_with(self.client.clone(), &self.proxy.namespace, kind)
    }

    async fn apply<K: Resource<DynamicType = ()> + Serialize>(&self, child: &K) -> Result<(), Error> {
        let kind = ApiResource::erase::<K>(&());
        apply_to(&self.api(&kind), &kind, &child.name_any(), value(child)?).await.map(drop)
    }

    /// Creates a Secret and never overwrites one: the second of two writers gets 409.
    async fn create(&self, secret: &Secret) -> Result<(), Error> {
        let parameters = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &self.proxy.namespace);
        let created = api.create(&parameters, secret).await;
        created.map(drop).map_err(Error::kube(format!("create Secret {}", secret.name_any())))
    }

    /// Writes rotated signing keys. If the Secret has changed since it was read, the next reconcile decides.
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

    /// Deletes a child that the resource no longer needs, if the live object still has this UID.
    async fn prune(&self, kind: &ApiResource, name: &str, uid: &str) -> Result<(), Error> {
        let parameters = DeleteParams {
            preconditions: Some(Preconditions { uid: Some(uid.to_owned()), resource_version: None }),
            ..DeleteParams::default()
        };
        match self.api(kind).delete(name, &parameters).await {
            // Already deleted, or replaced by another object.
            Err(kube::Error::Api(status)) if status.is_not_found() || status.code == 409 => Ok(()),
            other => other.map(drop).map_err(Error::kube(format!("delete {} {name}", kind.kind))),
        }
    }
}

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

#[cfg(test)]
mod tests;
