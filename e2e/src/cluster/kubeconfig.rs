//! Kubeconfig files: one for each component in the namespace, one for the host.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde_json::json;

use super::pki::Pki;
use crate::run::Run;

/// Writes a kubeconfig that refers to the user's certificate and key by path.
pub fn write(file: &Path, pki: &Pki, user: &str, server: &str, context: &str) -> Result<()> {
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": context,
        "clusters": [{ "name": context, "cluster": {
            "server": server,
            "certificate-authority": pki.certificate("ca"),
        }}],
        "users": [{ "name": user, "user": {
            "client-certificate": pki.certificate(user),
            "client-key": pki.key(user),
        }}],
        "contexts": [{ "name": context, "context": { "cluster": context, "user": user } }],
    });
    fs::write(file, serde_yaml::to_string(&config)?).with_context(|| format!("cannot write {}", file.display()))
}

/// The kubeconfig for programs on the host.
pub fn host_kubeconfig(run: &Run) -> PathBuf {
    run.directory().join("kubeconfig")
}

/// The kubeconfig for programs in the run's network namespace.
pub fn namespace_kubeconfig(run: &Run) -> PathBuf {
    run.directory().join("kubeconfig-admin")
}
