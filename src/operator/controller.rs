use std::{
    collections::HashSet,
    future,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::StreamExt;
use jiff::Timestamp;
use kube::{
    Client, Resource, ResourceExt,
    runtime::{
        Controller,
        controller::{self, Action},
        events::{Event, EventType, Recorder, Reporter},
        reflector::{self, ObjectRef},
    },
};
use tokio_util::sync::CancellationToken;

use super::{
    FIELD_MANAGER, Options, Settings,
    apply::apply,
    backoff::Backoff,
    build::build,
    conditions::ObservedState,
    error::Error,
    fetch::fetch,
    health::Health,
    metrics::Metrics,
    status::{self, McpOAuthProxyRef},
    validate::{ValidatedProxy, validate},
    watch::{self, GuardedProxy},
};
use crate::api::McpOAuthProxy;

/// How often pods are queried for what only they know.
const POD_QUERY_INTERVAL: Duration = Duration::from_secs(30);

/// A settled resource is reconciled again after this time and up to a third more, without any event: Secrets are not
/// watched.
const RESYNC_INTERVAL: Duration = Duration::from_secs(15 * 60);

/// Our own writes return as events of children; those of one moment trigger one reconcile.
const DEBOUNCE: Duration = Duration::from_millis(200);

/// A reconcile takes far less than a second. kube's requests have no deadline, so one to an API server that disappeared
/// without closing the connection would never end.
const RECONCILE_TIMEOUT: Duration = Duration::from_secs(60);

struct Context {
    client: Client,
    settings: Settings,
    backoff: Backoff,
    metrics: Arc<Metrics>,
    recorder: Recorder,
}

/// Runs the controller until `shutdown`; reconciles in progress are finished.
///
/// # Errors
/// When there is no cluster configuration, or the health port cannot be opened.
pub async fn run(options: Options, shutdown: CancellationToken) -> Result<(), Error> {
    let config =
        kube::Config::infer().await.map_err(|error| Error::Config(Box::new(kube::Error::InferConfig(error))))?;
    let client = Client::try_from(config).map_err(|error| Error::Config(Box::new(error)))?;
    let metrics = Arc::new(Metrics::default());
    let health = Arc::new(Health::new(metrics.clone()));
    health.clone().serve(options.health_listen)?;

    let (store, writer) = reflector::store::<GuardedProxy>();
    let all = store.clone();
    let context = Arc::new(Context {
        recorder: Recorder::new(client.clone(), Reporter { controller: FIELD_MANAGER.into(), instance: None }),
        client: client.clone(),
        settings: options.settings,
        backoff: Backoff::default(),
        metrics: metrics.clone(),
    });
    tracing::info!(health = %options.health_listen, "watching McpOAuthProxy resources in all namespaces");
    Controller::for_stream(watch::proxies(&client, writer, health), store)
        .with_config(controller::Config::default().concurrency(options.concurrency).debounce(DEBOUNCE))
        .reconcile_on(watch::children(&client, &metrics))
        .graceful_shutdown_on(async move {
            shutdown.cancelled().await;
            tracing::info!("shutting down: finishing the reconciles in progress");
        })
        .run(reconcile, retry, context.clone())
        .for_each(|result| {
            if let Err(controller::Error::ObjectNotFound(_)) = result {
                let existing: HashSet<String> =
                    all.state().iter().filter_map(|object| object.meta().uid.clone()).collect();
                context.backoff.retain(|uid| existing.contains(uid));
            }
            future::ready(())
        })
        .await;
    tracing::info!("stopped");
    Ok(())
}

/// Runs one reconcile with a deadline and measures its duration.
async fn reconcile(object: Arc<GuardedProxy>, context: Arc<Context>) -> Result<Action, Error> {
    let start = Instant::now();
    let deadline = tokio::time::timeout(RECONCILE_TIMEOUT, reconcile_resource(&object, &context));
    let result = deadline.await.unwrap_or(Err(Error::Timeout));
    context.metrics.reconciled(start.elapsed());
    result
}

/// validate -> fetch -> build -> apply -> `update_status`
async fn reconcile_resource(object: &GuardedProxy, context: &Context) -> Result<Action, Error> {
    // The garbage collector deletes the children; applying them now would recreate them.
    if object.meta().deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let proxy = match parse(object, &context.settings) {
        Ok(proxy) => proxy,
        Err(message) => {
            update_status(object, &ObservedState::invalid(&message), context).await?;
            return Ok(Action::await_change());
        }
    };
    let observed = match reconcile_children(&proxy, context).await {
        Ok(observed) => observed,
        Err(error) => return report_failure(object, error, context).await,
    };
    update_status(object, &observed, context).await?;
    Ok(next_action(object, &proxy, &observed, context))
}

/// Returns the validated resource, or the message for its status.
fn parse(object: &GuardedProxy, settings: &Settings) -> Result<ValidatedProxy, String> {
    match &object.0 {
        Ok(proxy) => validate(proxy, settings).map_err(|error| error.to_string()),
        Err(error) => Err(format!("this version of the operator cannot parse the resource: {error}")),
    }
}

/// fetch -> build -> apply
async fn reconcile_children(proxy: &ValidatedProxy, context: &Context) -> Result<ObservedState, Error> {
    let existing = fetch(&context.client, proxy).await?;
    let children = build(proxy, &existing.signing_keys, Timestamp::now())?;
    let applied = apply(&context.client, proxy, &children, &existing).await?;
    Ok(ObservedState::of(proxy, &existing.credentials, &applied, &existing.pods))
}

/// Reports an error that a user can fix in the status. Other errors are retried with backoff.
async fn report_failure(object: &GuardedProxy, error: Error, context: &Context) -> Result<Action, Error> {
    if let Some(message) = error.rejection() {
        update_status(object, &ObservedState::invalid(&message), context).await?;
        // The API server would reject the same children again.
        context.metrics.failed(error.category());
        return Ok(Action::requeue(resync_interval(object)));
    }
    if let Some(message) = error.forbidden() {
        update_status(object, &ObservedState::forbidden(&message), context).await?;
    }
    Err(error)
}

/// When to reconcile again if no watch event comes earlier.
fn next_action(object: &GuardedProxy, proxy: &ValidatedProxy, observed: &ObservedState, context: &Context) -> Action {
    if observed.needs_retry() {
        return Action::requeue(next_retry(object, context));
    }
    context.backoff.reset(object.meta().uid.as_deref().unwrap_or_default());
    let resync = resync_interval(object);
    // No watch covers what pods report.
    let queries_pods = proxy.config.identity_provider.rechecks();
    Action::requeue(if queries_pods { resync.min(POD_QUERY_INTERVAL) } else { resync })
}

/// Writes the status, and an event when the status or reason of `Ready` changes.
async fn update_status(object: &GuardedProxy, observed: &ObservedState, context: &Context) -> Result<(), Error> {
    let meta = object.meta();
    let reference = McpOAuthProxyRef {
        namespace: object.namespace().unwrap_or_default(),
        name: object.name_any(),
        uid: meta.uid.clone(),
        generation: meta.generation,
    };
    if !status::update(&context.client, &reference, observed).await? {
        return Ok(());
    }
    let (ready, reason, message) = observed.summary();
    tracing::info!(namespace = reference.namespace, name = reference.name, ready, reason, message, "status changed");
    let event = Event {
        type_: if ready { EventType::Normal } else { EventType::Warning },
        reason: reason.to_owned(),
        note: Some(message.to_owned()),
        action: "Reconcile".to_owned(),
        secondary: None,
    };
    let mut regarding = ObjectRef::<McpOAuthProxy>::new(&reference.name).within(&reference.namespace);
    regarding.extra.uid = reference.uid;
    // Events are informational: a failed write must not fail the reconcile.
    if let Err(error) = context.recorder.publish(&event, &regarding.into()).await {
        tracing::debug!(%error, "cannot write an event");
    }
    Ok(())
}

fn next_retry(object: &GuardedProxy, context: &Context) -> Duration {
    let meta = object.meta();
    context.backoff.next_delay(meta.uid.as_deref().unwrap_or_default(), meta.generation, Instant::now())
}

/// The resync interval of a settled resource, spread so that not all are due at once.
fn resync_interval(object: &GuardedProxy) -> Duration {
    let spread = object.meta().uid.as_deref().unwrap_or_default().bytes().fold(0_u8, u8::wrapping_add);
    RESYNC_INTERVAL + RESYNC_INTERVAL * u32::from(spread) / (3 * 256)
}

#[expect(clippy::needless_pass_by_value, reason = "the signature is kube's")]
fn retry(object: Arc<GuardedProxy>, error: &Error, context: Arc<Context>) -> Action {
    context.metrics.failed(error.category());
    let wait = next_retry(&object, &context);
    tracing::warn!(namespace = object.namespace(), name = object.name_any(), %error, ?wait, "reconcile failed, retrying");
    Action::requeue(wait)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::validate::tests::settings, *};

    #[test]
    fn unparsable_resource_keeps_its_metadata_and_is_explained() {
        for (spec, expected) in [
            (json!({"publicURL": 1}), "Expected a string"),
            (json!({"of": "another version"}), "Unknown field of"),
            (json!({"publicURL": "mcp.example.com"}), "publicURL must be https://HOST"),
        ] {
            let object = json!({
                "apiVersion": "mcp.jomcgi.dev/v1alpha1", "kind": "McpOAuthProxy", "metadata": {"name": "mcp"}, "spec": spec,
            });
            let object: GuardedProxy = serde_json::from_value(object).unwrap();
            assert_eq!(object.meta().name.as_deref(), Some("mcp"));
            let error = parse(&object, &settings()).err().unwrap();
            assert!(error.contains(expected), "{error}");
        }
    }
}
