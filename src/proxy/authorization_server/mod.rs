//! The authorization server: what MCP clients and browsers request before a client holds an access token.
//!
//! The service ([`AuthorizationServer`]) does what the endpoints are for: it reads and writes sessions, queries the issuer,
//! counts and audits. `http/` parses a request, runs one function of the service on the control runtime and maps its result.
//!
//! ```text
//! request                  handler in http/   service and core                                      RFC
//! GET  /.well-known/...    well_known         oauth::metadata                                       8414, 9728
//! GET  /jwks               well_known         crypto::SigningRing::jwks                             7517
//! POST /register           register           oauth::client::Client::register (nothing is stored)   7591
//! GET  /authorize          authorize          oauth::authorize::check: client, redirect URI,        6749 4.1.1, 7636,
//!                                             resource, challenge; shows the consent page           8707
//! POST /consent            consent            approve: login sealed into a cookie, redirect to the  OpenID Connect
//!                                             issuer with PKCE, nonce and state                     Core 3.1.2
//! GET  /callback           callback           finish_login: code for ID token, access rules,        Core 3.1.3, 6749
//!                                             session created, redirect with code, state and iss    4.1.2, 9207
//! POST /token              token              token: code or refresh token for tokens; with         6749 4.1.3, 5.1, 6
//!                                             recheckOnRefresh the issuer is queried first
//! POST /revoke             revoke             revoke: the session ends                              7009
//! ```

mod client_documents;
pub mod http;
mod login;
mod recheck;
mod revocation;
mod store;
mod token;

use std::sync::Arc;

use arc_swap::ArcSwap;
use jiff::{SignedDuration, Timestamp};
use tokio::runtime::Handle;

pub use self::{
    client_documents::ClientDocuments,
    login::{Approved, IssuerResponse, LoginFailure},
    revocation::RevocationRequest,
    token::TokenRequest,
};
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

    /// Every way in which a client can be known.
    pub fn known_clients<'a>(&'a self, secrets: &'a Secrets) -> KnownClients<'a> {
        KnownClients { keyring: &secrets.keyring, listed: &secrets.listed, rules: &self.config.clients }
    }

    /// The time by the proxy's clock.
    pub fn now(&self) -> Timestamp {
        (self.clock)()
    }
}
