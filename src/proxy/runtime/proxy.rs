use std::sync::Arc;

use arc_swap::ArcSwap;
use jiff::{SignedDuration, Timestamp};
use tokio::runtime::Handle;

use super::super::{
    authorization_server::{AuthorizationServer, ClientDocuments},
    clock::Clock,
    identity_provider::Issuer,
    observability::{
        metrics::{Metrics, Observed},
        traces::Tracer,
    },
    resource_server::{ResourceServer, SharedTokens},
    secrets::Secrets,
    sessions::{SessionStore, Sessions},
};
use crate::{access::Rules, api::PublicUrl, config::ProxyConfig, oauth::resource::Resources, session::RecordKeys};

/// The state of a running proxy. Background jobs use it directly; the two servers get the parts that they need.
pub struct Proxy {
    pub config: ProxyConfig,
    /// The issuer of our tokens.
    pub public_url: PublicUrl,
    pub resources: Resources,
    pub issuer: Arc<Issuer>,
    pub documents: Arc<ClientDocuments>,
    pub secrets: Arc<ArcSwap<Secrets>>,
    pub sessions: Arc<Sessions>,
    pub store: Arc<dyn SessionStore>,
    /// The runtime of logins, session writes and background jobs.
    pub control: Handle,
    /// Updated with `secrets`.
    pub record_keys: RecordKeys,
    pub rules: Arc<Rules>,
    pub verified: SharedTokens,
    pub tracer: Arc<Tracer>,
    pub metrics: Arc<Metrics>,
    pub clock: Clock,
}

pub fn access_rules(config: &ProxyConfig, started: Timestamp) -> Rules {
    let (verified, not_before) = (config.identity_provider.email_verified, config.sessions.not_before);
    Rules::new(config.access.clone(), verified, not_before, started)
}

impl Proxy {
    pub fn authorization_server(&self) -> AuthorizationServer {
        AuthorizationServer {
            config: self.config.clone(),
            public_url: self.public_url.clone(),
            resources: self.resources.clone(),
            issuer: self.issuer.clone(),
            documents: self.documents.clone(),
            secrets: self.secrets.clone(),
            store: self.store.clone(),
            control: self.control.clone(),
            sessions: self.sessions.clone(),
            rules: self.rules.clone(),
            metrics: self.metrics.clone(),
            clock: self.clock.clone(),
        }
    }

    pub fn resource_server(&self) -> ResourceServer {
        ResourceServer {
            public_url: self.public_url.clone(),
            resources: self.resources.clone(),
            trusted_proxies: self.config.trusted_proxies.clone(),
            secrets: self.secrets.clone(),
            sessions: self.sessions.clone(),
            verified: self.verified.clone(),
            tracer: self.tracer.clone(),
            metrics: self.metrics.clone(),
            clock: self.clock.clone(),
        }
    }

    pub fn max_ttl(&self) -> SignedDuration {
        self.config.sessions.max_ttl.signed()
    }

    pub fn metrics_text(&self) -> Result<String, std::fmt::Error> {
        self.metrics.text(Observed {
            sessions: self.sessions.live().len(),
            last_contact: self.store.last_contact(),
            cached_tokens: self.verified.len(),
            issuer: &self.issuer.response_counts(),
            max_sessions: self.config.sessions.max.get() as usize,
        })
    }

    pub fn now(&self) -> Timestamp {
        (self.clock)()
    }
}
