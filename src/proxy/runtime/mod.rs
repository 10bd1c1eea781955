//! Builds a proxy from its configuration, runs it and shuts it down.

mod cleanup;
pub(crate) mod health;
pub(crate) mod proxy;
mod reload;
pub(crate) mod server;

use std::{
    net::{SocketAddr, TcpListener},
    sync::Arc,
};

use arc_swap::ArcSwap;
use futures::StreamExt;
use thiserror::Error;
use tokio::{runtime::Handle, task::JoinSet};
use tokio_util::sync::CancellationToken;

use self::{
    cleanup::clean_up,
    proxy::{Proxy, access_rules},
    reload::reload_secrets,
};
use super::{
    authorization_server::{AuthorizationServer, ClientDocuments, http},
    clock::wall_clock,
    identity_provider::{Issuer, http_client},
    observability::{
        audit,
        metrics::Metrics,
        traces::{TraceError, Tracer},
    },
    secrets::{EncryptionKey, Secrets, SecretsError},
    sessions::{
        Deletion, KubernetesStore, LiveSet, OpenError, SessionEvent, SessionStore, Sessions, SqliteStore, StoreError,
    },
};
use crate::{
    access::Verdict,
    config::{ProxyConfig, StoreConfig, UNREADY_BEFORE_DRAIN},
    end_reasons::SessionEndReason,
    listener,
    oauth::resource::Resources,
    session::{RecordKeys, Session, SessionId},
};

#[derive(Debug, Error)]
pub enum RunError {
    #[error(transparent)]
    Secrets(#[from] SecretsError),
    #[error("cannot listen on {address}: {source}")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("cannot load the trusted root certificates of the system and of identityProvider.caRef: {0}")]
    Roots(#[source] std::io::Error),
    #[error("cannot serve: {0}")]
    System(#[from] std::io::Error),
    #[error("identityProvider.issuerURL: {0}")]
    Issuer(#[from] url::ParseError),
    #[error(transparent)]
    Database(#[from] OpenError),
    #[error(transparent)]
    Serve(#[from] server::ServeError),
    #[error(transparent)]
    Traces(#[from] TraceError),
    #[error("cannot find the Kubernetes API that stores the sessions: {0}")]
    Cluster(#[from] Box<kube::Error>),
    #[error(
        "the encryption key was replaced without keeping the previous one: restart the proxy; all logins are invalid"
    )]
    EncryptionKeyChanged,
    #[error("a background task has ended: this is a bug")]
    Background,
}

/// Runs a proxy until `shutdown` and until the requests in flight are done. The current runtime becomes its control runtime.
pub async fn run(config: ProxyConfig, shutdown: CancellationToken) -> Result<(), RunError> {
    let (listener, health_listener) = (listen(config.listen)?, listen(config.health_listen)?);
    serve(config, listener, health_listener, shutdown).await
}

/// [`run`] with open sockets.
pub async fn serve(
    config: ProxyConfig,
    listener: TcpListener,
    health_listener: TcpListener,
    shutdown: CancellationToken,
) -> Result<(), RunError> {
    let in_cluster = matches!(config.sessions.store, StoreConfig::Kubernetes { .. });
    let proxy = Arc::new(build(config).await?);
    let server = &proxy.authorization_server;
    // At shutdown the pod becomes unready first; later the listener closes.
    let (unready, drain) = (CancellationToken::new(), CancellationToken::new());

    let health = health::router(proxy.clone(), unready.clone());
    let health_listener = tokio::net::TcpListener::from_std(health_listener)?;
    let mut background = JoinSet::new();
    background.spawn(watch_sessions(server.clone()));
    background.spawn(clean_up(server.clone()));
    background.spawn(async move {
        let _ = axum::serve(health_listener, health).await;
    });
    let secrets = reload_secrets(proxy.clone());

    let router = http::router(server.clone());
    let serving = server::serve(proxy.clone(), router, listener, unready.clone(), drain.clone());
    let stopping = async {
        let reason = tokio::select! {
            () = shutdown.cancelled() => Ok(()),
            changed = secrets => Err(changed),
            _ = background.join_next() => Err(RunError::Background),
        };
        unready.cancel();
        if in_cluster {
            tokio::time::sleep(UNREADY_BEFORE_DRAIN).await;
        }
        tracing::info!("draining: no new connections are accepted, requests in flight finish");
        drain.cancel();
        reason
    };
    tracing::info!(url = server.public_url.as_str(), listen = %server.config.listen, "serving");
    tokio::pin!(serving);
    tokio::select! {
        result = &mut serving => Ok(result?),
        reason = stopping => {
            serving.await?;
            proxy.resource_server.tracer.shut_down().await;
            reason
        }
    }
}

/// Opens a socket for [`serve`].
pub fn listen(address: SocketAddr) -> Result<TcpListener, RunError> {
    listener::listen(address).map_err(|source| RunError::Listen { address, source })
}

async fn build(config: ProxyConfig) -> Result<Proxy, RunError> {
    let public_url = config.public_url.clone();
    let secrets = Secrets::load(&config, EncryptionKey::Previous)?;
    let control = Handle::current();
    let clock = wall_clock();
    let rules = Arc::new(access_rules(&config, clock()));
    let name = match &config.sessions.store {
        StoreConfig::Sqlite { .. } => "standalone",
        StoreConfig::Kubernetes { proxy, .. } => proxy,
    };
    let record_keys = RecordKeys::new(secrets.keyring.clone(), name);
    let store: Arc<dyn SessionStore> = match &config.sessions.store {
        StoreConfig::Sqlite { path } => Arc::new(SqliteStore::open(path, record_keys.clone()).await?),
        StoreConfig::Kubernetes { namespace, proxy, uid } => {
            let connected = KubernetesStore::connect(record_keys.clone(), namespace, proxy, uid).await;
            Arc::new(connected.map_err(Box::new)?)
        }
    };
    let http = http_client(&config.identity_provider, secrets.ca.as_deref()).map_err(RunError::Roots)?;
    let issuer = Issuer::new(&config, &public_url, http)?;
    let tracer = Tracer::from_environment(&control)?;
    let server = AuthorizationServer {
        resources: Resources::new(public_url.clone(), config.upstream.paths.clone()),
        public_url,
        issuer: Arc::new(issuer),
        documents: Arc::new(ClientDocuments::new(&config.clients.redirects)),
        secrets: Arc::new(ArcSwap::from_pointee(secrets)),
        sessions: Arc::new(Sessions::new(Arc::new(LiveSet::default()), store.clone(), control.clone(), rules.clone())),
        rules,
        store,
        control,
        metrics: Arc::new(Metrics::default()),
        clock,
        config,
    };
    Ok(Proxy::new(server, record_keys, tracer))
}

/// Applies the events of the store to the live set, and ends the sessions that the access rules no longer allow.
async fn watch_sessions(server: Arc<AuthorizationServer>) {
    let mut events = server.store.watch();
    while let Some(event) = events.next().await {
        let (event, denied) = apply_rules(&server, event);
        if let Some(event) = event {
            server.sessions.apply(event);
        }
        if !denied.is_empty() {
            // A separate task: a mass logout takes minutes and must not delay other events.
            tokio::spawn(end_denied(server.clone(), denied));
        }
    }
}

/// Removes the sessions that the rules do not allow from an event. Returns what is left of it, and the sessions to end with
/// their reasons.
fn apply_rules(server: &AuthorizationServer, event: SessionEvent) -> (Option<SessionEvent>, Vec<(SessionId, String)>) {
    let mut denied = Vec::new();
    let mut is_allowed = |session: &Session| match server.rules.evaluate(session) {
        Verdict::Allow => true,
        Verdict::Withhold => false,
        Verdict::End(reason) => {
            denied.push((session.id, reason));
            false
        }
    };
    let event = match event {
        SessionEvent::Is(session) if is_allowed(&session) => Some(SessionEvent::Is(session)),
        SessionEvent::Is(_) => denied.first().map(|(id, _)| SessionEvent::Ended(*id)),
        SessionEvent::All(mut all) => {
            all.retain(is_allowed);
            Some(SessionEvent::All(all))
        }
        ended @ SessionEvent::Ended(_) => Some(ended),
    };
    (event, denied)
}

async fn end_denied(server: Arc<AuthorizationServer>, denied: Vec<(SessionId, String)>) {
    for (id, reason) in denied {
        // A failure is not final: the session is not admitted here, and a later purge deletes it.
        if let Err(error) = end_session(&server, id, &reason).await {
            tracing::warn!(%error, session = %id, "a session that the rules no longer allow could not be deleted");
        }
    }
}

async fn end_session(server: &AuthorizationServer, id: SessionId, reason: &str) -> Result<(), StoreError> {
    // Otherwise another replica has ended it.
    if let Some(stored) = server.store.get(id).await?
        && server.store.end(&stored, Deletion::Unconditional).await?
    {
        server.metrics.ended_sessions.count(SessionEndReason::Rules);
        audit::session_end(&stored.session, SessionEndReason::Rules, reason, None);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn proxy_that_cannot_serve_exits_with_the_reason() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        crate::keys::make(at).unwrap();
        std::fs::write(at.join("OAUTH_CLIENT_ID"), "id").unwrap();
        std::fs::write(at.join("OAUTH_CLIENT_SECRET"), "secret").unwrap();
        let config = serde_yaml::from_str(&format!(
            "
publicURL: https://mcp.example.com
listen: 127.0.0.1:0
healthListen: 127.0.0.1:0
identityProvider: {{issuerURL: https://accounts.google.com}}
credentials: {{directory: {0}}}
signingKeys: {0}/signing-keys.json
access: {{policy: AnyUser}}
upstream: {{url: 'http://gate\"way'}}
sessions: {{store: {{type: SQLite, path: {0}/sessions.db}}}}
",
            at.display()
        ))
        .unwrap();
        let error = run(config, CancellationToken::new()).await.unwrap_err().to_string();
        assert!(error.contains("upstream.url cannot be connected to"), "{error}");
    }

    #[test]
    fn listen_error_names_the_address() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let error = listen(taken.local_addr().unwrap()).unwrap_err().to_string();
        assert!(error.starts_with(&format!("cannot listen on {}", taken.local_addr().unwrap())), "{error}");
    }
}
