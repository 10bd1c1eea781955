//! The custom resources, the 1Password resource that the operator creates, and the value types they share.
//!
//! Pure types: no client, no clock, no file access. Both `operator` and `proxy` use them.

mod crd;
mod duration;
mod one_password;
pub mod proxy;
mod reference;
mod session;
mod size;
mod url;

pub use crd::{CustomResource, crds};
pub use duration::{Duration, InvalidDuration};
pub use one_password::{OnePasswordItem, OnePasswordItemSpec};
pub use proxy::{McpOAuthProxy, McpOAuthProxySpec, McpOAuthProxyStatus};
pub use reference::reference;
pub use session::{McpOAuthSession, McpOAuthSessionSpec, SessionClaims, SessionClient, SessionPhase, SessionUser};
pub use size::{InvalidSize, Size};
pub use url::{InvalidUrl, IssuerUrl, PathPattern, PublicUrl, UpstreamUrl, is_loopback_host};

/// API group of the custom resources.
pub const GROUP: &str = "mcp.jomcgi.dev";
