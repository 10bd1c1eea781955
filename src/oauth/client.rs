//! Dynamic client registration (RFC 7591) without storage: the `client_id` is the registration with a MAC.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{OAuthError, metadata::GRANT_TYPES, redirect_uri};
use crate::{
    api::proxy::Redirects,
    crypto::{Keyring, Purpose},
    untrusted_text::is_deceptive,
};

/// In characters.
const MAX_NAME: usize = 64;

const MAX_REDIRECT_URIS: usize = 10;

pub(super) const WRONG_SECRET: &str = "invalid client secret";

/// In bytes: clients send the id in query strings.
const MAX_CLIENT_ID: usize = 2048;

#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum AuthMethod {
    /// A public client: PKCE alone.
    #[serde(rename = "n")]
    None,
    #[serde(rename = "p")]
    ClientSecretPost,
    #[serde(rename = "b")]
    ClientSecretBasic,
}

impl AuthMethod {
    const ALL: [Self; 3] = [Self::None, Self::ClientSecretPost, Self::ClientSecretBasic];

    const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::ClientSecretPost => "client_secret_post",
            Self::ClientSecretBasic => "client_secret_basic",
        }
    }
}

/// A registered client, as its id contains it. Member names are short because the id is part of every request.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Client {
    /// Chosen by the client and not verified.
    #[serde(rename = "n")]
    pub name: String,
    #[serde(rename = "r")]
    pub redirect_uris: Vec<String>,
    #[serde(rename = "m")]
    pub auth_method: AuthMethod,
    #[serde(rename = "f")]
    pub refreshes: bool,
    /// Unix time of the registration in seconds.
    #[serde(rename = "t")]
    pub issued_at: i64,
}

/// The response to a registration (RFC 7591 §3.2.1). A member that does not apply is omitted: clients reject empty strings.
#[derive(Debug, Serialize)]
pub struct RegistrationResponse {
    pub client_id: String,
    pub client_id_issued_at: i64,
    pub client_name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_secret: Option<String>,
    /// 0, for no expiry; present with a secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_secret_expires_at: Option<u8>,
    pub grant_types: &'static [&'static str],
    pub redirect_uris: Vec<String>,
    pub response_types: [&'static str; 1],
    pub token_endpoint_auth_method: &'static str,
}

/// The members of a client's metadata that this server uses; others are ignored (RFC 7591 §2).
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ClientMetadata {
    /// Only in a metadata document.
    pub client_id: Option<String>,
    redirect_uris: Vec<String>,
    pub client_name: Option<String>,
    pub token_endpoint_auth_method: Option<String>,
    grant_types: Option<Vec<String>>,
    response_types: Option<Vec<String>>,
}

impl ClientMetadata {
    /// Parses a registration or a metadata document; `what` names it in the error.
    pub fn parse(body: &[u8], what: &str) -> Result<Self, OAuthError> {
        // serde would also accept an array of the members.
        if body.trim_ascii_start().first() != Some(&b'{') {
            let must = if body.trim_ascii().is_empty() { "is empty: it must" } else { "must" };
            return Err(OAuthError::invalid_client_metadata(format!(
                "{what} {must} be a JSON object with the client's metadata (RFC 7591), at least redirect_uris"
            )));
        }
        serde_json::from_slice(body).map_err(|error| {
            // Not serde's message, which repeats the input.
            OAuthError::invalid_client_metadata(format!(
                "{what} is not a valid JSON object of RFC 7591: error at line {}, column {}",
                error.line(),
                error.column()
            ))
        })
    }

    /// Returns the described client, without the redirect URIs that the rules refuse: clients register several at once
    /// (Cursor: one with a custom scheme). At least one must remain.
    pub fn client(self, auth_method: AuthMethod, rules: &Redirects, issued_at: i64) -> Result<Client, OAuthError> {
        let lacks = |types: &Option<Vec<String>>, name: &str| {
            types.as_ref().is_some_and(|types| !types.iter().any(|t| t == name))
        };
        if lacks(&self.grant_types, "authorization_code") {
            return Err(OAuthError::invalid_client_metadata("grant_types must include authorization_code"));
        }
        if lacks(&self.response_types, "code") {
            return Err(OAuthError::invalid_client_metadata("response_types must include code"));
        }
        if self.redirect_uris.len() > MAX_REDIRECT_URIS {
            return Err(OAuthError::invalid_redirect_uri("at most ten redirect_uris can be registered"));
        }
        let mut reason = "redirect_uris must hold at least one URI".into();
        let mut redirect_uris = Vec::new();
        for uri in self.redirect_uris {
            match redirect_uri::check(&uri, rules) {
                Ok(()) if redirect_uris.contains(&uri) => {}
                Ok(()) => redirect_uris.push(uri),
                Err(refused) => reason = refused,
            }
        }
        if redirect_uris.is_empty() {
            return Err(OAuthError::invalid_redirect_uri(reason));
        }
        Ok(Client {
            name: display_name(self.client_name.as_deref().unwrap_or_default()),
            redirect_uris,
            auth_method,
            refreshes: !lacks(&self.grant_types, "refresh_token"),
            issued_at,
        })
    }
}

impl Client {
    pub fn register(body: &[u8], rules: &Redirects, now: Timestamp) -> Result<Self, OAuthError> {
        let metadata = ClientMetadata::parse(body, "the registration")?;
        // The default of RFC 7591 §2.
        let method = metadata.token_endpoint_auth_method.as_deref().unwrap_or("client_secret_basic");
        let auth_method = AuthMethod::ALL.into_iter().find(|known| known.as_str() == method).ok_or_else(|| {
            OAuthError::invalid_client_metadata(
                "token_endpoint_auth_method must be none, client_secret_post or client_secret_basic",
            )
        })?;
        metadata.client(auth_method, rules, now.as_second())
    }

    pub fn id(&self, keyring: &Keyring) -> Result<String, OAuthError> {
        keyring.sign(Purpose::ClientId, self).filter(|id| id.len() <= MAX_CLIENT_ID).ok_or_else(|| {
            OAuthError::invalid_client_metadata(
                "the registration is too large: register fewer or shorter redirect_uris",
            )
        })
    }

    pub fn from_id(id: &str, keyring: &Keyring) -> Option<Self> {
        if id.len() > MAX_CLIENT_ID { None } else { keyring.read(Purpose::ClientId, id) }
    }

    pub fn secret(id: &str, keyring: &Keyring) -> String {
        keyring.mac_text(Purpose::ClientSecret, &[id.as_bytes()])
    }

    /// Authenticates the client at the token endpoint. A public client needs no secret, but a secret that it sends must be
    /// correct.
    pub fn authenticate(&self, id: &str, secret: Option<&str>, keyring: &Keyring) -> Result<(), OAuthError> {
        let verified = secret.map(|secret| keyring.verify_mac_text(Purpose::ClientSecret, &[id.as_bytes()], secret));
        match (self.auth_method, verified) {
            (_, Some(true)) | (AuthMethod::None, None) => Ok(()),
            (_, Some(false)) => Err(OAuthError::invalid_client(WRONG_SECRET)),
            (_, None) => Err(OAuthError::invalid_client("this client is registered with a secret and must send it")),
        }
    }

    pub fn allows(&self, requested: &str) -> bool {
        self.redirect_uris.iter().any(|registered| redirect_uri::matches(registered, requested))
    }

    pub fn registration_response(self, keyring: &Keyring) -> Result<RegistrationResponse, OAuthError> {
        let client_id = self.id(keyring)?;
        let client_secret = (self.auth_method != AuthMethod::None).then(|| Self::secret(&client_id, keyring));
        Ok(RegistrationResponse {
            client_id,
            client_id_issued_at: self.issued_at,
            client_name: self.name,
            client_secret_expires_at: client_secret.as_ref().map(|_| 0),
            client_secret,
            grant_types: if self.refreshes { &GRANT_TYPES } else { &["authorization_code"] },
            redirect_uris: self.redirect_uris,
            response_types: ["code"],
            token_endpoint_auth_method: self.auth_method.as_str(),
        })
    }
}

/// A name for display: of limited length, without control and bidirectional formatting characters.
fn display_name(name: &str) -> String {
    let shown: String = name.chars().filter(|character| !is_deceptive(*character)).take(MAX_NAME).collect();
    let shown = shown.trim();
    if shown.is_empty() { "An MCP client".to_owned() } else { shown.to_owned() }
}

#[cfg(test)]
pub mod tests {
    use serde_json::{Value, json};

    use super::super::ErrorCode;
    use super::*;
    use crate::testing::keyring;

    fn response(client: &Client, keyring: &Keyring) -> Value {
        serde_json::to_value(client.clone().registration_response(keyring).unwrap()).unwrap()
    }

    pub fn register(body: &Value) -> Result<Client, OAuthError> {
        Client::register(body.to_string().as_bytes(), &Redirects::default(), Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn client_id_contains_the_registration() {
        let keyring = keyring();
        let client = register(&json!({
            "client_name": "MCP CLI Proxy",
            "redirect_uris": ["http://localhost:3334/oauth/callback"],
            "token_endpoint_auth_method": "none",
            "grant_types": ["authorization_code", "refresh_token"],
            "response_types": ["code"],
            "software_version": "ignored",
        }))
        .unwrap();
        let id = client.id(&keyring).unwrap();
        assert!(id.len() < 512, "{}", id.len());
        assert_eq!(Client::from_id(&id, &keyring), Some(client.clone()));
        assert_eq!(Client::from_id("unknown", &keyring), None);
        let response = response(&client, &keyring);
        assert_eq!(response.get("client_secret"), None);
        assert_eq!(response["token_endpoint_auth_method"], "none");
    }

    #[test]
    fn cursor_registers_three_redirect_uris() {
        let client = register(&json!({"redirect_uris": [
            "cursor://anysphere.cursor-mcp/oauth/callback",
            "https://www.cursor.com/agents/mcp/oauth/callback",
            "http://localhost:8787/callback",
            "unknown-app://callback",
        ]}))
        .unwrap();
        assert_eq!(client.redirect_uris.len(), 3);
        assert!(client.id(&keyring()).unwrap().len() < 512);
    }

    #[test]
    fn registration_without_auth_method_gets_a_valid_secret() {
        let keyring = keyring();
        let client = register(&json!({"redirect_uris": ["http://127.0.0.1/"]})).unwrap();
        let id = client.id(&keyring).unwrap();
        let response = response(&client, &keyring);
        assert_eq!(response["token_endpoint_auth_method"], "client_secret_basic");
        assert_eq!(response["client_secret_expires_at"], 0);
        let secret = response["client_secret"].as_str();
        assert_eq!(client.authenticate(&id, secret, &keyring), Ok(()));
        for wrong in [None, Some(""), Some("wrong")] {
            assert_eq!(client.authenticate(&id, wrong, &keyring).unwrap_err().code, ErrorCode::InvalidClient);
        }
    }

    #[test]
    fn invalid_registrations_return_rfc_7591_error_codes() {
        for (body, code) in [
            (json!({}), ErrorCode::InvalidRedirectUri),
            (json!([null, ["http://localhost/"], "x", "none", null, null]), ErrorCode::InvalidClientMetadata),
            (json!({"redirect_uris": []}), ErrorCode::InvalidRedirectUri),
            (json!({"redirect_uris": ["https://evil.example.com/"]}), ErrorCode::InvalidRedirectUri),
            (json!({"redirect_uris": "http://localhost/"}), ErrorCode::InvalidClientMetadata),
            (json!([]), ErrorCode::InvalidClientMetadata),
            (json!("x"), ErrorCode::InvalidClientMetadata),
            (
                json!({"redirect_uris": ["http://localhost/"], "token_endpoint_auth_method": "private_key_jwt"}),
                ErrorCode::InvalidClientMetadata,
            ),
            (
                json!({"redirect_uris": ["http://localhost/"], "grant_types": ["client_credentials"]}),
                ErrorCode::InvalidClientMetadata,
            ),
        ] {
            assert_eq!(register(&body).unwrap_err().code, code, "{body}");
        }
    }

    #[test]
    fn error_about_an_empty_registration_says_what_to_send() {
        for body in ["", " \r\n"] {
            let error = Client::register(body.as_bytes(), &Redirects::default(), Timestamp::UNIX_EPOCH).unwrap_err();
            assert_eq!(error.code, ErrorCode::InvalidClientMetadata);
            assert_eq!(
                error.description,
                "the registration is empty: it must be a JSON object with the client's metadata (RFC 7591), at least redirect_uris"
            );
        }
    }

    #[test]
    fn b3_client_name_contains_no_bidi_controls() {
        let client = register(&json!({
            "client_name": format!("\u{202e}evil\u{0007}\n{}", "x".repeat(100)),
            "redirect_uris": ["http://localhost/"],
        }))
        .unwrap();
        assert!(client.name.starts_with("evilx") && client.name.chars().count() <= MAX_NAME);
    }
}
