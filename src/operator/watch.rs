//! The watches that wake the controller. Each renews itself by its own backoff, so that one kind that cannot be watched
//! does not slow the others down; a plain stream a kind, no shared reflector, because those drop deletes
//! (kube-rs/kube#1590).

use std::{fmt::Debug, future, sync::Arc, time::Duration};

use futures::{Stream, StreamExt, stream};
use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        core::v1::{ConfigMap, Service, ServiceAccount},
        rbac::v1::RoleBinding,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client, Resource,
    core::{DeserializeGuard, PartialObjectMeta},
    runtime::{WatchStreamExt, predicates, reflector, reflector::ObjectRef, watcher},
};
use serde::de::DeserializeOwned;

use super::{
    apply::is_served,
    build::{MANAGED_BY, MANAGED_BY_US},
    health::Health,
    metrics::Metrics,
};
use crate::api::{GROUP, McpOAuthProxy, OnePasswordItem};

/// A resource, or what is wrong with one that this version cannot read: a single such object must not blind us to all
/// others.
pub(super) type Guarded = DeserializeGuard<McpOAuthProxy>;

/// How often we look whether a kind that was missing has come.
const DISCOVERY: Duration = Duration::from_secs(30);

/// The resources themselves. A change of status alone, which is ours, does not wake us.
pub(super) fn proxies(
    client: &Client,
    writer: reflector::store::Writer<Guarded>,
    health: Arc<Health>,
) -> impl Stream<Item = Result<Guarded, watcher::Error>> + Send + 'static {
    watcher(Api::<Guarded>::all(client.clone()), watcher::Config::default().page_size(100))
        .default_backoff()
        .modify(|object| object.meta_mut().managed_fields = None)
        .inspect(move |event| {
            note(event, "McpOAuthProxy", &health.metrics);
            // Store::wait_until_ready wakes one waiter only (kube-runtime 5.0, delayed_init.rs), and that is the
            // controller.
            if matches!(event, Ok(watcher::Event::InitDone)) {
                health.listed();
            }
        })
        .reflect(writer)
        .applied_objects()
        .predicate_filter(predicates::generation, Default::default())
        // Noted already; passed on, it would slow every other watch down.
        .filter(|object| future::ready(object.is_ok()))
}

/// The children, as the resources that they belong to.
pub(super) fn children(
    client: &Client,
    metrics: &Arc<Metrics>,
) -> impl Stream<Item = ObjectRef<Guarded>> + Send + 'static + use<> {
    stream::select_all([
        owners::<Deployment>(client, metrics).boxed(),
        owners::<Service>(client, metrics).boxed(),
        owners::<ServiceAccount>(client, metrics).boxed(),
        owners::<RoleBinding>(client, metrics).boxed(),
        owners::<ConfigMap>(client, metrics).boxed(),
        owners_once_served::<OnePasswordItem>(client, metrics).boxed(),
    ])
}

/// Metadata only, and nothing is kept: a child is looked at when its turn comes.
fn owners<K>(
    client: &Client,
    metrics: &Arc<Metrics>,
) -> impl Stream<Item = ObjectRef<Guarded>> + Send + 'static + use<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let metrics = metrics.clone();
    let ours = watcher::Config::default().labels(&format!("{MANAGED_BY}={MANAGED_BY_US}")).page_size(100);
    watcher(Api::<PartialObjectMeta<K>>::all(client.clone()), ours)
        .default_backoff()
        .inspect(move |event| note(event, &K::kind(&()), &metrics))
        .touched_objects()
        .filter_map(|child| async move { child.ok().and_then(|child| owner(&child.metadata)) })
}

/// As [`owners`], for a kind that another operator brings: it may come long after us.
fn owners_once_served<K>(
    client: &Client,
    metrics: &Arc<Metrics>,
) -> impl Stream<Item = ObjectRef<Guarded>> + Send + 'static + use<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let (client, metrics) = (client.clone(), metrics.clone());
    stream::once(async move {
        while !is_served::<K>(&client).await.unwrap_or(false) {
            tokio::time::sleep(DISCOVERY).await;
        }
        owners::<K>(&client, &metrics)
    })
    .flatten()
}

fn note<K>(event: &Result<watcher::Event<K>, watcher::Error>, kind: &str, metrics: &Metrics) {
    if let Err(error) = event {
        metrics.watch_failed();
        tracing::warn!(kind, %error, "a watch broke and is renewed");
    }
}

/// The resource that controls an object.
fn owner(metadata: &ObjectMeta) -> Option<ObjectRef<Guarded>> {
    let owner = metadata.owner_references.iter().flatten().find(|owner| {
        owner.controller == Some(true)
            && owner.kind == McpOAuthProxy::kind(&())
            && owner.api_version.starts_with(&format!("{GROUP}/"))
    })?;
    Some(ObjectRef::new(&owner.name).within(metadata.namespace.as_deref()?))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::operator::{build, validate::tests::validated};

    #[test]
    fn a_child_wakes_the_resource_that_controls_it() {
        let metadata = build::metadata(&validated(&json!({})), "child");
        assert_eq!(owner(&metadata), Some(ObjectRef::new("mcp").within("gateway")));
    }

    #[test]
    fn objects_of_others_wake_nobody() {
        let mut metadata = build::metadata(&validated(&json!({})), "child");
        metadata.owner_references.as_mut().unwrap()[0].controller = None;
        assert_eq!(owner(&metadata), None);
        assert_eq!(owner(&ObjectMeta::default()), None);
    }
}
