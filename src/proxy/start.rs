//! From a configuration to a running proxy, and from a signal to its end.

use std::{net::TcpListener, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use futures::StreamExt;
use thiserror::Error;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::{
    config::{ProxyConfig, StoreConfig},
    endpoints, health,
    identity::{HttpClient, Issuer},
    metrics::Metrics,
    oauth::resource::Resources,
    server,
    session::{KubernetesStore, LiveSet, RecordKeys, SessionStore, Sessions, SqliteStore, StoreError, delete_expired},
    state::{Proxy, Secrets, SecretsError},
};
use crate::api::InvalidUrl;

/// How often the mounted Secrets are looked at. The kubelet swaps them by symbolic link, which no file watch sees well.
const SECRETS_POLL: Duration = Duration::from_secs(5);

/// How long a pod that is told to end keeps taking connections: until then the Service's rules may still point to it.
const UNREADY_BEFORE_DRAIN: Duration = Duration::from_secs(5);

/// Why a proxy cannot start.
#[derive(Debug, Error)]
pub enum StartError {
    /// An address of the configuration is not right.
    #[error(transparent)]
    Url(#[from] InvalidUrl),
    /// A secret is missing or not right.
    #[error(transparent)]
    Secrets(#[from] SecretsError),
    /// The address is taken, or not ours.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
    /// The system has no trusted roots, or no threads to give.
    #[error("{0}")]
    System(#[from] std::io::Error),
    /// The issuer's address is not one.
    #[error("identityProvider.issuerURL: {0}")]
    Issuer(#[from] url::ParseError),
    /// The sessions' store cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Serving cannot begin, or broke off.
    #[error(transparent)]
    Serve(#[from] server::ServeError),
    /// There is no cluster around us.
    #[error("cannot find the Kubernetes API that sessions live in: {0}")]
    Cluster(#[from] Box<kube::Error>),
}

/// Runs a proxy on the current runtime, which becomes its control runtime, until `shutdown` and until what was under way
/// then is done.
///
/// # Errors
/// Why it cannot start.
pub async fn run(config: ProxyConfig, shutdown: CancellationToken) -> Result<(), StartError> {
    let listener = listen(config.listen)?;
    let health_listener = listen(config.health_listen)?;
    let in_cluster = matches!(config.sessions.store, StoreConfig::Kubernetes { .. });
    let proxy = Arc::new(build(config).await?);
    let draining = CancellationToken::new();

    let health = health::router(proxy.clone(), draining.clone());

    let watch = tokio::spawn(watch_sessions(proxy.clone()));
    let cleanup = tokio::spawn(delete_expired(proxy.sessions.live().clone(), proxy.store.clone()));
    let secrets = tokio::spawn(reload_secrets(proxy.clone(), shutdown.clone()));
    let health_listener = tokio::net::TcpListener::from_std(health_listener)?;
    let health = tokio::spawn(async move { axum::serve(health_listener, health).await });

    let drain = CancellationToken::new();
    let served = server::serve(proxy.clone(), endpoints::router(proxy.clone()), listener, drain.clone());
    let until_signal = async {
        shutdown.cancelled().await;
        draining.cancel();
        if in_cluster {
            tokio::time::sleep(UNREADY_BEFORE_DRAIN).await;
        }
        tracing::info!("no more connections are taken; what is under way is finished");
        drain.cancel();
    };
    tracing::info!(url = proxy.public_url.as_str(), listen = %proxy.config.listen, "serving");
    let (served, ()) = tokio::join!(served, until_signal);
    for task in [watch, cleanup, secrets] {
        task.abort();
    }
    health.abort();
    Ok(served?)
}

fn listen(address: std::net::SocketAddr) -> Result<TcpListener, StartError> {
    let listener = TcpListener::bind(address).map_err(|source| StartError::Listen { address, source })?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

async fn build(config: ProxyConfig) -> Result<Proxy, StartError> {
    let public_url = config.public_url()?;
    let secrets = Secrets::load(&config)?;
    let control = Handle::current();
    let store: Arc<dyn SessionStore> = match &config.sessions.store {
        StoreConfig::Sqlite { path } => {
            Arc::new(SqliteStore::open(path, RecordKeys::new(secrets.keyring.clone(), "standalone")).await?)
        }
        StoreConfig::Kubernetes { namespace, proxy, uid } => {
            let client = kube::Client::try_default().await.map_err(Box::new)?;
            let keys = RecordKeys::new(secrets.keyring.clone(), proxy);
            Arc::new(KubernetesStore::new(&client, keys, namespace, proxy, uid))
        }
    };
    let issuer = Issuer::new(&config.identity_provider, &public_url, HttpClient::new()?)?;
    Ok(Proxy {
        resources: Resources::new(public_url.clone(), config.upstream_paths()?),
        public_url,
        issuer: Arc::new(issuer),
        secrets: ArcSwap::from_pointee(secrets),
        sessions: Sessions::new(Arc::new(LiveSet::default()), store.clone(), control.clone()),
        store,
        control,
        metrics: Metrics::default(),
        config,
    })
}

async fn watch_sessions(proxy: Arc<Proxy>) {
    let mut events = proxy.store.watch();
    while let Some(event) = events.next().await {
        proxy.sessions.live().apply(event);
    }
}

/// Takes over changed credentials and signing keys. Another encryption key makes every session and client id void, so
/// then the process ends, to be started afresh.
async fn reload_secrets(proxy: Arc<Proxy>, shutdown: CancellationToken) {
    let mut said = String::new();
    loop {
        tokio::time::sleep(SECRETS_POLL).await;
        let current = proxy.secrets.load_full();
        match Secrets::load(&proxy.config) {
            Ok(new) if new.same_as(&current) => {}
            Ok(new) if new.keyring.is_same_as(&current.keyring) => {
                tracing::info!("changed credentials or signing keys are in use");
                proxy.secrets.store(Arc::new(new));
            }
            Ok(_) => {
                tracing::warn!("the encryption key has been changed: everybody has to log in again; restarting");
                shutdown.cancel();
                return;
            }
            // Kept working with what was read before; said once, not every five seconds.
            Err(error) if error.to_string() == said => {}
            Err(error) => {
                tracing::error!(%error, "changed secrets cannot be used; the former ones stay in use");
                said = error.to_string();
            }
        }
    }
}
