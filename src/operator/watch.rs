//! The watches that trigger reconciles. Each restarts with its own backoff, so that one failing kind does not delay the
//! others. Each kind has a plain stream and not a shared reflector, because those drop deletes (kube-rs/kube#1590).

use std::{future, sync::Arc, time::Duration};

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
    core::{ApiResource, DeserializeGuard, DynamicObject, PartialObjectMeta},
    runtime::{WatchStreamExt, predicates, reflector, reflector::ObjectRef, watcher},
};

use super::{
    build::{MANAGED_BY, MANAGED_BY_US},
    fetch::is_served,
    health::Health,
    metrics::Metrics,
};
use crate::api::{GROUP, McpOAuthProxy, OnePasswordItem};

/// How often to check whether the cluster serves a kind that was missing.
const DISCOVERY_INTERVAL: Duration = Duration::from_secs(30);

/// A resource whose spec this version cannot parse must not fail the watch of all others.
pub(super) type GuardedProxy = DeserializeGuard<McpOAuthProxy>;

/// The `McpOAuthProxy` resources. A status change alone triggers nothing.
pub(super) fn proxies(
    client: &Client,
    writer: reflector::store::Writer<GuardedProxy>,
    health: Arc<Health>,
) -> impl Stream<Item = Result<GuardedProxy, watcher::Error>> + Send + 'static {
    watcher(Api::<GuardedProxy>::all(client.clone()), watcher::Config::default().page_size(100))
        .default_backoff()
        .modify(|object| object.meta_mut().managed_fields = None)
        .inspect(move |event| {
            report_error(event, "McpOAuthProxy", &health.metrics);
            // Store::wait_until_ready wakes only one waiter (kube-runtime 5.0, delayed_init.rs), which is the controller.
            if matches!(event, Ok(watcher::Event::InitDone)) {
                health.set_ready();
            }
        })
        .reflect(writer)
        .applied_objects()
        .predicate_filter(predicates::generation, Default::default())
        // `inspect` reported the error already. The controller would delay all watches after an error.
        .filter(|object| future::ready(object.is_ok()))
}

/// The owners of children that changed.
pub(super) fn children(
    client: &Client,
    metrics: &Arc<Metrics>,
) -> impl Stream<Item = ObjectRef<GuardedProxy>> + Send + 'static + use<> {
    stream::select_all([
        owners(ApiResource::erase::<Deployment>(&()), client, metrics).boxed(),
        owners(ApiResource::erase::<Service>(&()), client, metrics).boxed(),
        owners(ApiResource::erase::<ServiceAccount>(&()), client, metrics).boxed(),
        owners(ApiResource::erase::<RoleBinding>(&()), client, metrics).boxed(),
        owners(ApiResource::erase::<ConfigMap>(&()), client, metrics).boxed(),
        owners_once_served::<OnePasswordItem>(client, metrics).boxed(),
    ])
}

/// Watches metadata only and caches nothing, because the reconcile reads the children. The kind is a value and not a type
/// parameter, because each generic instance adds much code to the binary.
fn owners(
    kind: ApiResource,
    client: &Client,
    metrics: &Arc<Metrics>,
) -> impl Stream<Item = ObjectRef<GuardedProxy>> + Send + 'static + use<> {
    let metrics = metrics.clone();
    let ours = watcher::Config::default().labels(&format!("{MANAGED_BY}={MANAGED_BY_US}")).page_size(100);
    watcher(Api::<PartialObjectMeta<DynamicObject>>::all_with(client.clone(), &kind), ours)
        .default_backoff()
        .inspect(move |event| report_error(event, &kind.kind, &metrics))
        .touched_objects()
        .filter_map(|child| async move { child.ok().and_then(|child| owner(&child.metadata)) })
}

/// Like [`owners`], for a kind of another operator, whose CRD may be installed later.
fn owners_once_served<K>(
    client: &Client,
    metrics: &Arc<Metrics>,
) -> impl Stream<Item = ObjectRef<GuardedProxy>> + Send + 'static + use<K>
where
    K: Resource<DynamicType = ()> + 'static,
{
    let (client, metrics) = (client.clone(), metrics.clone());
    stream::once(async move {
        while !is_served::<K>(&client).await.unwrap_or(false) {
            tokio::time::sleep(DISCOVERY_INTERVAL).await;
        }
        owners(ApiResource::erase::<K>(&()), &client, &metrics)
    })
    .flatten()
}

fn report_error<K>(event: &Result<watcher::Event<K>, watcher::Error>, kind: &str, metrics: &Metrics) {
    if let Err(error) = event {
        metrics.watch_failed();
        tracing::warn!(kind, %error, "watch failed, restarting it");
    }
}

/// The `McpOAuthProxy` that is the controller owner of an object.
fn owner(metadata: &ObjectMeta) -> Option<ObjectRef<GuardedProxy>> {
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

    use super::super::{build, validate::tests::validated};
    use super::*;

    #[test]
    fn child_event_triggers_its_controller() {
        let metadata = build::metadata(&validated(&json!({})), "child");
        assert_eq!(owner(&metadata), Some(ObjectRef::new("mcp").within("gateway")));
    }

    #[test]
    fn foreign_object_event_triggers_nothing() {
        let mut metadata = build::metadata(&validated(&json!({})), "child");
        metadata.owner_references.as_mut().unwrap()[0].controller = None;
        assert_eq!(owner(&metadata), None);
        assert_eq!(owner(&ObjectMeta::default()), None);
    }
}
