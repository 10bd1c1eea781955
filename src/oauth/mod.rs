//! The protocol core of the authorization server. It is pure: HTTP, I/O, the clock and randomness (except the nonces of
//! sealed values) are in `proxy::authorization_server`.

pub mod authorize;
pub mod client;
pub mod client_document;
pub mod client_registry;
pub mod code;
mod error;
pub mod login;
pub mod metadata;
pub mod parameters;
pub mod pkce;
pub mod redirect_uri;
pub mod refresh;
pub mod resource;
pub mod tokens;

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};

pub use error::{ErrorBody, ErrorCode, OAuthError};

/// The only scope. Requests for other scopes are narrowed to it.
pub const SCOPE: &str = "mcp";

/// Requests refresh tokens (OIDC Core §11), for clients that did not register for them.
pub const OFFLINE_ACCESS: &str = "offline_access";

/// SHA-256 in base64url.
fn sha256_text(text: &str) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(digest(&SHA256, text.as_bytes()))
}

/// Identifies a client in records; a `client_id` itself is long.
pub fn client_id_hash(client_id: &str) -> String {
    sha256_text(client_id)
}
