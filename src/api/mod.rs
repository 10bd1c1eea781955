//! The custom resources that people write, the foreign kind we create, and the value types they share.
//!
//! Nothing here talks to anybody: no client, no clock, no files. Both `operator` and `proxy` build on these types.

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

/// The API group of our resources.
pub const GROUP: &str = "mcp.jomcgi.dev";
