//! The behaviour of the real operator for a `OnePasswordItem`, including its quirks.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail};
use futures::StreamExt;
use k8s_openapi::{
    ByteString,
    api::core::v1::Secret,
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    apimachinery::pkg::apis::meta::v1::{OwnerReference, Time},
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{ApiResource, DynamicObject, GroupVersionKind, ListParams, ObjectMeta, Patch, PatchParams, PostParams},
    runtime::{
        Controller,
        conditions::is_crd_established,
        controller::Action,
        finalizer::{Event, finalizer},
        wait::await_condition,
        watcher,
    },
};
use serde_json::json;
use tokio::time::interval;

use super::items::{Item, read};

const CRD: &str = include_str!("crd.yaml");
const FINALIZER: &str = "onepassword.com/finalizer.secret";
const PATH: &str = "operator.1password.io/item-path";
const VERSION: &str = "operator.1password.io/item-version";
const AUTO_RESTART: &str = "operator.1password.io/auto-restart";
/// The real operator polls every 600 s.
const POLL: Duration = Duration::from_secs(1);

struct Shared {
    client: Client,
    resource: ApiResource,
    items: PathBuf,
}

/// kube requires `std::error::Error`, which [`anyhow::Error`] does not implement.
#[derive(Debug)]
struct ReconcileError(anyhow::Error);

impl std::fmt::Display for ReconcileError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{:#}", self.0)
    }
}

impl std::error::Error for ReconcileError {}

/// Installs the CRD, creates the file `ready`, and runs until the process is killed.
pub async fn serve(client: Client, items: PathBuf, ready: &Path) -> Result<()> {
    let crd: CustomResourceDefinition = serde_yaml::from_str(CRD)?;
    let crds = Api::<CustomResourceDefinition>::all(client.clone());
    crds.patch(&crd.name_any(), &PatchParams::apply("one-password").force(), &Patch::Apply(&crd)).await?;
    await_condition(crds, &crd.name_any(), is_crd_established()).await?;
    std::fs::write(ready, "")?;

    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("onepassword.com", "v1", "OnePasswordItem"));
    let shared = Arc::new(Shared { client: client.clone(), resource: resource.clone(), items });
    tokio::spawn(poll(shared.clone()));
    // Secrets are not watched: a deleted one is recreated only when its item object changes.
    Controller::new_with(Api::all_with(client, &resource), watcher::Config::default(), resource)
        .run(reconcile, |_, _, _| Action::requeue(POLL), shared)
        .for_each(async |result| {
            if let Err(error) = result {
                println!("{error}");
            }
        })
        .await;
    Ok(())
}

/// Copies changed items into existing Secrets.
async fn poll(shared: Arc<Shared>) {
    let mut ticks = interval(POLL);
    loop {
        ticks.tick().await;
        if let Err(error) = poll_once(&shared).await {
            println!("poll: {error:#}");
        }
    }
}

async fn poll_once(shared: &Shared) -> Result<()> {
    let items = read(&shared.items)?;
    for secret in Api::<Secret>::all(shared.client.clone()).list(&ListParams::default()).await? {
        let annotations = secret.annotations();
        let Some(item) = annotations.get(PATH).and_then(|path| items.get(path)) else { continue };
        if annotations.get(VERSION).is_some_and(|version| *version != item.version.to_string()) {
            let api = Api::<Secret>::namespaced(shared.client.clone(), &secret.namespace().unwrap_or_default());
            let mut new = secret.clone();
            new.annotations_mut().insert(VERSION.to_owned(), item.version.to_string());
            new.data = Some(data(item));
            api.replace(&secret.name_any(), &PostParams::default(), &new).await?;
        }
    }
    Ok(())
}

async fn reconcile(object: Arc<DynamicObject>, shared: Arc<Shared>) -> Result<Action, ReconcileError> {
    let namespace = object.namespace().unwrap_or_default();
    let api = Api::<DynamicObject>::namespaced_with(shared.client.clone(), &namespace, &shared.resource);
    let done = finalizer(&api, FINALIZER, object, async |event| {
        let done = match event {
            Event::Apply(object) => apply(&shared, &api, &object).await,
            Event::Cleanup(object) => clean_up(&shared, &object).await,
        };
        done.map_err(ReconcileError)
    });
    done.await.map_err(|error| ReconcileError(error.into()))
}

async fn apply(shared: &Shared, api: &Api<DynamicObject>, object: &DynamicObject) -> Result<Action> {
    let result = create_or_update_secret(shared, object).await;
    let (status, message) = match &result {
        Ok(()) => ("True", String::new()),
        Err(error) => ("False", format!("{error:#}")),
    };
    let known = &object.data["status"]["conditions"][0];
    if known["status"] != json!(status) || known["message"] != json!(message) {
        let condition = json!({"type": "Ready", "status": status, "message": message, "lastTransitionTime": now()});
        let patch = json!({"status": {"conditions": [condition]}});
        api.patch_status(&object.name_any(), &PatchParams::default(), &Patch::Merge(&patch)).await?;
    }
    result.map(|()| Action::await_change())
}

fn now() -> Time {
    Time(k8s_openapi::jiff::Timestamp::now())
}

async fn create_or_update_secret(shared: &Shared, object: &DynamicObject) -> Result<()> {
    let path = object.data["spec"]["itemPath"].as_str().unwrap_or_default();
    let parts: Vec<&str> = path.split('/').collect();
    if !matches!(parts[..], ["vaults", _, "items", _]) {
        bail!("failed to retrieve item: {path:?} is not an acceptable path for One Password");
    }
    let items = read(&shared.items)?;
    let item = items.get(path).with_context(|| format!("failed to retrieve item: no item found at {path}"))?;
    let mut annotations =
        BTreeMap::from([(PATH.to_owned(), path.to_owned()), (VERSION.to_owned(), item.version.to_string())]);
    if let Some(restart) = object.annotations().get(AUTO_RESTART) {
        annotations.insert(AUTO_RESTART.to_owned(), restart.clone());
    }
    let kind = object.data["type"].as_str().unwrap_or("Opaque");
    let wanted = Secret {
        metadata: ObjectMeta {
            name: Some(object.name_any()),
            namespace: object.namespace(),
            labels: object.metadata.labels.clone(),
            annotations: Some(annotations),
            owner_references: Some(vec![owner(object, &shared.resource)?]),
            ..ObjectMeta::default()
        },
        data: Some(data(item)),
        type_: Some(kind.to_owned()),
        ..Secret::default()
    };
    let api = Api::<Secret>::namespaced(shared.client.clone(), &object.namespace().unwrap_or_default());
    let Some(found) = api.get_opt(&object.name_any()).await? else {
        api.create(&PostParams::default(), &wanted).await?;
        return Ok(());
    };
    if found.type_.as_deref().unwrap_or("Opaque") != kind {
        bail!("cannot change secret type");
    }
    // Like the real operator: ignores changes of the data alone, replaces all labels and annotations, and sets the
    // owner only at creation.
    if found.metadata.annotations != wanted.metadata.annotations || found.labels() != wanted.labels() {
        let mut new = found.clone();
        new.metadata.labels = wanted.metadata.labels;
        new.metadata.annotations = wanted.metadata.annotations;
        new.data = wanted.data;
        api.replace(&object.name_any(), &PostParams::default(), &new).await?;
    }
    Ok(())
}

async fn clean_up(shared: &Shared, object: &DynamicObject) -> Result<Action> {
    let api = Api::<Secret>::namespaced(shared.client.clone(), &object.namespace().unwrap_or_default());
    match api.delete(&object.name_any(), &kube::api::DeleteParams::default()).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(Action::await_change()),
        other => Ok(other.map(|_| Action::await_change())?),
    }
}

/// The real operator does not set `controller`.
fn owner(object: &DynamicObject, resource: &ApiResource) -> Result<OwnerReference> {
    Ok(OwnerReference {
        controller: None,
        ..object.owner_ref(resource).ok_or_else(|| anyhow!("the object has no uid"))?
    })
}

/// The Secret's data: labels become keys, with a dash for each run of invalid characters; empty values are left out.
fn data(item: &Item) -> BTreeMap<String, ByteString> {
    let filled = item.fields.iter().filter(|(_, value)| !value.is_empty());
    filled.map(|(label, value)| (key(label), ByteString(value.clone().into_bytes()))).collect()
}

fn key(label: &str) -> String {
    let mut key = String::new();
    for character in label.chars() {
        if character.is_ascii_alphanumeric() || matches!(character, '-' | '_' | '.') {
            key.push(character);
        } else if !key.ends_with('-') {
            key.push('-');
        }
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn item_label_becomes_a_secret_key() {
        assert_eq!(key("OAUTH_CLIENT_ID"), "OAUTH_CLIENT_ID");
        assert_eq!(key("client  id (new)"), "client-id-new-");
    }

    #[test]
    fn one_password_crd_is_valid() {
        serde_yaml::from_str::<CustomResourceDefinition>(CRD).unwrap();
    }
}
