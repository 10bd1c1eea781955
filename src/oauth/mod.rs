//! The core of the authorization server: what a request means and what the answer is. No HTTP, no I/O, no clock and no
//! randomness of its own (but for the nonces of sealed values); `proxy::authorization_server` brings those.

pub mod authorize;
pub mod client;
pub mod client_document;
pub mod code;
mod error;
pub mod known_clients;
pub mod login;
pub mod metadata;
pub mod pkce;
pub mod redirect_uri;
pub mod refresh;
pub mod resource;
pub mod tokens;

pub use error::{ErrorCode, OAuthError};

/// The one scope there is: to use the MCP server. Clients ask for all sorts of others, which are narrowed to it.
pub const SCOPE: &str = "mcp";

/// Asks for refresh tokens (OIDC Core §11), for clients that did not register for them.
pub const OFFLINE_ACCESS: &str = "offline_access";

/// SHA-256 of a text in base64url.
pub fn sha256_text(text: &str) -> String {
    use aws_lc_rs::digest::{SHA256, digest};
    use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
    BASE64_URL_SAFE_NO_PAD.encode(digest(&SHA256, text.as_bytes()))
}

/// Names a client in records without repeating its registration.
pub fn client_id_hash(client_id: &str) -> String {
    sha256_text(client_id)
}
