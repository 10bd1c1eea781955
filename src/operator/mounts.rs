//! Ports and file paths inside the pods: the configuration refers to them, and the Deployment mounts the files there.

/// The port for MCP clients.
pub(super) const PORT: u16 = 8080;
/// The port for probes and metrics.
pub(super) const HEALTH_PORT: u16 = 8081;
/// The folder of all mounted files.
pub(super) const FOLDER: &str = "/etc/mcp-oauth-proxy";
/// The configuration's file name, and its key in the `ConfigMap`.
pub(super) const CONFIG_FILE: &str = "config.yaml";
/// The folder below [`FOLDER`] with the client id, the client secret and the encryption key.
pub(super) const CREDENTIALS: &str = "credentials";
/// The folder below [`FOLDER`] with the signing keys.
pub(super) const SIGNING_KEYS: &str = "signing-keys";
/// The signing keys' file name, and their key in the Secret.
pub(super) const SIGNING_KEYS_FILE: &str = "keys.json";

/// The folder below [`FOLDER`] with the keys of Secrets and `ConfigMap`s that other fields of the resource refer to.
pub(super) const REFERENCES: &str = "references";

/// The absolute path of a file or folder below [`FOLDER`].
pub(super) fn path(relative: &str) -> String {
    format!("{FOLDER}/{relative}")
}
