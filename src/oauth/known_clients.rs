//! Which clients there are, and how each proves at the token endpoint that it is itself. Three kinds: those that registered
//! themselves, those that whoever runs this server has listed, and those that a metadata document describes.

use std::collections::HashMap;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use secrecy::{ExposeSecret, SecretString};

use super::{
    OAuthError,
    client::{AuthMethod, Client},
    client_document::DocumentUrl,
};
use crate::{
    api::proxy::{Clients, StaticClient},
    crypto::Keyring,
};

/// The clients of `clients.static`, by their ids, each with its secret if it has one.
#[derive(Clone, Debug, Default)]
pub struct ListedClients(HashMap<String, (Client, Option<SecretString>)>);

impl ListedClients {
    /// Those of a configuration, with the secrets that `secret_of` finds.
    ///
    /// # Errors
    /// What `secret_of` says.
    pub fn new<E>(
        listed: &[StaticClient],
        mut secret_of: impl FnMut(&StaticClient) -> Result<Option<SecretString>, E>,
    ) -> Result<Self, E> {
        let client = |listed: &StaticClient| {
            let secret = secret_of(listed)?;
            let client = Client {
                name: listed.client_id.to_string(),
                redirect_uris: listed.redirect_uris.iter().map(ToString::to_string).collect(),
                auth_method: if secret.is_some() { AuthMethod::ClientSecretPost } else { AuthMethod::None },
                refreshes: true,
                issued_at: 0,
            };
            Ok((listed.client_id.to_string(), (client, secret)))
        };
        Ok(Self(listed.iter().map(client).collect::<Result<_, E>>()?))
    }
}

/// A client that asks for a login.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Asking {
    /// It registered itself.
    Registered(Client),
    /// It is listed: its redirect URIs are not held against `clients.redirects`.
    Listed(Client),
    /// A metadata document describes it.
    Documented {
        /// The document's host, which alone is proven.
        host: String,
        /// What the document says.
        client: Client,
    },
}

impl Asking {
    /// What it says of itself.
    pub const fn client(&self) -> &Client {
        let (Self::Registered(client) | Self::Listed(client) | Self::Documented { client, .. }) = self;
        client
    }
}

/// Everything by which clients are known.
#[derive(Clone, Copy)]
pub struct KnownClients<'a> {
    /// Reads the ids that we gave out.
    pub keyring: &'a Keyring,
    /// The listed ones.
    pub listed: &'a ListedClients,
    /// The rules for the others.
    pub rules: &'a Clients,
}

/// What an id stands for.
#[derive(Debug)]
pub enum Found {
    /// A client that is known.
    Client(Asking),
    /// The address of a document that has to be asked for.
    Document(DocumentUrl),
}

impl KnownClients<'_> {
    /// What the id of an authorization request stands for.
    ///
    /// # Errors
    /// `invalid_client`, with what to do.
    pub fn find(&self, id: &str) -> Result<Found, OAuthError> {
        if let Some((client, _)) = self.listed.0.get(id) {
            return Ok(Found::Client(Asking::Listed(client.clone())));
        }
        if let Some(client) = Client::from_id(id, self.keyring) {
            return Ok(Found::Client(Asking::Registered(client)));
        }
        if DocumentUrl::is_meant_by(id) {
            return DocumentUrl::parse(id, self.rules).map(Found::Document);
        }
        Err(OAuthError::invalid_client(
            "this server does not know the client: remove its stored login and connect again",
        ))
    }

    /// The id of the client that sends a token request, which has proved that it is itself. `Authorization: Basic` and the
    /// body may both name it if they agree: the Python SDK sends both. No document is fetched: whoever has none of our codes
    /// and refresh tokens gets nothing by the id of a client that has no secret.
    ///
    /// # Errors
    /// `invalid_client`.
    pub fn authenticate(
        &self,
        basic: Option<(String, String)>,
        id_in_body: Option<&str>,
        secret_in_body: Option<&str>,
    ) -> Result<String, OAuthError> {
        let (id, secret) = match (basic, id_in_body) {
            (Some((id, _)), Some(named)) if id != named => {
                return Err(OAuthError::invalid_client("Authorization and client_id name two clients"));
            }
            (Some((id, secret)), _) => (id, Some(secret)),
            (None, Some(id)) => (id.to_owned(), secret_in_body.map(str::to_owned)),
            (None, None) => return Err(OAuthError::invalid_client("client_id is missing")),
        };
        // Some clients send an empty secret for none.
        let secret = secret.as_deref().filter(|secret| !secret.is_empty());
        if let Some((_, expected)) = self.listed.0.get(&id) {
            check_listed(expected.as_ref(), secret)?;
        } else if let Some(client) = Client::from_id(&id, self.keyring) {
            client.authenticate(&id, secret, self.keyring)?;
        } else if DocumentUrl::is_meant_by(&id) {
            DocumentUrl::parse(&id, self.rules)?;
            if secret.is_some() {
                return Err(OAuthError::invalid_client("a client with a metadata document has no secret here"));
            }
        } else {
            return Err(OAuthError::invalid_client("this server does not know the client: register again"));
        }
        Ok(id)
    }
}

fn check_listed(expected: Option<&SecretString>, secret: Option<&str>) -> Result<(), OAuthError> {
    let same = |expected: &SecretString, secret: &str| {
        verify_slices_are_equal(expected.expose_secret().as_bytes(), secret.as_bytes()).is_ok()
    };
    match (expected, secret) {
        (None, None) => Ok(()),
        (Some(expected), Some(secret)) if same(expected, secret) => Ok(()),
        (Some(_), None) => Err(OAuthError::invalid_client("this client is listed with a secret and has to send it")),
        (None, Some(_)) => Err(OAuthError::invalid_client("this client is listed without a secret: send none")),
        (Some(_), Some(_)) => Err(OAuthError::invalid_client("the client secret is wrong")),
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use serde_json::json;

    use super::super::{ErrorCode, client::tests::register};
    use super::*;
    use crate::crypto::testing::keyring;

    const DOCUMENT: &str = "https://claude.ai/oauth/claude-code-client-metadata";

    fn listed() -> ListedClients {
        let listed: Vec<StaticClient> = serde_json::from_value(json!([
            {"clientID": "typed-in", "redirectURIs": ["https://chat.internal/callback"],
                "secretRef": {"name": "chat", "key": "secret"}},
            {"clientID": "public", "redirectURIs": ["http://localhost/callback"]},
        ]))
        .unwrap();
        ListedClients::new(&listed, |listed| {
            Ok::<_, Infallible>(listed.secret_ref.as_ref().map(|_| SecretString::from("open sesame")))
        })
        .unwrap()
    }

    #[test]
    fn client_id_in_basic_auth_and_body_must_match() {
        let (keyring, listed, rules) = (keyring(), listed(), Clients::default());
        let known = KnownClients { keyring: &keyring, listed: &listed, rules: &rules };
        let id = register(&json!({"redirect_uris": ["http://127.0.0.1/"]})).unwrap().id(&keyring).unwrap();
        let secret = Client::secret(&id, &keyring);
        let of = |basic: Option<(&str, &str)>, id: Option<&str>, secret: Option<&str>| {
            let basic = basic.map(|(id, secret)| (id.to_owned(), secret.to_owned()));
            known.authenticate(basic, id, secret).map_err(|error| error.code)
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
    fn listed_client_authenticates_with_its_configured_credentials_only() {
        let (keyring, listed, rules) = (keyring(), listed(), Clients::default());
        let known = KnownClients { keyring: &keyring, listed: &listed, rules: &rules };
        let Ok(Found::Client(Asking::Listed(client))) = known.find("typed-in") else { panic!("it is listed") };
        assert!(client.allows("https://chat.internal/callback") && !client.allows("https://chat.internal/"));
        let of = |id: &str, secret: Option<&str>| known.authenticate(None, Some(id), secret).is_ok();
        assert!(of("typed-in", Some("open sesame")) && of("public", None) && of("public", Some("")));
        for (id, secret) in [
            ("typed-in", None),
            ("typed-in", Some("open sesame ")),
            ("public", Some("open sesame")),
            ("typed-in ", Some("open sesame")),
        ] {
            assert!(!of(id, secret), "{id} {secret:?}");
        }
        assert!(!format!("{listed:?}").contains("sesame"));
    }

    #[test]
    fn metadata_document_client_has_known_host_and_no_secret() {
        let (keyring, listed, rules) = (keyring(), ListedClients::default(), Clients::default());
        let known = KnownClients { keyring: &keyring, listed: &listed, rules: &rules };
        assert!(matches!(known.find(DOCUMENT), Ok(Found::Document(url)) if url.as_str() == DOCUMENT));
        assert_eq!(known.authenticate(None, Some(DOCUMENT), None), Ok(DOCUMENT.to_owned()));
        for (id, secret) in [(DOCUMENT, Some("x")), ("https://evil.example/client", None)] {
            assert_eq!(
                known.authenticate(None, Some(id), secret).map_err(|error| error.code),
                Err(ErrorCode::InvalidClient)
            );
        }
    }
}
