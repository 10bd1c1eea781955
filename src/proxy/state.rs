//! What all parts of a running proxy share: the checked configuration, the loaded secrets and the sessions.

use std::sync::Arc;

use arc_swap::ArcSwap;
use jiff::{SignedDuration, Timestamp};
use tokio::runtime::Handle;

use super::{
    authorization_server::ClientDocuments,
    identity_provider::Issuer,
    observability::{
        metrics::{Metrics, Observed},
        traces::Tracer,
    },
    resource_server::SharedTokens,
    secrets::Secrets,
    sessions::{SessionStore, Sessions},
};
use crate::api::{
    PublicUrl,
    proxy::{Access, EmailVerified},
};
use crate::{
    access::{Denied, Person, check_access},
    config::ProxyConfig,
    oauth::{known_clients::KnownClients, resource::Resources},
    session::{RecordKeys, Session},
};

/// A running proxy.
pub struct Proxy {
    /// The configuration, as it was read.
    pub config: ProxyConfig,
    /// Our address, the issuer.
    pub public_url: PublicUrl,
    /// The MCP endpoints.
    pub resources: Resources,
    /// Where people log in.
    pub issuer: Arc<Issuer>,
    /// The metadata documents of clients that name themselves by an address.
    pub documents: Arc<ClientDocuments>,
    /// What the mounted Secrets hold, as last read.
    pub secrets: ArcSwap<Secrets>,
    /// Says whether a session is live.
    pub sessions: Sessions,
    /// Remembers sessions. Its calls run on `control`.
    pub store: Arc<dyn SessionStore>,
    /// The runtime for everything that is not the request path.
    pub control: Handle,
    /// The keys of the sessions' records, which follow those of `secrets`.
    pub record_keys: RecordKeys,
    /// What sessions have to keep to.
    pub rules: Arc<Rules>,
    /// Access tokens that the request path has verified.
    pub verified: SharedTokens,
    /// Makes the spans of requests.
    pub tracer: Tracer,
    /// What is counted.
    pub metrics: Metrics,
    /// What time it is, in whole seconds as tokens and records have it.
    pub clock: Clock,
}

/// What the rules say of a session.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Judgement {
    /// It goes on.
    GoOn,
    /// It was begun after this process: only a replica with other rules can have let it in. Which of the two is the newer
    /// one shows when the roll-out is over; until then it is neither admitted here nor ended.
    Withhold,
    /// It ends, for this reason.
    End(String),
}

/// The rules that sessions have to keep to, as this process was started with them.
#[derive(Clone, Debug)]
pub struct Rules {
    access: Access,
    email_verified: EmailVerified,
    not_before: Option<Timestamp>,
    started: Timestamp,
}

impl Rules {
    /// The rules of a configuration, for a process that started at this time.
    pub fn new(config: &ProxyConfig, started: Timestamp) -> Self {
        Self {
            access: config.access.clone(),
            email_verified: config.identity_provider.email_verified,
            not_before: config.sessions.not_before,
            started,
        }
    }

    /// See [`Judgement`].
    pub fn judge(&self, session: &Session) -> Judgement {
        match self.refuse(session) {
            None => Judgement::GoOn,
            Some(_) if session.created_at >= self.started => Judgement::Withhold,
            Some(reason) => Judgement::End(reason),
        }
    }

    /// Why a session may not go on, whenever it was begun.
    pub fn refuse(&self, session: &Session) -> Option<String> {
        if self.not_before.is_some_and(|not_before| session.created_at < not_before) {
            return Some("it was begun before sessions.notBefore".to_owned());
        }
        let denied = check_access(&self.access, self.email_verified, &Person::of_session(session)).err()?;
        Some(format!("the access rules do not let this person in: {denied}"))
    }
}

/// Says what time it is.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// This machine's clock.
pub fn wall_clock() -> Clock {
    Arc::new(|| Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default())
}

impl Proxy {
    /// How long an access token is good.
    pub fn access_ttl(&self) -> SignedDuration {
        signed(&self.config.tokens.access_ttl)
    }

    /// How long a session lives from its last refresh.
    pub fn idle_ttl(&self) -> SignedDuration {
        signed(&self.config.sessions.idle_ttl)
    }

    /// How long a session lives at most.
    pub fn max_ttl(&self) -> SignedDuration {
        signed(&self.config.sessions.max_ttl)
    }

    /// How long a replaced refresh token is still answered once its successor has been used.
    pub fn refresh_grace(&self) -> SignedDuration {
        signed(&self.config.tokens.refresh_grace)
    }

    /// Whether the access rules let a person in.
    ///
    /// # Errors
    /// Why not.
    pub fn check_access(&self, person: &Person) -> Result<(), Denied> {
        check_access(&self.config.access, self.config.identity_provider.email_verified, person)
    }

    /// Whether a session may go on under the rules as they are now.
    pub fn judge(&self, session: &Session) -> Judgement {
        self.rules.judge(session)
    }

    /// Runs I/O where it belongs: on the control runtime. `None` if that is shutting down.
    pub async fn on_control<F>(&self, work: F) -> Option<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        self.control.spawn(work).await.ok()
    }

    /// Everything by which clients are known.
    pub fn known_clients<'a>(&'a self, secrets: &'a Secrets) -> KnownClients<'a> {
        KnownClients { keyring: &secrets.keyring, listed: &secrets.listed, rules: &self.config.clients }
    }

    /// All metrics in the `OpenMetrics` text format.
    ///
    /// # Errors
    /// Never in practice: writing to a string.
    pub fn metrics_text(&self) -> Result<String, std::fmt::Error> {
        self.metrics.text(Observed {
            sessions: self.sessions.live().len(),
            last_contact: self.store.last_contact(),
            cached_tokens: self.verified.len(),
            issuer: &self.issuer.asked(),
            max_sessions: self.config.sessions.max as usize,
        })
    }

    /// The time by the proxy's clock.
    pub fn now(&self) -> Timestamp {
        (self.clock)()
    }
}

fn signed(duration: &crate::api::Duration) -> SignedDuration {
    SignedDuration::try_from(duration.get()).unwrap_or(SignedDuration::MAX)
}

#[cfg(test)]
pub mod testing {
    use super::super::{
        resource_server::VerifiedTokens,
        secrets::EncryptionKey,
        sessions::{LiveSet, SqliteStore},
    };
    use super::*;
    use crate::session::tests::keys;
    use crate::{config::SigningKeys, http_client::HttpClient};

    /// This moment, in whole seconds.
    pub fn wall() -> Timestamp {
        wall_clock()()
    }

    /// The configuration of a proxy at https://mcp.example.com before `upstream`, with SQLite and files in a folder that ends
    /// with it.
    pub fn config(upstream: &str) -> (tempfile::TempDir, ProxyConfig) {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path();
        let signing = SigningKeys::generate(Timestamp::UNIX_EPOCH).unwrap();
        for (file, text) in [
            ("OAUTH_CLIENT_ID", "client"),
            ("OAUTH_CLIENT_SECRET", "secret"),
            ("ENCRYPTION_KEY", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="),
            ("keys.json", &signing.to_json().unwrap()),
        ] {
            std::fs::write(at.join(file), text).unwrap();
        }
        let config: ProxyConfig = serde_yaml::from_str(&format!(
            "
publicURL: https://mcp.example.com
workers: 1
identityProvider: {{issuerURL: https://accounts.google.com}}
credentials: {{directory: {0}}}
signingKeys: {0}/keys.json
access: {{domains: [example.com]}}
upstream: {{url: '{upstream}'}}
sessions: {{store: {{type: SQLite, path: {0}/sessions.db}}}}
",
            at.display()
        ))
        .unwrap();
        (directory, config)
    }

    /// A proxy of that configuration.
    pub async fn proxy(upstream: &str, live: LiveSet, clock: Clock) -> (tempfile::TempDir, Proxy) {
        let (directory, config) = config(upstream);
        let at = directory.path();
        let secrets = Secrets::load(&config, EncryptionKey::Current).unwrap();
        let record_keys = keys();
        let store = Arc::new(SqliteStore::open(&at.join("sessions.db"), record_keys.clone()).await.unwrap());
        let public_url = config.public_url().unwrap();
        let http = HttpClient::new(&config.issuer_url().unwrap(), None).unwrap();
        let rules = Arc::new(Rules::new(&config, Timestamp::MAX));
        let proxy = Proxy {
            issuer: Arc::new(Issuer::new(&config, &public_url, http).unwrap()),
            documents: Arc::new(ClientDocuments::new(&config.clients.redirects)),
            resources: Resources::new(public_url.clone(), config.upstream_paths().unwrap()),
            public_url,
            secrets: ArcSwap::from_pointee(secrets),
            sessions: Sessions::new(Arc::new(live), store.clone(), Handle::current(), rules.clone()),
            rules,
            store,
            control: Handle::current(),
            record_keys,
            verified: VerifiedTokens::shared(),
            tracer: Tracer::default(),
            metrics: Metrics::default(),
            clock,
            config,
        };
        (directory, proxy)
    }
}
