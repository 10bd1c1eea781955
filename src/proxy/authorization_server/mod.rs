//! The authorization server: what MCP clients and people's browsers request before a client holds an access token.
//!
//! ```text
//! client / browser          http/                         this server                      identity provider
//!   GET  /.well-known/...     well_known  RFC 8414, 9728    oauth::metadata
//!   POST /register            register    RFC 7591          oauth::client (nothing is stored)
//!   GET  /authorize           authorize   RFC 6749 4.1.1,   oauth::authorize: client, redirect URI,
//!                                         7636, 8707        challenge, resource; consent page
//!   POST /consent             consent                       sealed form and browser cookie      -> authorization request
//!   GET  /callback            callback    OIDC Core 3.1.3   ID token, access rules, new session <- code
//!                                         RFC 9207          back to the client: code, state, iss
//!   POST /token               token       RFC 6749 4.1.3, 6 oauth::code, oauth::refresh; recheck -> refresh, userinfo
//!   POST /revoke              revoke      RFC 7009          the session ends
//!   GET  /jwks                well_known  RFC 7517          crypto::SigningRing
//! ```

mod client_documents;
pub mod http;
mod recheck;
mod revocation;
mod store;
mod token;

use std::sync::Arc;

use arc_swap::ArcSwap;
use jiff::{SignedDuration, Timestamp};
use tokio::runtime::Handle;

pub use self::{client_documents::ClientDocuments, revocation::RevocationRequest, token::TokenRequest};
use super::{
    clock::Clock,
    identity_provider::Issuer,
    observability::metrics::Metrics,
    secrets::Secrets,
    sessions::{SessionStore, Sessions},
};
use crate::{
    access::{Denied, Person, Rules},
    api::PublicUrl,
    config::ProxyConfig,
    oauth::{known_clients::KnownClients, resource::Resources},
};

/// What the endpoints of the authorization server work with.
pub struct AuthorizationServer {
    pub config: ProxyConfig,
    /// The issuer of our tokens.
    pub public_url: PublicUrl,
    /// The MCP endpoints.
    pub resources: Resources,
    /// The OpenID Connect issuer that people log in at.
    pub issuer: Arc<Issuer>,
    /// The cached metadata documents of clients whose `client_id` is a URL.
    pub documents: Arc<ClientDocuments>,
    /// The mounted Secrets, as last read.
    pub secrets: Arc<ArcSwap<Secrets>>,
    /// Its calls run on `control`.
    pub store: Arc<dyn SessionStore>,
    /// The runtime for everything that is not the request path.
    pub control: Handle,
    pub sessions: Arc<Sessions>,
    pub rules: Arc<Rules>,
    pub metrics: Arc<Metrics>,
    pub clock: Clock,
}

impl AuthorizationServer {
    /// The lifetime of an access token (`tokens.accessTTL`).
    pub fn access_ttl(&self) -> SignedDuration {
        self.config.tokens.access_ttl.signed()
    }

    /// How long a session lives after its last refresh (`sessions.idleTTL`).
    pub fn idle_ttl(&self) -> SignedDuration {
        self.config.sessions.idle_ttl.signed()
    }

    /// The longest life of a session (`sessions.maxTTL`).
    pub fn max_ttl(&self) -> SignedDuration {
        self.config.sessions.max_ttl.signed()
    }

    /// How long a superseded refresh token is still honoured after its successor was used (`tokens.refreshGrace`).
    pub fn refresh_grace(&self) -> SignedDuration {
        self.config.tokens.refresh_grace.signed()
    }

    /// Whether the access rules let a person in.
    ///
    /// # Errors
    /// Why not.
    pub fn check_access(&self, person: &Person) -> Result<(), Denied> {
        self.rules.check(person)
    }

    /// Runs I/O on the control runtime. `None` if that is shutting down.
    pub async fn on_control<F>(&self, work: F) -> Option<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        self.control.spawn(work).await.ok()
    }

    /// Every way in which a client can be known.
    pub fn known_clients<'a>(&'a self, secrets: &'a Secrets) -> KnownClients<'a> {
        KnownClients { keyring: &secrets.keyring, listed: &secrets.listed, rules: &self.config.clients }
    }

    /// The time by the proxy's clock.
    pub fn now(&self) -> Timestamp {
        (self.clock)()
    }
}
