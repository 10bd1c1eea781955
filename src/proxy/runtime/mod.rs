//! From a configuration to a running proxy, and from a signal to its end.

mod cleanup;
mod health;
pub(super) mod proxy;
mod reload;
pub(super) mod server;

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
    authorization_server::{ClientDocuments, http},
    clock::wall_clock,
    identity_provider::Issuer,
    observability::{
        audit,
        metrics::Metrics,
        traces::{TraceError, Tracer},
    },
    resource_server::VerifiedTokens,
    secrets::{EncryptionKey, Secrets, SecretsError},
    sessions::{Ending, KubernetesStore, LiveSet, OpenError, SessionEvent, SessionStore, Sessions, SqliteStore},
};
use crate::access::Verdict;
use crate::listener;
use crate::reasons::SessionEnd;
use crate::{
    config::{ProxyConfig, StoreConfig, UNREADY_BEFORE_DRAIN},
    http_client::HttpClient,
    oauth::resource::Resources,
    session::{RecordKeys, Session, SessionId},
};

/// Why a proxy cannot start, or cannot go on.
#[derive(Debug, Error)]
pub enum RunError {
    /// A secret is missing or not right.
    #[error(transparent)]
    Secrets(#[from] SecretsError),
    /// The address is taken, or not ours.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
    /// The system has no trusted roots.
    #[error(
        "cannot load the root certificates that the issuer's is checked against, the system's and those of identityProvider.caRef: {0}"
    )]
    Roots(#[source] std::io::Error),
    /// A port cannot be given to the runtime.
    #[error("cannot serve: {0}")]
    System(#[from] std::io::Error),
    /// The issuer's address is not one.
    #[error("identityProvider.issuerURL: {0}")]
    Issuer(#[from] url::ParseError),
    /// The sessions' database cannot be opened.
    #[error(transparent)]
    Database(#[from] OpenError),
    /// Serving cannot begin, or broke off.
    #[error(transparent)]
    Serve(#[from] server::ServeError),
    /// What the environment says of traces is not right.
    #[error(transparent)]
    Traces(#[from] TraceError),
    /// There is no cluster around us.
    #[error("cannot find the Kubernetes API that sessions live in: {0}")]
    Cluster(#[from] Box<kube::Error>),
    /// Every session and client id is void now; a fresh start is the way to go on.
    #[error(
        "the encryption key has been changed: everybody has to log in again, and the proxy has to be started again"
    )]
    EncryptionKeyChanged,
    /// What keeps the sessions up to date has ended.
    #[error("a background task has ended: this is a bug")]
    Background,
}

/// Runs a proxy on the current runtime, which becomes its control runtime, until `shutdown` and until what was under way
/// then is done.
///
/// # Errors
/// Why it cannot start, or had to end by itself.
pub async fn run(config: ProxyConfig, shutdown: CancellationToken) -> Result<(), RunError> {
    let (listener, health_listener) = (listen(config.listen)?, listen(config.health_listen)?);
    serve(config, listener, health_listener, shutdown).await
}

/// [`run`] with sockets that are open already.
///
/// # Errors
/// Why it cannot start, or had to end by itself.
pub async fn serve(
    config: ProxyConfig,
    listener: TcpListener,
    health_listener: TcpListener,
    shutdown: CancellationToken,
) -> Result<(), RunError> {
    let in_cluster = matches!(config.sessions.store, StoreConfig::Kubernetes { .. });
    let proxy = Arc::new(build(config).await?);
    // Unready first, and a while later no more connections.
    let (unready, drain) = (CancellationToken::new(), CancellationToken::new());

    let health = health::router(proxy.clone(), unready.clone());
    let health_listener = tokio::net::TcpListener::from_std(health_listener)?;
    let mut background = JoinSet::new();
    background.spawn(watch_sessions(proxy.clone()));
    background.spawn(clean_up(proxy.clone()));
    background.spawn(async move {
        let _ = axum::serve(health_listener, health).await;
    });
    let secrets = reload_secrets(proxy.clone());

    let router = http::router(Arc::new(proxy.authorization_server()));
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
    tracing::info!(url = proxy.public_url.as_str(), listen = %proxy.config.listen, "serving");
    tokio::pin!(serving);
    tokio::select! {
        broke_off = &mut serving => Ok(broke_off?),
        reason = stopping => {
            serving.await?;
            proxy.tracer.shut_down().await;
            reason
        }
    }
}

/// Opens a socket for [`serve`].
///
/// # Errors
/// When the address is taken or not ours.
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
    let http = HttpClient::new(config.identity_provider.issuer_url.is_https(), secrets.ca.as_deref())
        .map_err(RunError::Roots)?;
    let issuer = Issuer::new(&config, &public_url, http)?;
    let tracer = Tracer::from_environment(&control)?;
    Ok(Proxy {
        resources: Resources::new(public_url.clone(), config.upstream.paths.clone()),
        public_url,
        issuer: Arc::new(issuer),
        documents: Arc::new(ClientDocuments::new(&config.clients.redirects)),
        secrets: Arc::new(ArcSwap::from_pointee(secrets)),
        sessions: Arc::new(Sessions::new(Arc::new(LiveSet::default()), store.clone(), control.clone(), rules.clone())),
        rules,
        store,
        control,
        record_keys,
        verified: VerifiedTokens::shared(),
        tracer: Arc::new(tracer),
        metrics: Arc::new(Metrics::default()),
        clock,
        config,
    })
}

/// Keeps the live set up to date, and ends the sessions that the rules no longer let go on: they may have changed since.
async fn watch_sessions(proxy: Arc<Proxy>) {
    let mut events = proxy.store.watch();
    while let Some(event) = events.next().await {
        let (event, refused) = sift(&proxy, event);
        if let Some(event) = event {
            proxy.sessions.apply(event);
        }
        if !refused.is_empty() {
            // Apart: after a mass logout this takes minutes, and other sessions' ends must not wait for it.
            tokio::spawn(end_refused(proxy.clone(), refused));
        }
    }
}

/// An event without the sessions that may not go on, if anything is left of it; and those that end, each with the reason.
fn sift(proxy: &Proxy, event: SessionEvent) -> (Option<SessionEvent>, Vec<(SessionId, String)>) {
    match event {
        SessionEvent::Is(session) => match proxy.rules.evaluate(&session) {
            Verdict::Allow => (Some(SessionEvent::Is(session)), Vec::new()),
            Verdict::Withhold => (None, Vec::new()),
            Verdict::End(reason) => (Some(SessionEvent::Ended(session.id)), vec![(session.id, reason)]),
        },
        SessionEvent::All(all) => {
            let mut refused = Vec::new();
            let goes_on = |session: &Session| {
                let judgement = proxy.rules.evaluate(session);
                let goes_on = judgement == Verdict::Allow;
                if let Verdict::End(reason) = judgement {
                    refused.push((session.id, reason));
                }
                goes_on
            };
            (Some(SessionEvent::All(all.into_iter().filter(goes_on).collect())), refused)
        }
        ended @ SessionEvent::Ended(_) => (Some(ended), Vec::new()),
    }
}

async fn end_refused(proxy: Arc<Proxy>, refused: Vec<(SessionId, String)>) {
    for (id, reason) in refused {
        let ended = match proxy.store.get(id).await {
            Ok(Some(stored)) => proxy.store.end(&stored, Ending::Quietly).await.map(|ended| ended.then_some(stored)),
            Ok(None) => Ok(None),
            Err(error) => Err(error),
        };
        match ended {
            Ok(Some(stored)) => {
                proxy.metrics.ended_sessions.count(SessionEnd::Rules);
                audit::session_end(&stored.session, SessionEnd::Rules, &reason, None);
            }
            // Another replica was quicker.
            Ok(None) => (),
            // It is not admitted here; its clean-up comes later.
            Err(error) => {
                tracing::warn!(%error, session = %id, "a session that the rules no longer allow could not be deleted");
            }
        }
    }
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
upstream: {{url: 'http://gateway', identity: {{headers: {{user: 'not a header'}}}}}}
sessions: {{store: {{type: SQLite, path: {0}/sessions.db}}}}
",
            at.display()
        ))
        .unwrap();
        let error = run(config, CancellationToken::new()).await.unwrap_err().to_string();
        assert!(error.contains("upstream.identity.headers"), "{error}");
    }

    #[test]
    fn listen_error_names_the_address() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let error = listen(taken.local_addr().unwrap()).unwrap_err().to_string();
        assert!(error.starts_with(&format!("cannot listen on {}", taken.local_addr().unwrap())), "{error}");
    }
}
