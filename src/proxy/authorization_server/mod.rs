//! The authorization server: everything that MCP clients and browsers request until a client has an access token.
//!
//! [`AuthorizationServer`] is the service: it reads and writes sessions, queries the issuer, counts and audits. A handler in
//! `http/` parses a request, calls one method of the service and maps its result.
//!
//! ```text
//! request                  handler in http/   service and core                                      RFC
//! GET  /.well-known/...    well_known         oauth::metadata                                       8414, 9728
//! GET  /jwks               well_known         crypto::SigningRing::jwks                             7517
//! POST /register           register           register: client_id with a MAC, nothing is stored     7591
//! GET  /authorize          authorize          authorize: client, redirect URI, resource, challenge; 6749 4.1.1, 7636,
//!                                             the form of the consent page is sealed                8707
//! POST /consent            consent            approve: login sealed into a cookie, redirect to the  OpenID Connect
//!                                             issuer with PKCE, nonce and state                     Core 3.1.2
//! GET  /callback           callback           finish_login: code for ID token, access rules,        Core 3.1.3, 6749
//!                                             session created, redirect with code, state and iss    4.1.2, 9207
//! POST /token              token              token: code or refresh token for tokens; with         6749 4.1.3, 5.1, 6
//!                                             recheckOnRefresh the issuer is queried first
//! POST /revoke             revoke             revoke: the session ends                              7009
//! ```

mod client_documents;
mod consent;
pub mod http;
mod login;
mod recheck;
mod registration;
mod revocation;
mod store;
mod token;

use std::{net::IpAddr, sync::Arc};

use arc_swap::ArcSwap;
use jiff::{SignedDuration, Timestamp};
use tokio::runtime::Handle;

pub use self::{
    client_documents::ClientDocuments,
    consent::ApprovedLogin,
    login::{IssuerResponse, LoginFailure},
};
use super::{
    clock::Clock,
    identity_provider::Issuer,
    observability::metrics::Metrics,
    secrets::Secrets,
    sessions::{SessionStore, Sessions},
};
use crate::{
    access::Rules,
    api::PublicUrl,
    config::ProxyConfig,
    oauth::{OAuthError, client_registry::ClientRegistry, resource::Resources},
};

#[cfg_attr(test, derive(Clone))]
pub struct AuthorizationServer {
    pub config: ProxyConfig,
    /// The `iss` of our tokens.
    pub public_url: PublicUrl,
    pub resources: Resources,
    pub issuer: Arc<Issuer>,
    pub documents: Arc<ClientDocuments>,
    pub secrets: Arc<ArcSwap<Secrets>>,
    /// Its calls must run on `control`.
    pub store: Arc<dyn SessionStore>,
    /// The runtime of everything outside the request path.
    pub control: Handle,
    pub sessions: Arc<Sessions>,
    pub rules: Arc<Rules>,
    pub metrics: Arc<Metrics>,
    pub clock: Clock,
}

/// The authenticated client of a token or revocation request.
pub struct AuthenticatedClient {
    pub id: String,
    /// The secrets that authenticated the client; its response is made with the same.
    pub secrets: Arc<Secrets>,
    pub ip: Option<IpAddr>,
}

impl AuthorizationServer {
    /// How long a superseded refresh token is accepted after the use of its successor (`tokens.refreshGrace`).
    pub fn refresh_grace(&self) -> SignedDuration {
        self.config.tokens.refresh_grace.signed()
    }

    pub fn client_registry<'a>(&'a self, secrets: &'a Secrets) -> ClientRegistry<'a> {
        ClientRegistry {
            keyring: &secrets.keyring,
            static_clients: &secrets.static_clients,
            rules: &self.config.clients,
        }
    }

    pub fn now(&self) -> Timestamp {
        (self.clock)()
    }

    /// Runs `work` on the control runtime to completion. A client that disconnects does not cancel it: a refresh token that
    /// the issuer has just rotated would be lost.
    pub async fn run<T, E, F>(self: &Arc<Self>, work: impl FnOnce(Arc<Self>) -> F) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<OAuthError> + Send + 'static,
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        let finished = self.control.spawn(work(self.clone())).await;
        finished.unwrap_or_else(|_| Err(OAuthError::temporarily_unavailable("this server is shutting down").into()))
    }
}
