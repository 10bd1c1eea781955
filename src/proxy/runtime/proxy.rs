use std::sync::Arc;

use jiff::Timestamp;

use super::super::{
    authorization_server::AuthorizationServer,
    observability::{metrics::Observed, traces::Tracer},
    resource_server::{ResourceServer, VerifiedTokens},
};
use crate::{access::Rules, config::ProxyConfig, session::RecordKeys};

/// A running proxy: its two servers, and what background jobs alone need.
pub struct Proxy {
    pub authorization_server: Arc<AuthorizationServer>,
    pub resource_server: Arc<ResourceServer>,
    /// Updated with the secrets of the servers.
    pub record_keys: RecordKeys,
}

pub fn access_rules(config: &ProxyConfig, started: Timestamp) -> Rules {
    let (verified, not_before) = (config.identity_provider.email_verified, config.sessions.not_before);
    Rules::new(config.access.clone(), verified, not_before, started)
}

impl Proxy {
    /// The resource server shares the parts of `server` that both use.
    pub fn new(server: AuthorizationServer, record_keys: RecordKeys, tracer: Tracer) -> Self {
        let resource_server = ResourceServer {
            public_url: server.public_url.clone(),
            resources: server.resources.clone(),
            trusted_proxies: server.config.trusted_proxies.clone(),
            secrets: server.secrets.clone(),
            sessions: server.sessions.clone(),
            verified: VerifiedTokens::shared(),
            tracer: Arc::new(tracer),
            metrics: server.metrics.clone(),
            clock: server.clock.clone(),
        };
        Self { authorization_server: Arc::new(server), resource_server: Arc::new(resource_server), record_keys }
    }

    pub fn metrics_text(&self) -> Result<String, std::fmt::Error> {
        let server = &self.authorization_server;
        server.metrics.text(Observed {
            sessions: server.sessions.live().len(),
            last_contact: server.store.last_contact(),
            cached_tokens: self.resource_server.verified.len(),
            issuer: &server.issuer.response_counts(),
            max_sessions: server.config.sessions.max.get() as usize,
        })
    }
}
