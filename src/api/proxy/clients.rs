use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which MCP clients may connect.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Clients {
    /// Whether clients may register themselves (RFC 7591). Nothing is stored for a registration.
    #[serde(default)]
    pub dynamic_registration: DynamicRegistration,

    /// Where a person's browser may be sent back to.
    #[serde(default)]
    pub redirects: Redirects,
}

/// Whether clients may register themselves.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum DynamicRegistration {
    /// POST /register answers with a client id.
    #[default]
    Enabled,
    /// There is no /register. Clients that registered before go on working.
    Disabled,
}

/// Where a person's browser may be sent back to after a login.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("self.policy == 'Known' || !has(self.hosts) || size(self.hosts) == 0")
        .message("policy Any takes every https host, whatever is listed: remove hosts, or write policy: Known")
)]
pub struct Redirects {
    /// Known: well-known MCP clients' hosts (claude.ai, vscode.dev, ...), this machine (localhost), and hosts. Any: every
    /// https host.
    #[serde(default)]
    pub policy: RedirectPolicy,

    /// Further hosts that clients may be sent back to, such as chat.example.com.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100), inner(length(min = 1, max = 253)))]
    #[x_kube(
        merge_strategy = ListMerge::Set,
        validation = Rule::new("self.all(host, host.matches('^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$'))")
            .message("each of hosts must be a host name in lower case, such as chat.example.com, without scheme, port or path")
    )]
    pub hosts: Vec<String>,
}

/// Which hosts a browser may be sent back to.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum RedirectPolicy {
    /// Well-known MCP clients' hosts, loopback, and those listed.
    #[default]
    Known,
    /// Every https host and loopback.
    Any,
}
