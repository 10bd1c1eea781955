//! Dynamic client registration (RFC 7591) that stores nothing: the registration is inside the `client_id`, with a MAC.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{OAuthError, redirect_uri};
use crate::{
    api::proxy::Redirects,
    crypto::{Keyring, Purpose},
    untrusted_text::deceives,
};

/// The longest name that a client may have, in characters.
const MAX_NAME: usize = 64;

/// The most redirect URIs that a client may register.
const MAX_REDIRECT_URIS: usize = 10;

/// The longest `client_id`, in bytes: it comes back in query strings.
const MAX_CLIENT_ID: usize = 2048;

/// How a client proves at the token endpoint that it is itself.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum AuthMethod {
    /// A public client: PKCE alone.
    #[serde(rename = "n")]
    None,
    /// `client_secret` in the body.
    #[serde(rename = "p")]
    ClientSecretPost,
    /// HTTP Basic.
    #[serde(rename = "b")]
    ClientSecretBasic,
}

impl AuthMethod {
    const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::ClientSecretPost => "client_secret_post",
            Self::ClientSecretBasic => "client_secret_basic",
        }
    }
}

/// A registered client, as it is kept in its own id. The names are short because the id is sent with every request.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Client {
    /// The name it gave itself: not to be believed.
    #[serde(rename = "n")]
    pub name: String,
    /// Where a browser may be sent back to.
    #[serde(rename = "r")]
    pub redirect_uris: Vec<String>,
    /// How it proves itself.
    #[serde(rename = "m")]
    pub auth_method: AuthMethod,
    /// Whether it asked for refresh tokens.
    #[serde(rename = "f")]
    pub refreshes: bool,
    /// When it registered, in seconds since 1970.
    #[serde(rename = "t")]
    pub issued_at: i64,
}

/// The members of a client's metadata that we read; all others are ignored (RFC 7591 §2).
#[derive(Debug, Default, Deserialize)]
pub(super) struct Metadata {
    /// Only in a metadata document.
    #[serde(default)]
    pub client_id: Option<String>,
    #[serde(default)]
    redirect_uris: Vec<String>,
    #[serde(default)]
    pub client_name: Option<String>,
    #[serde(default)]
    pub token_endpoint_auth_method: Option<String>,
    #[serde(default)]
    grant_types: Option<Vec<String>>,
    #[serde(default)]
    response_types: Option<Vec<String>>,
}

impl Metadata {
    /// Reads the JSON of a registration or of a metadata document, named by `what`.
    pub fn parse(body: &[u8], what: &str) -> Result<Self, OAuthError> {
        serde_json::from_slice(body).map_err(|error| {
            // Not serde's own words, which repeat the input.
            OAuthError::invalid_client_metadata(format!(
                "{what} must be a JSON object of RFC 7591; line {}, column {} is not",
                error.line(),
                error.column()
            ))
        })
    }

    /// The client that this describes. Redirect URIs that may not be used are left out, because clients register several at
    /// once (Cursor: a custom scheme among them); at least one must remain.
    pub fn client(self, auth_method: AuthMethod, rules: &Redirects, issued_at: i64) -> Result<Client, OAuthError> {
        if self.grant_types.as_ref().is_some_and(|types| !types.iter().any(|t| t == "authorization_code")) {
            return Err(OAuthError::invalid_client_metadata("grant_types must include authorization_code"));
        }
        if self.response_types.as_ref().is_some_and(|types| !types.iter().any(|t| t == "code")) {
            return Err(OAuthError::invalid_client_metadata("response_types must include code"));
        }
        if self.redirect_uris.len() > MAX_REDIRECT_URIS {
            return Err(OAuthError::invalid_redirect_uri("ten redirect_uris at most may be registered"));
        }
        let mut refusal = "redirect_uris must hold at least one URI".into();
        let mut redirect_uris = Vec::new();
        for uri in self.redirect_uris {
            match redirect_uri::check(&uri, rules) {
                Ok(()) if redirect_uris.contains(&uri) => {}
                Ok(()) => redirect_uris.push(uri),
                Err(why) => refusal = why,
            }
        }
        if redirect_uris.is_empty() {
            return Err(OAuthError::invalid_redirect_uri(refusal));
        }
        Ok(Client {
            name: display_name(self.client_name.as_deref().unwrap_or_default()),
            redirect_uris,
            auth_method,
            refreshes: self.grant_types.is_none_or(|types| types.iter().any(|t| t == "refresh_token")),
            issued_at,
        })
    }
}

impl Client {
    /// Reads a registration.
    ///
    /// # Errors
    /// `invalid_client_metadata` or `invalid_redirect_uri`, with what to send instead.
    pub fn register(body: &[u8], rules: &Redirects, now: Timestamp) -> Result<Self, OAuthError> {
        let metadata = Metadata::parse(body, "the registration")?;
        let auth_method = match metadata.token_endpoint_auth_method.as_deref() {
            Some("none") => AuthMethod::None,
            Some("client_secret_post") => AuthMethod::ClientSecretPost,
            // RFC 7591 §2: the default when it is left out.
            Some("client_secret_basic") | None => AuthMethod::ClientSecretBasic,
            Some(_) => {
                return Err(OAuthError::invalid_client_metadata(
                    "token_endpoint_auth_method must be none, client_secret_post or client_secret_basic",
                ));
            }
        };
        metadata.client(auth_method, rules, now.as_second())
    }

    /// The `client_id`.
    ///
    /// # Errors
    /// `invalid_client_metadata` when it would be too long to be sent around.
    pub fn id(&self, keyring: &Keyring) -> Result<String, OAuthError> {
        keyring.sign(Purpose::ClientId, self).filter(|id| id.len() <= MAX_CLIENT_ID).ok_or_else(|| {
            OAuthError::invalid_client_metadata(
                "the registration is too large: register fewer or shorter redirect_uris",
            )
        })
    }

    /// The client of a `client_id` that we gave out.
    pub fn from_id(id: &str, keyring: &Keyring) -> Option<Self> {
        if id.len() > MAX_CLIENT_ID { None } else { keyring.read(Purpose::ClientId, id) }
    }

    /// The secret that belongs to a `client_id`.
    pub fn secret(id: &str, keyring: &Keyring) -> String {
        keyring.mac_text(Purpose::ClientSecret, &[id.as_bytes()])
    }

    /// Checks how the client proves itself at the token endpoint. A public client needs no secret; one that sends a
    /// secret must send the right one.
    ///
    /// # Errors
    /// `invalid_client`.
    pub fn authenticate(&self, id: &str, secret: Option<&str>, keyring: &Keyring) -> Result<(), OAuthError> {
        let proven = secret.map(|secret| keyring.verify_mac_text(Purpose::ClientSecret, &[id.as_bytes()], secret));
        match (self.auth_method, proven) {
            (_, Some(true)) | (AuthMethod::None, None) => Ok(()),
            (_, Some(false)) => Err(OAuthError::invalid_client("the client secret is wrong")),
            (_, None) => Err(OAuthError::invalid_client("this client registered with a secret and has to send it")),
        }
    }

    /// Whether the browser may be sent back there.
    pub fn allows(&self, requested: &str) -> bool {
        self.redirect_uris.iter().any(|registered| redirect_uri::matches(registered, requested))
    }

    /// The answer to a registration (RFC 7591 §3.2.1). A member that does not apply is left out: empty strings break
    /// clients.
    pub fn answer(&self, id: &str, keyring: &Keyring) -> Value {
        let mut answer = json!({
            "client_id": id,
            "client_id_issued_at": self.issued_at,
            "client_name": self.name,
            "redirect_uris": self.redirect_uris,
            "grant_types": if self.refreshes { vec!["authorization_code", "refresh_token"] } else { vec!["authorization_code"] },
            "response_types": ["code"],
            "token_endpoint_auth_method": self.auth_method.as_str(),
        });
        if self.auth_method != AuthMethod::None {
            answer["client_secret"] = Self::secret(id, keyring).into();
            answer["client_secret_expires_at"] = 0.into();
        }
        answer
    }
}

/// A name that can be shown: without control characters and those that turn the direction of writing, and not too long.
fn display_name(name: &str) -> String {
    let shown: String = name.chars().filter(|character| !deceives(*character)).take(MAX_NAME).collect();
    let shown = shown.trim();
    if shown.is_empty() { "An MCP client".to_owned() } else { shown.to_owned() }
}

#[cfg(test)]
pub mod tests {
    use super::super::ErrorCode;
    use super::*;
    use crate::crypto::testing::keyring;

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
        let answer = client.answer(&id, &keyring);
        assert_eq!(answer.get("client_secret"), None);
        assert_eq!(answer["token_endpoint_auth_method"], "none");
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
        let answer = client.answer(&id, &keyring);
        assert_eq!(answer["token_endpoint_auth_method"], "client_secret_basic");
        assert_eq!(answer["client_secret_expires_at"], 0);
        let secret = answer["client_secret"].as_str();
        assert_eq!(client.authenticate(&id, secret, &keyring), Ok(()));
        for wrong in [None, Some(""), Some("wrong")] {
            assert_eq!(client.authenticate(&id, wrong, &keyring).unwrap_err().code, ErrorCode::InvalidClient);
        }
    }

    #[test]
    fn invalid_registrations_return_rfc_7591_error_codes() {
        for (body, code) in [
            (json!({}), ErrorCode::InvalidRedirectUri),
            (json!({"redirect_uris": []}), ErrorCode::InvalidRedirectUri),
            (json!({"redirect_uris": ["https://evil.example.com/"]}), ErrorCode::InvalidRedirectUri),
            (json!({"redirect_uris": "http://localhost/"}), ErrorCode::InvalidClientMetadata),
            (json!([]), ErrorCode::InvalidRedirectUri),
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
    fn b3_client_name_contains_no_bidi_controls() {
        let client = register(&json!({
            "client_name": format!("\u{202e}evil\u{0007}\n{}", "x".repeat(100)),
            "redirect_uris": ["http://localhost/"],
        }))
        .unwrap();
        assert!(client.name.starts_with("evilx") && client.name.chars().count() <= MAX_NAME);
    }
}
