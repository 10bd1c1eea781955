//! Identifies and authenticates clients of three kinds: registered dynamically, static in the configuration, and described by
//! a metadata document.

use std::collections::HashMap;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use secrecy::{ExposeSecret, SecretString};

use super::{
    OAuthError,
    client::{AuthMethod, Client, WRONG_SECRET},
    client_document::DocumentUrl,
};
use crate::{
    api::proxy::{Clients, StaticClient},
    crypto::Keyring,
};

/// The clients of `clients.static` by their ids, with their secrets.
#[derive(Clone, Debug, Default)]
pub struct StaticClients(HashMap<String, (Client, Option<SecretString>)>);

impl StaticClients {
    pub fn new<E>(
        configured: &[StaticClient],
        mut secret_of: impl FnMut(&StaticClient) -> Result<Option<SecretString>, E>,
    ) -> Result<Self, E> {
        let client = |configured: &StaticClient| {
            let secret = secret_of(configured)?;
            let client = Client {
                name: configured.client_id.to_string(),
                redirect_uris: configured.redirect_uris.iter().map(ToString::to_string).collect(),
                auth_method: if secret.is_some() { AuthMethod::ClientSecretPost } else { AuthMethod::None },
                refreshes: true,
                issued_at: 0,
            };
            Ok((configured.client_id.to_string(), (client, secret)))
        };
        Ok(Self(configured.iter().map(client).collect::<Result<_, E>>()?))
    }
}

/// The client of an authorization request.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ResolvedClient {
    Registered(Client),
    /// Its redirect URIs are exempt from `clients.redirects`.
    Static(Client),
    /// `host` is the document's host, the only verified property.
    Document {
        host: String,
        client: Client,
    },
}

impl ResolvedClient {
    pub const fn client(&self) -> &Client {
        let (Self::Registered(client) | Self::Static(client) | Self::Document { client, .. }) = self;
        client
    }
}

#[derive(Clone, Copy)]
pub struct ClientRegistry<'a> {
    pub keyring: &'a Keyring,
    pub static_clients: &'a StaticClients,
    pub rules: &'a Clients,
}

impl ClientRegistry<'_> {
    /// Returns a static or registered client.
    pub fn find(&self, id: &str) -> Option<ResolvedClient> {
        let static_client = self.static_clients.0.get(id).map(|(client, _)| ResolvedClient::Static(client.clone()));
        static_client.or_else(|| Client::from_id(id, self.keyring).map(ResolvedClient::Registered))
    }

    /// Returns the URL of the metadata document of a client that [`Self::find`] does not know.
    pub fn document_url(&self, id: &str) -> Result<DocumentUrl, OAuthError> {
        if DocumentUrl::is_url(id) {
            return DocumentUrl::parse(id, self.rules);
        }
        Err(OAuthError::invalid_client("unknown client: remove its stored login and connect again"))
    }

    /// Authenticates the client of a token request and returns its id. `Authorization: Basic` and the body may both contain the
    /// id if it is the same: the Python SDK sends both. No metadata document is fetched: such a client has no secret, and its id
    /// is useless without a code or refresh token.
    pub fn authenticate(
        &self,
        basic: Option<(String, String)>,
        id_in_body: Option<&str>,
        secret_in_body: Option<&str>,
    ) -> Result<String, OAuthError> {
        let (id, secret) = match (basic, id_in_body) {
            (Some((id, _)), Some(in_body)) if id != in_body => {
                return Err(OAuthError::invalid_client("Authorization and client_id identify different clients"));
            }
            (Some((id, secret)), _) => (id, Some(secret)),
            (None, Some(id)) => (id.to_owned(), secret_in_body.map(str::to_owned)),
            (None, None) => return Err(OAuthError::invalid_client("client_id is missing")),
        };
        // Some public clients send an empty secret.
        let secret = secret.as_deref().filter(|secret| !secret.is_empty());
        if let Some((_, expected)) = self.static_clients.0.get(&id) {
            check_static_secret(expected.as_ref(), secret)?;
        } else if let Some(client) = Client::from_id(&id, self.keyring) {
            client.authenticate(&id, secret, self.keyring)?;
        } else if DocumentUrl::is_url(&id) {
            DocumentUrl::parse(&id, self.rules)?;
            if secret.is_some() {
                return Err(OAuthError::invalid_client("clients with a metadata document have no secret: omit it"));
            }
        } else {
            return Err(OAuthError::invalid_client("unknown client: register again"));
        }
        Ok(id)
    }
}

fn check_static_secret(expected: Option<&SecretString>, secret: Option<&str>) -> Result<(), OAuthError> {
    let error = match (expected, secret) {
        (None, None) => return Ok(()),
        (Some(_), None) => "this client is configured with a secret and must send it",
        (None, Some(_)) => "this client is configured without a secret: omit it",
        (Some(expected), Some(secret)) => {
            if verify_slices_are_equal(expected.expose_secret().as_bytes(), secret.as_bytes()).is_ok() {
                return Ok(());
            }
            WRONG_SECRET
        }
    };
    Err(OAuthError::invalid_client(error))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use serde_json::json;

    use super::super::{ErrorCode, client::tests::register};
    use super::*;
    use crate::testing::keyring;

    const DOCUMENT: &str = "https://claude.ai/oauth/claude-code-client-metadata";

    fn static_clients() -> StaticClients {
        let static_clients: Vec<StaticClient> = serde_json::from_value(json!([
            {"clientID": "typed-in", "redirectURIs": ["https://chat.internal/callback"],
                "secretRef": {"name": "chat", "key": "secret"}},
            {"clientID": "public", "redirectURIs": ["http://localhost/callback"]},
        ]))
        .unwrap();
        StaticClients::new(&static_clients, |client| {
            Ok::<_, Infallible>(client.secret_ref.as_ref().map(|_| SecretString::from("open sesame")))
        })
        .unwrap()
    }

    #[test]
    fn client_id_in_basic_auth_and_body_must_match() {
        let (keyring, static_clients, rules) = (keyring(), static_clients(), Clients::default());
        let registry = ClientRegistry { keyring: &keyring, static_clients: &static_clients, rules: &rules };
        let id = register(&json!({"redirect_uris": ["http://127.0.0.1/"]})).unwrap().id(&keyring).unwrap();
        let secret = Client::secret(&id, &keyring);
        let of = |basic: Option<(&str, &str)>, id: Option<&str>, secret: Option<&str>| {
            let basic = basic.map(|(id, secret)| (id.to_owned(), secret.to_owned()));
            registry.authenticate(basic, id, secret).map_err(|error| error.code)
        };
        assert_eq!(of(Some((&id, &secret)), Some(&id), None), Ok(id.clone()));
        assert_eq!(of(None, Some(&id), Some(&secret)), Ok(id.clone()));
        for wrong in [
            of(Some((&id, &secret)), Some("another"), None),
            of(Some((&id, "wrong")), None, Some(&secret)),
            of(None, Some(&id), None),
            of(None, Some("unknown"), None),
            of(None, None, None),
        ] {
            assert_eq!(wrong, Err(ErrorCode::InvalidClient));
        }
    }

    #[test]
    fn static_client_authenticates_with_its_configured_credentials_only() {
        let (keyring, static_clients, rules) = (keyring(), static_clients(), Clients::default());
        let registry = ClientRegistry { keyring: &keyring, static_clients: &static_clients, rules: &rules };
        let Some(ResolvedClient::Static(client)) = registry.find("typed-in") else { panic!("it is listed") };
        assert!(client.allows("https://chat.internal/callback") && !client.allows("https://chat.internal/"));
        let of = |id: &str, secret: Option<&str>| registry.authenticate(None, Some(id), secret).is_ok();
        assert!(of("typed-in", Some("open sesame")) && of("public", None) && of("public", Some("")));
        for (id, secret) in [
            ("typed-in", None),
            ("typed-in", Some("open sesame ")),
            ("public", Some("open sesame")),
            ("typed-in ", Some("open sesame")),
        ] {
            assert!(!of(id, secret), "{id} {secret:?}");
        }
        assert!(!format!("{static_clients:?}").contains("sesame"));
    }

    #[test]
    fn metadata_document_client_has_known_host_and_no_secret() {
        let (keyring, static_clients, rules) = (keyring(), StaticClients::default(), Clients::default());
        let registry = ClientRegistry { keyring: &keyring, static_clients: &static_clients, rules: &rules };
        assert_eq!(registry.find(DOCUMENT), None);
        assert_eq!(registry.document_url(DOCUMENT).unwrap().as_str(), DOCUMENT);
        assert_eq!(registry.authenticate(None, Some(DOCUMENT), None), Ok(DOCUMENT.to_owned()));
        for (id, secret) in [(DOCUMENT, Some("x")), ("https://evil.example/client", None)] {
            assert_eq!(
                registry.authenticate(None, Some(id), secret).map_err(|error| error.code),
                Err(ErrorCode::InvalidClient)
            );
        }
    }
}
