use std::{
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
use tokio::signal::unix::{SignalKind, signal};

use super::{
    FIELD_MANAGER, Options, Settings,
    apply::apply,
    backoff::Backoff,
    build::build,
    credentials,
    error::Error,
    health::Health,
    metrics::Metrics,
    status::{self, Findings, McpOAuthProxyRef},
    validate::validate,
    watch::{self, Guarded},
};
use crate::api::McpOAuthProxy;

/// A settled resource is looked at again after this time, whatever the watches say: Secrets are not watched.
const SAFETY_NET: Duration = Duration::from_secs(15 * 60);

/// What every pass needs.
struct Context {
    client: Client,
    settings: Settings,
    backoff: Backoff,
    metrics: Arc<Metrics>,
    recorder: Recorder,
}

/// Runs the controller until a signal ends it; passes that have begun are finished.
///
/// # Errors
/// When there is no cluster to be found, or the health port cannot be opened.
pub async fn run(options: Options) -> Result<(), Error> {
    let config =
        kube::Config::infer().await.map_err(|error| Error::Config(Box::new(kube::Error::InferConfig(error))))?;
    let client = Client::try_from(config).map_err(|error| Error::Config(Box::new(error)))?;
    let metrics = Arc::new(Metrics::default());
    let health = Arc::new(Health::new(metrics.clone()));
    health.clone().serve(options.health_listen).await?;

    let (store, writer) = reflector::store();
    let context = Arc::new(Context {
        recorder: Recorder::new(client.clone(), Reporter { controller: FIELD_MANAGER.into(), instance: None }),
        client: client.clone(),
        settings: options.settings,
        backoff: Backoff::default(),
        metrics: metrics.clone(),
    });
    tracing::info!(health = %options.health_listen, "watching McpOAuthProxy resources in all namespaces");
    Controller::for_stream(watch::proxies(&client, writer, health), store)
        .with_config(controller::Config::default().concurrency(options.concurrency))
        .reconcile_on(watch::children(&client, &metrics))
        .graceful_shutdown_on(shutdown()?)
        .run(reconcile, retry, context.clone())
        .for_each(|result| {
            if let Err(controller::Error::ObjectNotFound(object)) = result {
                context.backoff.forget(&object.name, object.namespace.as_deref());
            }
            future::ready(())
        })
        .await;
    tracing::info!("stopped");
    Ok(())
}

/// Done when the process is asked to end.
fn shutdown() -> Result<impl Future<Output = ()> + Send + Sync + 'static, Error> {
    let mut terminate = signal(SignalKind::terminate()).map_err(Error::Signal)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::Signal)?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("asked to stop: finishing what has begun");
    })
}

/// One pass, timed.
async fn reconcile(object: Arc<Guarded>, context: Arc<Context>) -> Result<Action, Error> {
    let start = Instant::now();
    let result = pass(&object, &context).await;
    context.metrics.reconciled(start.elapsed());
    result
}

/// validate -> build -> apply -> report
async fn pass(object: &Guarded, context: &Context) -> Result<Action, Error> {
    // Owner references take the children along; whoever applies them now brings them back to life.
    if object.meta().deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let proxy = match &object.0 {
        Ok(proxy) => validate(proxy, &context.settings).map_err(|error| error.to_string()),
        Err(unreadable) => Err(format!("this version of the operator cannot read the resource: {}", unreadable.error)),
    };
    let proxy = match proxy {
        Ok(proxy) => proxy,
        Err(message) => {
            report(object, &Findings::invalid(&message), context).await?;
            return Ok(Action::await_change());
        }
    };

    let children = build(&proxy)?;
    let credentials = credentials::look(&context.client, &proxy).await?;
    let applied = match apply(&context.client, &proxy, &children, &credentials).await {
        Ok(applied) => applied,
        Err(error) => {
            let findings = match (error.refusal(), error.forbidden()) {
                (Some(message), _) => Findings::invalid(&message),
                (_, Some(message)) => Findings::forbidden(&message),
                _ => return Err(error),
            };
            report(object, &findings, context).await?;
            return Err(error);
        }
    };
    let findings = Findings::of(&proxy, &credentials, &applied);
    report(object, &findings, context).await?;

    if findings.needs_another_look() {
        return Ok(Action::requeue(next(object, context)));
    }
    context.backoff.forget(&object.name_any(), object.namespace().as_deref());
    Ok(Action::requeue(SAFETY_NET))
}

/// Writes the status, and an event when `Ready` has another reason than before.
async fn report(object: &Guarded, findings: &Findings, context: &Context) -> Result<(), Error> {
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

fn next(object: &Guarded, context: &Context) -> Duration {
    context.backoff.next(&object.name_any(), object.namespace().as_deref())
}

#[expect(clippy::needless_pass_by_value, reason = "the signature is kube's")]
fn retry(object: Arc<Guarded>, error: &Error, context: Arc<Context>) -> Action {
    context.metrics.failed(error.category());
    let wait = next(&object, &context);
    tracing::warn!(namespace = object.namespace(), name = object.name_any(), %error, ?wait, "a pass failed and is repeated");
    Action::requeue(wait)
}
