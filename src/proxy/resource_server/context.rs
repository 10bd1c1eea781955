use std::sync::Arc;

use arc_swap::ArcSwap;
use ipnet::IpNet;
use jiff::Timestamp;

use super::verified::SharedTokens;
use crate::{
    api::PublicUrl,
    oauth::resource::Resources,
    proxy::{
        clock::Clock,
        observability::{metrics::Metrics, traces::Tracer},
        secrets::Secrets,
        sessions::Sessions,
    },
};

/// What the workers validate requests with.
pub struct ResourceServer {
    /// The issuer of the tokens.
    pub public_url: PublicUrl,
    pub resources: Resources,
    /// Only their `X-Forwarded-For` is honoured.
    pub trusted_proxies: Vec<IpNet>,
    /// The mounted Secrets, as last read.
    pub secrets: Arc<ArcSwap<Secrets>>,
    pub sessions: Arc<Sessions>,
    pub verified: SharedTokens,
    pub tracer: Arc<Tracer>,
    pub metrics: Arc<Metrics>,
    pub clock: Clock,
}

impl ResourceServer {
    pub fn now(&self) -> Timestamp {
        (self.clock)()
    }
}
