use std::net::IpAddr;

use super::AuthorizationServer;
use crate::{
    oauth::{
        ErrorCode, OAuthError,
        client::{Client, RegistrationResponse},
    },
    proxy::observability::{audit, metrics::OAuthOutcome},
};

impl AuthorizationServer {
    /// Registers a client (RFC 7591). Nothing is stored: the `client_id` contains the registration.
    pub fn register(&self, body: &[u8], client_ip: Option<IpAddr>) -> Result<RegistrationResponse, OAuthError> {
        let secrets = self.secrets.load();
        let response = Client::register(body, &self.config.clients.redirects, self.now())
            .and_then(|client| client.registration_response(&secrets.keyring));
        self.metrics.registrations.count(OAuthOutcome::of(&response));
        if let Err(error) = &response {
            audit::registration_refused(error, client_ip);
        }
        response
    }

    /// Counts a registration whose body could not be read.
    pub fn registration_rejected(&self) {
        self.metrics.registrations.count(OAuthOutcome(Some(ErrorCode::InvalidRequest)));
    }
}
