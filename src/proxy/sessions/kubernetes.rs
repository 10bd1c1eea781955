mod deadline;
mod watch;

use std::{
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures::stream::BoxStream;
use http::{Request, Response};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, ListParams, PartialObjectMeta, Patch, PatchParams, PostParams, Preconditions},
    client::{self, ClientBuilder, DynBody},
    core::PartialObjectMetaExt,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use serde_json::json;
use tower::{service_fn, util::MapResponseLayer};

use self::deadline::DeadlineBody;
use super::{Deletion, SessionEvent, SessionFilter, SessionStore, StoreError, Stored};
use crate::api::{McpOAuthProxy, McpOAuthSession};
use crate::session::{RecordKeys, Session, SessionId};

/// Timeout of one API call; after it the client gets a 503 and retries.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// Deadline for a whole response body of the API server. It is longer than a watch lasts: a watch still open by then is
/// stalled or lagging and is closed even if data arrives. All sessions are listed again then, so that an ended session is
/// admitted for at most 15 s while the API server is reachable.
const RESPONSE_DEADLINE: Duration = Duration::from_secs(12);

/// Objects in one page of a list.
const PAGE: u32 = 500;

/// Stores sessions as `McpOAuthSession` objects, for any number of replicas.
#[derive(Clone)]
pub struct KubernetesStore {
    api: Api<McpOAuthSession>,
    /// Used by the watch alone; successful responses update `contact`.
    watched: Api<McpOAuthSession>,
    keys: RecordKeys,
    /// The `McpOAuthProxy` that the sessions belong to and are deleted with.
    owner: PartialObjectMeta<McpOAuthProxy>,
    recorder: Recorder,
    /// Unix time in seconds of the watch's last response. The watch is renewed often, so this stays recent.
    contact: Arc<AtomicI64>,
}

impl KubernetesStore {
    /// Connects to the API server of the current cluster or kubeconfig, for the sessions of the `McpOAuthProxy` `proxy`.
    pub async fn connect(keys: RecordKeys, namespace: &str, proxy: &str, uid: &str) -> kube::Result<Self> {
        let config = kube::Config::infer().await.map_err(kube::Error::InferConfig)?;
        Self::at(config, keys, namespace, proxy, uid)
    }

    fn at(mut config: kube::Config, keys: RecordKeys, namespace: &str, proxy: &str, uid: &str) -> kube::Result<Self> {
        // kube would retry a write whose response was lost, and its first attempt would look like a concurrent write.
        config.default_retry = false;
        config.read_timeout = Some(RESPONSE_DEADLINE);
        let timed = MapResponseLayer::new(|response: Response<Box<DynBody>>| {
            response.map(|body| DeadlineBody::new(body, RESPONSE_DEADLINE))
        });
        let client = ClientBuilder::try_from(config)?.with_layer(&timed).build();
        let contact = Arc::new(AtomicI64::default());
        let watching = recording_contact(client.clone(), contact.clone(), namespace);
        let reporter =
            Reporter { controller: "mcp-oauth-operator/proxy".to_owned(), instance: std::env::var("HOSTNAME").ok() };
        let owner = ObjectMeta {
            namespace: Some(namespace.to_owned()),
            name: Some(proxy.to_owned()),
            uid: Some(uid.to_owned()),
            ..ObjectMeta::default()
        };
        Ok(Self {
            api: Api::namespaced(client.clone(), namespace),
            watched: Api::namespaced(watching, namespace),
            keys,
            owner: owner.into_request_partial(),
            recorder: Recorder::new(client, reporter),
            contact,
        })
    }

    /// `None` if the object's name is no session id; the session is `None` if it has ended or does not verify.
    fn decode(&self, object: &McpOAuthSession) -> Option<(SessionId, Option<Session>)> {
        let id = SessionId::from_str(object.metadata.name.as_deref()?).ok()?;
        let owned =
            object.owner_references().iter().any(|reference| Some(&reference.uid) == self.owner.metadata.uid.as_ref());
        let live = owned && object.metadata.deletion_timestamp.is_none();
        Some((id, live.then(|| self.keys.session(id, &object.spec)).flatten()))
    }

    /// Deletes the object with this UID and, if given, this `version`. Returns whether it did.
    async fn delete(&self, name: &str, uid: Option<String>, version: Option<String>) -> Result<bool, StoreError> {
        let parameters = DeleteParams {
            preconditions: Some(Preconditions { uid, resource_version: version }),
            ..DeleteParams::default()
        };
        match in_time(self.api.delete(name, &parameters)).await? {
            Ok(_) => Ok(true),
            Err(error) if is_status(&error, 404) || is_status(&error, 409) => Ok(false),
            Err(error) => Err(failed(error)),
        }
    }

    async fn publish(&self, id: SessionId, reason: &str) -> Result<(), StoreError> {
        let event = Event {
            type_: EventType::Warning,
            reason: "SessionEnded".to_owned(),
            note: Some(format!("session {id}: {reason}")),
            action: "EndSession".to_owned(),
            secondary: None,
        };
        if let Err(error) = in_time(self.recorder.publish(&event, &self.owner.object_ref(&()))).await? {
            tracing::warn!(%error, "publishing the Kubernetes event failed");
        }
        Ok(())
    }
}

/// A client that records the time of each successful response in `contact`.
fn recording_contact(client: Client, contact: Arc<AtomicI64>, namespace: &str) -> Client {
    let service = service_fn(move |request: Request<client::Body>| {
        let (client, contact) = (client.clone(), contact.clone());
        async move {
            let response = client.send(request).await?;
            if response.status().is_success() {
                contact.store(Timestamp::now().as_second(), Ordering::Relaxed);
            }
            Ok::<_, kube::Error>(response)
        }
    });
    Client::new(service, namespace)
}

async fn in_time<T>(call: impl Future<Output = kube::Result<T>>) -> Result<kube::Result<T>, StoreError> {
    tokio::time::timeout(CALL_TIMEOUT, call).await.map_err(StoreError::unavailable)
}

fn failed(error: kube::Error) -> StoreError {
    match error {
        kube::Error::Api(status) if matches!(status.code, 400 | 422) => StoreError::Refused(status.message.clone()),
        other => StoreError::unavailable(other),
    }
}

fn is_status(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}

#[async_trait]
impl SessionStore for KubernetesStore {
    async fn create(&self, session: &Session) -> Result<(), StoreError> {
        // Thousands of sessions must not block the deletion of their proxy.
        let block_owner_deletion = Some(false);
        let owner = self.owner.owner_ref(&()).map(|owner| vec![OwnerReference { block_owner_deletion, ..owner }]);
        let object = McpOAuthSession {
            metadata: ObjectMeta {
                name: Some(session.id.to_string()),
                owner_references: owner,
                ..ObjectMeta::default()
            },
            spec: self.keys.record(session),
        };
        match in_time(self.api.create(&PostParams::default(), &object)).await? {
            Ok(_) => Ok(()),
            Err(error) if is_status(&error, 409) => Err(StoreError::Exists),
            Err(error) => Err(failed(error)),
        }
    }

    async fn get(&self, id: SessionId) -> Result<Option<Stored>, StoreError> {
        let Some(object) = in_time(self.api.get_opt(&id.to_string())).await?.map_err(failed)? else {
            return Ok(None);
        };
        let session = self.decode(&object).and_then(|(_, session)| session);
        Ok(session.map(|session| Stored {
            session,
            version: object.resource_version().unwrap_or_default(),
            uid: object.uid().unwrap_or_default(),
        }))
    }

    async fn replace(&self, old: &Stored, new: &Session) -> Result<(), StoreError> {
        let record = self.keys.record(new);
        // Only the fields that change, so that a field added by a newer replica is kept.
        let patch = json!({
            "metadata": {"resourceVersion": old.version, "uid": old.uid},
            "spec": {
                "phase": record.phase,
                "rotation": record.generation,
                "rotatedAt": record.rotated_at,
                "expiresAt": record.expires_at,
                // Absent values are null, which removes the field in a merge patch.
                "claims": {
                    "hostedDomain": record.claims.hosted_domain,
                    "emailVerified": record.claims.email_verified,
                    "groups": record.claims.groups,
                },
                "upstreamToken": record.issuer_refresh_token,
                "leasedUntil": record.leased_until,
                "mac": record.mac,
            },
        });
        match in_time(self.api.patch(&new.id.to_string(), &PatchParams::default(), &Patch::Merge(patch))).await? {
            Ok(_) => Ok(()),
            Err(error) if is_status(&error, 409) || is_status(&error, 404) => Err(StoreError::Conflict),
            Err(error) => Err(failed(error)),
        }
    }

    async fn end(&self, stored: &Stored, deletion: Deletion<'_>) -> Result<bool, StoreError> {
        let id = stored.session.id;
        let version = matches!(deletion, Deletion::IfUnchanged).then(|| stored.version.clone());
        let deleted = self.delete(&id.to_string(), Some(stored.uid.clone()), version).await?;
        if let (true, Deletion::WithEvent(reason)) = (deleted, deletion) {
            self.publish(id, reason).await?;
        }
        Ok(deleted)
    }

    async fn purge(
        &self,
        now: Timestamp,
        max_ttl: SignedDuration,
        must_end: SessionFilter<'_>,
    ) -> Result<(), StoreError> {
        let first = ListParams::default().fields(&format!("spec.proxy={}", self.owner.name_any())).limit(PAGE);
        let mut page = first.clone();
        loop {
            let list = in_time(self.api.list(&page)).await?.map_err(failed)?;
            for object in &list.items {
                let session = self.decode(object).and_then(|(_, session)| session);
                if session.as_ref().is_some_and(must_end) || RecordKeys::is_expired(&object.spec, now, max_ttl) {
                    self.delete(&object.name_any(), object.uid(), object.resource_version()).await?;
                }
            }
            match list.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => page = first.clone().continue_token(&token),
                None => return Ok(()),
            }
        }
    }

    fn last_contact(&self) -> i64 {
        self.contact.load(Ordering::Relaxed)
    }

    fn watch(&self) -> BoxStream<'static, SessionEvent> {
        watch::watch(self.clone())
    }
}

#[cfg(test)]
mod tests {
    use std::{future::ready, sync::Mutex};

    use axum::{Json, Router, body::Bytes};
    use futures::StreamExt;
    use http::{Method, Uri};
    use k8s_openapi::api::core::v1::Namespace;
    use kube::Client;
    use serde_json::{Value, json};
    use tokio::net::TcpListener;

    use super::super::store::contract;
    use super::*;
    use crate::testing::{record_keys, session};

    /// An API server that stores one session and never deletes it.
    async fn api_server() -> kube::Config {
        let kept = Arc::new(Mutex::new(Value::Null));
        let answer = move |method: Method, uri: Uri, body: Bytes| {
            let mut object = kept.lock().unwrap();
            if method == Method::POST {
                *object = serde_json::from_slice(&body).unwrap();
            }
            let is_list = method == Method::GET && uri.path().ends_with(&*McpOAuthSession::plural(&()));
            let list = json!({"metadata": {"resourceVersion": "1"}, "items": [*object]});
            ready(Json(if is_list { list } else { object.clone() }))
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async { axum::serve(listener, Router::new().fallback(answer)).await });
        kube::Config::new(format!("http://{address}").parse().unwrap())
    }

    #[tokio::test]
    async fn only_watch_and_list_responses_count_as_contact() {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let store = KubernetesStore::at(api_server().await, record_keys(), "namespace", "mcp", "uid").unwrap();
        let session = session("a");
        store.create(&session).await.unwrap();
        let stored = store.get(session.id).await.unwrap().unwrap();
        store.replace(&stored, &session).await.unwrap();
        assert!(store.end(&stored, Deletion::Unconditional).await.unwrap());
        store.purge(session.created_at, SignedDuration::from_hours(1), &|_| false).await.unwrap();
        assert_eq!(store.last_contact(), 0);
        assert_eq!(store.watch().next().await, Some(SessionEvent::All(vec![session])));
        assert!(store.last_contact() > 0);
    }

    #[tokio::test]
    #[ignore = "needs an API server with our CRDs: `make test` brings one and runs it"]
    async fn kubernetes_store_passes_the_contract() {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let client = Client::try_default().await.unwrap();
        let namespace = format!("store-contract-{}", std::process::id());
        let namespaces: Api<Namespace> = Api::all(client.clone());
        let new = serde_json::from_value(json!({"metadata": {"name": namespace}})).unwrap();
        namespaces.create(&PostParams::default(), &new).await.unwrap();
        // Without an owner, the garbage collector would delete the sessions.
        let proxies: Api<McpOAuthProxy> = Api::namespaced(client.clone(), &namespace);
        let proxy = serde_json::from_value(json!({
            "metadata": {"name": "mcp"},
            "spec": {
                "publicURL": "https://mcp.example.com",
                "identityProvider": {"issuerURL": "https://accounts.google.com"},
                "credentials": {"secretRef": {"name": "mcp"}},
                "access": {"policy": "AnyUser"},
                "upstream": {"url": "http://upstream"},
                "replicas": 0,
            },
        }))
        .unwrap();
        let uid = proxies.create(&PostParams::default(), &proxy).await.unwrap().uid().unwrap();
        let store = KubernetesStore::connect(record_keys(), &namespace, "mcp", &uid).await.unwrap();
        contract::run(Arc::new(store)).await;
        namespaces.delete(&namespace, &DeleteParams::default()).await.unwrap();
    }
}
