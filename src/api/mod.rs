//! The custom resources, the 1Password resource that the operator creates, and the value types they share.
//!
//! Pure types: no client, no clock, no file access. Both `operator` and `proxy` use them.

mod bounded;
mod crd;
mod duration;
mod loopback;
mod one_password;
pub mod proxy;
mod rule;
pub mod rules;
mod session;
mod size;
mod text;

pub use bounded::{Bounded, OutOfBounds};
pub use crd::{CustomResource, crds};
pub use duration::{Duration, InvalidDuration};
pub use loopback::is_loopback;
pub use one_password::{OnePasswordItem, OnePasswordItemSpec};
pub use proxy::{McpOAuthProxy, McpOAuthProxySpec, McpOAuthProxyStatus};
pub use session::{McpOAuthSession, McpOAuthSessionSpec, SessionClaims, SessionClient, SessionPhase, SessionUser};
pub use size::{InvalidSize, Size};
pub use text::{
    BrowserOrigin, DataKey, Domain, EmailAddress, IdentityHeader, ImageReference, InvalidText, IssuerUrl, ItemPath,
    ObjectName, PathPattern, PublicUrl, RedirectHost, StaticClientId, StaticRedirectUri, UpstreamUrl,
};

/// API group of the custom resources.
pub const GROUP: &str = "mcp.jomcgi.dev";
