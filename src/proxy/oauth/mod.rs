//! The core of the authorization server: what a request means and what the answer is. No HTTP, no I/O, no clock and no
//! randomness of its own; `endpoints` brings those.

pub mod authorize;
pub mod client;
pub mod code;
mod error;
pub mod login;
pub mod metadata;
pub mod pkce;
pub mod redirect_uri;
pub mod refresh;
pub mod resource;

pub use error::{ErrorCode, OAuthError};

/// The one scope there is: to use the MCP server. Clients ask for all sorts of others, which are narrowed to it.
pub const SCOPE: &str = "mcp";

/// SHA-256 of a client id in base64url: names a client in records without repeating its registration.
pub fn client_id_hash(client_id: &str) -> String {
    use aws_lc_rs::digest::{SHA256, digest};
    use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
    BASE64_URL_SAFE_NO_PAD.encode(digest(&SHA256, client_id.as_bytes()))
}
