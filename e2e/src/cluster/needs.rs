//! What the bed needs on the machine, said at once and with the command that brings it.

use std::{env, path::Path};

use anyhow::{Result, bail};

/// Programs of the Debian packages that make a node, each with its package.
const NODE: &[(&str, &str)] = &[
    ("containerd", "containerd"),
    ("ctr", "containerd"),
    ("containerd-shim-runc-v2", "containerd"),
    ("runc", "runc"),
    ("nft", "nftables"),
    ("ip", "iproute2"),
    ("nsenter", "util-linux"),
    ("buildah", "buildah"),
];

/// Where Debian puts the CNI plugins.
pub const CNI_PLUGINS: &str = "/usr/lib/cni";

/// Fails, naming all that is missing, unless this machine can run a node.
pub fn check_node() -> Result<()> {
    if !cfg!(target_os = "linux") {
        bail!(
            "the bed's own cluster needs Linux; name another one with E2E_KUBECONFIG and E2E_CONTEXT, or try `make dev`"
        );
    }
    if !rustix::process::geteuid().is_root() {
        bail!(
            "the bed's own cluster needs root (network namespaces, cgroups, mounts): run it with sudo, \
             name another cluster with E2E_KUBECONFIG and E2E_CONTEXT, or try `make dev`"
        );
    }
    let mut packages: Vec<&str> =
        NODE.iter().filter(|(program, _)| !on_path(program)).map(|(_, package)| *package).collect();
    if !Path::new(CNI_PLUGINS).join("bridge").exists() {
        packages.push("containernetworking-plugins");
    }
    packages.dedup();
    if packages.is_empty() {
        return Ok(());
    }
    bail!(
        "missing on this machine: {}; bring them with: apt-get install --yes --no-install-recommends {}",
        packages.join(", "),
        packages.join(" ")
    )
}

/// Fails unless Go is there.
pub fn check_go() -> Result<()> {
    if on_path("go") {
        return Ok(());
    }
    bail!("Go is missing (1.26 or newer): https://go.dev/dl, then put its bin folder on PATH")
}

fn on_path(program: &str) -> bool {
    env::split_paths(&env::var_os("PATH").unwrap_or_default()).any(|place| place.join(program).is_file())
}
