//! Where things are inside the pods: the configuration names these places, the Deployment puts the files there.

/// Where clients are served.
pub(super) const PORT: u16 = 8080;
/// Where the kubelet asks.
pub(super) const HEALTH_PORT: u16 = 8081;
/// The folder of all files.
pub(super) const FOLDER: &str = "/etc/mcp-oauth-proxy";
/// The configuration's file name, and its key in the `ConfigMap`.
pub(super) const CONFIG_FILE: &str = "config.yaml";
/// The folder, within [`FOLDER`], of the client id, the client secret and the encryption key.
pub(super) const CREDENTIALS: &str = "credentials";
/// The folder, within [`FOLDER`], of the signing keys.
pub(super) const SIGNING_KEYS: &str = "signing-keys";
/// The signing keys' file name, and their key in the Secret.
pub(super) const SIGNING_KEYS_FILE: &str = "keys.json";

/// The folder, within [`FOLDER`], of what other fields of the resource refer to.
pub(super) const REFERENCES: &str = "references";

/// The absolute path of a file or folder within [`FOLDER`].
pub(super) fn path(relative: &str) -> String {
    format!("{FOLDER}/{relative}")
}
