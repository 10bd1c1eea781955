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
    credentials::Credentials,
    error::Error,
    fetch::Existing,
    ownership::NameConflict,
    signing_keys::KeySecret,
    validate::ValidatedProxy,
};
use crate::api::OnePasswordItem;

/// A Deployment as the API server has it now, without what we asked for.
pub(super) type LiveDeployment = Object<NotUsed, DeploymentStatus>;

/// The result of [`apply`].
#[derive(Clone, Debug)]
pub(super) enum Applied {
    /// Somebody else has names of children, so nothing was written.
    NameConflicts(Vec<NameConflict>),
    /// All children are applied.
    Everything {
        /// The Deployment after that.
        deployment: Box<LiveDeployment>,
        /// False: the resource wants a `OnePasswordItem`, and the cluster does not serve that kind.
        one_password_served: bool,
        /// False: the key Secret holds no readable keys.
        signing_keys_readable: bool,
    },
}

/// Writes the children by server-side apply, creates or rotates the keys and prunes. Applying what is there already
/// changes nothing, not even a resourceVersion; so there is no comparison of ours, which would have to know the API server's
/// defaults and its spelling of quantities.
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
    // No `..`: a new kind of child must not be forgotten.
    let Children { key_secret, service_account, role_binding, config_map, one_password_item, service, deployment } =
        children;
    let step = Step { client, proxy };
    match key_secret {
        Some(KeySecretChange::Create(secret)) => step.create(secret).await?,
        Some(KeySecretChange::Rotate(secret)) => step.rotate(secret).await?,
        None => (),
    }
    step.apply(service_account).await?;
    step.apply(role_binding).await?;
    step.apply(config_map).await?;
    if let Some(item) = one_password_item
        && existing.one_password_served
    {
        step.apply(item).await?;
    }
    step.apply(service).await?;
    // The pods come last: a changed ConfigMap has to be there before they start.
    let kind = ApiResource::erase::<Deployment>(&());
    let deployments: Api<LiveDeployment> = Api::namespaced_with(client.clone(), &proxy.namespace, &kind);
    let deployment = Box::new(apply_to(&deployments, &kind, &deployment.name_any(), value(deployment)?).await?);
    // The 1Password operator deletes the Secret with the item. The item stays until the new Secret can be mounted, because
    // running pods may have to restart, and as long as the resource names that very Secret.
    let is_in_use = proxy.credentials_secret() == proxy.name;
    if let Some(uid) = &existing.surplus_item
        && !is_in_use
        && existing.credentials == Credentials::Complete
    {
        step.prune(&ApiResource::erase::<OnePasswordItem>(&()), &proxy.name, uid).await?;
    }
    Ok(Applied::Everything {
        deployment,
        one_password_served: existing.one_password_served,
        signing_keys_readable: !matches!(existing.signing_keys, KeySecret::Unreadable),
    })
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

    async fn apply<K: Resource<DynamicType = ()> + Serialize>(&self, child: &K) -> Result<(), Error> {
        let kind = ApiResource::erase::<K>(&());
        apply_to(&self.api(&kind), &kind, &child.name_any(), value(child)?).await.map(drop)
    }

    /// Creates a Secret that is not applied afterwards: the second of two writers gets 409, and the first one's Secret stays.
    async fn create(&self, secret: &Secret) -> Result<(), Error> {
        let parameters = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &self.proxy.namespace);
        let created = api.create(&parameters, secret).await;
        created.map(drop).map_err(Error::kube(format!("create Secret {}", secret.name_any())))
    }

    /// Writes rotated signing keys, unless somebody has written the Secret since it was read; then the next reconcile decides.
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

    /// Deletes a child that is no longer wanted, if it is still the object with this UID.
    async fn prune(&self, kind: &ApiResource, name: &str, uid: &str) -> Result<(), Error> {
        let parameters = DeleteParams {
            preconditions: Some(Preconditions { uid: Some(uid.to_owned()), resource_version: None }),
            ..DeleteParams::default()
        };
        match self.api(kind).delete(name, &parameters).await {
            // Gone, or another object by now.
            Err(kube::Error::Api(status)) if status.is_not_found() || status.code == 409 => Ok(()),
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

#[cfg(test)]
mod tests;
