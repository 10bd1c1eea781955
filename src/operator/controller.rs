use std::{
    collections::HashSet,
    future,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::StreamExt;
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
    conditions::Findings,
    credentials,
    error::Error,
    health::Health,
    metrics::Metrics,
    pods,
    status::{self, McpOAuthProxyRef},
    unread::Unread,
    validate::{ValidatedProxy, validate},
    watch,
};
use crate::api::McpOAuthProxy;

/// How often pods are asked for what only they know.
const ASK_PODS: Duration = Duration::from_secs(30);

/// A settled resource is looked at again after this time, and up to a third more, whatever the watches say: Secrets are not
/// watched.
const SAFETY_NET: Duration = Duration::from_secs(15 * 60);

/// Our own writes come back as events of children: those of one moment are one reason to look.
const DEBOUNCE: Duration = Duration::from_millis(200);

/// A pass takes far less than a second. kube's requests have no time limit of their own, and one to an API server that went
/// away without a word would never end.
const PASS_TIMEOUT: Duration = Duration::from_secs(60);

/// What every pass needs.
struct Context {
    client: Client,
    settings: Settings,
    backoff: Backoff,
    metrics: Arc<Metrics>,
    recorder: Recorder,
}

/// Runs the controller until `shutdown`; passes that have begun are finished.
///
/// # Errors
/// When there is no cluster to be found, or the health port cannot be opened.
pub async fn run(options: Options, shutdown: CancellationToken) -> Result<(), Error> {
    let config =
        kube::Config::infer().await.map_err(|error| Error::Config(Box::new(kube::Error::InferConfig(error))))?;
    let client = Client::try_from(config).map_err(|error| Error::Config(Box::new(error)))?;
    let metrics = Arc::new(Metrics::default());
    let health = Arc::new(Health::new(metrics.clone()));
    health.clone().serve(options.health_listen)?;

    let (store, writer) = reflector::store::<Unread>();
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
            tracing::info!("asked to stop: finishing what has begun");
        })
        .run(reconcile, retry, context.clone())
        .for_each(|result| {
            if let Err(controller::Error::ObjectNotFound(_)) = result {
                let left: HashSet<String> = all.state().iter().filter_map(|object| object.meta().uid.clone()).collect();
                context.backoff.keep(|uid| left.contains(uid));
            }
            future::ready(())
        })
        .await;
    tracing::info!("stopped");
    Ok(())
}

/// One pass, timed.
async fn reconcile(object: Arc<Unread>, context: Arc<Context>) -> Result<Action, Error> {
    let start = Instant::now();
    let result = tokio::time::timeout(PASS_TIMEOUT, pass(&object, &context)).await.unwrap_or(Err(Error::Timeout));
    context.metrics.reconciled(start.elapsed());
    result
}

/// validate -> build -> apply -> report
async fn pass(object: &Unread, context: &Context) -> Result<Action, Error> {
    // Owner references take the children along; whoever applies them now brings them back to life.
    if object.meta().deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let proxy = match object.read() {
        Ok(proxy) => validate(&proxy, &context.settings).map_err(|error| error.to_string()),
        Err(error) => Err(format!("this version of the operator cannot read the resource: {error}")),
    };
    let proxy = match proxy {
        Ok(proxy) => proxy,
        Err(message) => {
            report(object, &Findings::invalid(&message), context).await?;
            return Ok(Action::await_change());
        }
    };

    let found = match settle(&proxy, context).await {
        Ok(findings) => findings,
        Err(error) => {
            if let Some(message) = error.refusal() {
                report(object, &Findings::invalid(&message), context).await?;
                // The same again would be refused again.
                context.metrics.failed(error.category());
                return Ok(Action::requeue(later(object)));
            }
            if let Some(message) = error.forbidden() {
                report(object, &Findings::forbidden(&message), context).await?;
            }
            return Err(error);
        }
    };
    report(object, &found, context).await?;

    if found.needs_another_look() {
        return Ok(Action::requeue(next(object, context)));
    }
    context.backoff.forget(object.meta().uid.as_deref().unwrap_or_default());
    // Nothing tells us when a pod has something else to say.
    let asks_pods = proxy.config.identity_provider.rechecks();
    Ok(Action::requeue(if asks_pods { later(object).min(ASK_PODS) } else { later(object) }))
}

/// build -> apply
async fn settle(proxy: &ValidatedProxy, context: &Context) -> Result<Findings, Error> {
    let children = build(proxy)?;
    let credentials = credentials::look(&context.client, proxy).await?;
    let applied = apply(&context.client, proxy, &children, &credentials).await?;
    let pods = pods::ask(&context.client, proxy).await;
    Ok(Findings::of(proxy, &credentials, &applied, &pods))
}

/// Writes the status, and an event when `Ready` has another reason than before.
async fn report(object: &Unread, findings: &Findings, context: &Context) -> Result<(), Error> {
    let meta = object.meta();
    let reference = McpOAuthProxyRef {
        namespace: object.namespace().unwrap_or_default(),
        name: object.name_any(),
        uid: meta.uid.clone(),
        generation: meta.generation,
    };
    if !status::update(&context.client, &reference, findings).await? {
        return Ok(());
    }
    let (ready, reason, message) = findings.summary();
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
    // Nobody's login depends on an event.
    if let Err(error) = context.recorder.publish(&event, &regarding.into()).await {
        tracing::debug!(%error, "an event was not written");
    }
    Ok(())
}

/// When to look again at what is not finished.
fn next(object: &Unread, context: &Context) -> Duration {
    let meta = object.meta();
    context.backoff.next(meta.uid.as_deref().unwrap_or_default(), meta.generation, Instant::now())
}

/// When to look again at what is finished: not at all resources in the same moment.
fn later(object: &Unread) -> Duration {
    let spread = object.meta().uid.as_deref().unwrap_or_default().bytes().fold(0_u8, u8::wrapping_add);
    SAFETY_NET + SAFETY_NET * u32::from(spread) / (3 * 256)
}

#[expect(clippy::needless_pass_by_value, reason = "the signature is kube's")]
fn retry(object: Arc<Unread>, error: &Error, context: Arc<Context>) -> Action {
    context.metrics.failed(error.category());
    let wait = next(&object, &context);
    tracing::warn!(namespace = object.namespace(), name = object.name_any(), %error, ?wait, "a pass failed and is repeated");
    Action::requeue(wait)
}
