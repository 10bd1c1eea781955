//! From a configuration to a running proxy, and from a signal to its end.

use std::{
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use futures::StreamExt;
use thiserror::Error;
use tokio::{runtime::Handle, task::JoinSet};
use tokio_util::sync::CancellationToken;

use super::{
    audit,
    client_documents::ClientDocuments,
    config::{ProxyConfig, StoreConfig, UNREADY_BEFORE_DRAIN},
    endpoints,
    forward::VerifiedTokens,
    health,
    identity::{HttpClient, Issuer},
    metrics::{Metrics, SessionEnd},
    oauth::resource::Resources,
    secrets::{EncryptionKey, Secrets, SecretsError},
    server,
    session::{
        Ending, KubernetesStore, LiveSet, OpenError, RecordKeys, Session, SessionEvent, SessionId, SessionStore,
        Sessions, SqliteStore, clean_up,
    },
    state::{Judgement, Proxy, Rules, wall_clock},
    traces::{TraceError, Tracer},
};
use crate::{api::InvalidUrl, listener};

/// How often the mounted Secrets are looked at. The kubelet swaps them by symbolic link, which no file watch sees well.
const SECRETS_POLL: Duration = Duration::from_secs(5);

/// How long a changed encryption key is accepted before it is used: until then other replicas may not have read it. The
/// kubelet brings a changed Secret within about a minute and a half.
const ACCEPTED_BEFORE_USED: Duration = Duration::from_secs(5 * 60);

/// Why a proxy cannot start, or cannot go on.
#[derive(Debug, Error)]
pub enum RunError {
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

    let router = endpoints::router(proxy.clone());
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
        tracing::info!("no more connections are taken; what is under way may end");
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
    let public_url = config.public_url()?;
    let secrets = Secrets::load(&config, EncryptionKey::Previous)?;
    let control = Handle::current();
    let clock = wall_clock();
    let rules = Arc::new(Rules::new(&config, clock()));
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
    let http = HttpClient::new(&config.issuer_url()?, secrets.ca.as_deref()).map_err(RunError::Roots)?;
    let issuer = Issuer::new(&config, &public_url, http)?;
    let tracer = Tracer::from_environment(&control)?;
    Ok(Proxy {
        resources: Resources::new(public_url.clone(), config.upstream_paths()?),
        public_url,
        issuer: Arc::new(issuer),
        documents: Arc::new(ClientDocuments::new(&config.clients.redirects)),
        secrets: ArcSwap::from_pointee(secrets),
        sessions: Sessions::new(Arc::new(LiveSet::default()), store.clone(), control.clone(), rules.clone()),
        rules,
        store,
        control,
        record_keys,
        verified: VerifiedTokens::shared(),
        tracer,
        metrics: Metrics::default(),
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
            proxy.sessions.live().apply(event);
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
        SessionEvent::Is(session) => match proxy.judge(&session) {
            Judgement::GoOn => (Some(SessionEvent::Is(session)), Vec::new()),
            Judgement::Withhold => (None, Vec::new()),
            Judgement::End(reason) => (Some(SessionEvent::Ended(session.id)), vec![(session.id, reason)]),
        },
        SessionEvent::All(all) => {
            let mut refused = Vec::new();
            let goes_on = |session: &Session| {
                let judgement = proxy.judge(session);
                let goes_on = judgement == Judgement::GoOn;
                if let Judgement::End(reason) = judgement {
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
            Err(error) => tracing::warn!(%error, session = %id, "a session that may not go on could not be deleted"),
        }
    }
}

/// Takes over changed credentials and keys, until what cannot be taken over has changed: an encryption key without the one
/// before it makes every session and client id void.
async fn reload_secrets(proxy: Arc<Proxy>) -> RunError {
    let mut reload = Reload::new(Instant::now());
    loop {
        tokio::time::sleep(SECRETS_POLL).await;
        if let Err(error) = reload.look(&proxy, Instant::now()) {
            return error;
        }
    }
}

/// What the reloading of secrets remembers from one look to the next.
struct Reload {
    /// Since when the secrets have been as they are.
    since: Instant,
    /// Which encryption key makes new values.
    using: EncryptionKey,
    /// The last complaint, which is not repeated every five seconds.
    said: String,
}

impl Reload {
    fn new(now: Instant) -> Self {
        Self { since: now, using: EncryptionKey::Previous, said: String::new() }
    }

    /// Looks at the files.
    fn look(&mut self, proxy: &Proxy, now: Instant) -> Result<(), RunError> {
        let current = proxy.secrets.load_full();
        let (changed, keys_changed) = match Secrets::load(&proxy.config, self.using) {
            Ok(new) => (!new.same_as(&current), !new.same_keys_as(&current)),
            Err(error) => {
                // Kept working with what was read before.
                if self.said != error.to_string() {
                    tracing::error!(%error, "changed secrets cannot be used; the former ones stay in use");
                    self.said = error.to_string();
                }
                return Ok(());
            }
        };
        self.said.clear();
        let old_enough = now.duration_since(self.since) >= ACCEPTED_BEFORE_USED;
        let using = match self.using {
            _ if keys_changed => EncryptionKey::Previous,
            EncryptionKey::Previous if old_enough => EncryptionKey::Current,
            using => using,
        };
        if !changed && using == self.using {
            return Ok(());
        }
        // If they have changed once more in this moment, the next look sees it.
        let Ok(new) = Secrets::load(&proxy.config, using) else { return Ok(()) };
        if !new.keyring.succeeds(&current.keyring) {
            return Err(RunError::EncryptionKeyChanged);
        }
        if new.ca != current.ca {
            match HttpClient::new(&proxy.config.issuer_url()?, new.ca.as_deref()) {
                Ok(http) => proxy.issuer.use_client(http),
                Err(error) => {
                    tracing::error!(%error, "the changed certificates of identityProvider.caRef cannot be used");
                }
            }
        }
        if keys_changed {
            self.since = now;
        }
        if changed {
            tracing::info!("changed credentials or keys are in use");
        }
        if using == EncryptionKey::Current && self.using != using && new.keyring.has_other() {
            tracing::info!("the present encryption key makes new values from now on");
        }
        self.using = using;
        proxy.record_keys.use_keyring(new.keyring.clone());
        proxy.secrets.store(Arc::new(new));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::{
        crypto::{Keyring, Purpose},
        session::testing::session,
        state::testing::proxy,
    };

    #[tokio::test]
    async fn a_proxy_that_cannot_serve_ends_and_says_why() {
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
    fn where_a_port_is_taken_it_is_said() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let error = listen(taken.local_addr().unwrap()).unwrap_err().to_string();
        assert!(error.starts_with(&format!("cannot listen on {}", taken.local_addr().unwrap())), "{error}");
    }

    #[tokio::test]
    async fn a_changed_encryption_key_is_accepted_at_once_used_later_and_no_client_notices() {
        let (folder, proxy) = proxy("http://upstream", LiveSet::default(), wall_clock()).await;
        let begun = Instant::now();
        let mut reload = Reload::new(begun);
        reload.look(&proxy, begun + ACCEPTED_BEFORE_USED).unwrap();
        let before = proxy.secrets.load().keyring.clone();
        let sealed = before.seal(Purpose::RefreshToken, &1).unwrap();
        let session = session("a");
        proxy.store.create(&session).await.unwrap();

        let key = |name: &str, key: &str| std::fs::write(folder.path().join(name), key).unwrap();
        let other = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=";
        key("PREVIOUS_ENCRYPTION_KEY", &std::fs::read_to_string(folder.path().join("ENCRYPTION_KEY")).unwrap());
        key("ENCRYPTION_KEY", other);
        let changed = begun + ACCEPTED_BEFORE_USED * 2;
        reload.look(&proxy, changed).unwrap();
        let keyring = proxy.secrets.load().keyring.clone();
        let newest = Keyring::new(other, proxy.public_url.as_str()).unwrap();
        assert_eq!(keyring.open::<u8>(Purpose::Code, &newest.seal(Purpose::Code, &2).unwrap()), Some(2));
        // Whoever has not read the change yet opens what we make.
        assert_eq!(before.open::<u8>(Purpose::Code, &keyring.seal(Purpose::Code, &3).unwrap()), Some(3));

        reload.look(&proxy, changed + ACCEPTED_BEFORE_USED).unwrap();
        let keyring = proxy.secrets.load().keyring.clone();
        assert_eq!(newest.open::<u8>(Purpose::Code, &keyring.seal(Purpose::Code, &4).unwrap()), Some(4));
        assert_eq!(keyring.open::<u8>(Purpose::RefreshToken, &sealed), Some(1));
        assert_eq!(proxy.store.get(session.id).await.unwrap().unwrap().session, session);

        // Without the one before, the change cannot be taken over.
        std::fs::remove_file(folder.path().join("PREVIOUS_ENCRYPTION_KEY")).unwrap();
        key("ENCRYPTION_KEY", "CAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAg=");
        assert!(matches!(reload.look(&proxy, changed), Err(RunError::EncryptionKeyChanged)));
    }
}
