//! Checks the machine's requirements before the start. Errors name everything missing and the command that installs it.

use std::{path::Path, process::Command};

use anyhow::{Result, bail};

use super::external::ExternalCluster;
use crate::program;

/// A program and its Debian package.
type Requirement = (&'static str, &'static str);

/// Programs of a node.
const NODE: &[Requirement] = &[
    ("containerd", "containerd"),
    ("ctr", "containerd"),
    ("containerd-shim-runc-v2", "containerd"),
    ("runc", "runc"),
    ("nft", "nftables"),
    ("ip", "iproute2"),
    ("nsenter", "util-linux"),
    ("buildah", "buildah"),
];

/// Programs of the peers.
const PEERS: &[Requirement] =
    &[("chromium", "chromium"), ("chromedriver", "chromium-driver"), ("nginx", "nginx-light")];

/// Programs that only tests need.
const TESTS: &[Requirement] = &[("promtool", "prometheus"), ("nghttpx", "nghttp2-proxy"), ("curl", "curl")];

/// Debian's folder of CNI plugins.
pub const CNI_PLUGINS: &str = "/usr/lib/cni";

/// The public CA certificates, which are copied into the image.
const CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Checks the requirements of a node.
pub fn check_node() -> Result<()> {
    check_system()?;
    report_missing(node_packages(), Vec::new())
}

/// Checks the requirements of the complete environment.
pub fn check_environment() -> Result<()> {
    check(&[])
}

/// Checks the requirements of the environment and the tests.
pub fn check_tests() -> Result<()> {
    check(TESTS)
}

fn check(additional: &[Requirement]) -> Result<()> {
    if ExternalCluster::from_env()?.is_some() {
        bail!(
            "E2E_KUBECONFIG is set, but demo and tests need the test bed's own cluster, whose pods can reach the issuer and Context Forge on this machine. Unset it, or run the proxy without a cluster: `make dev`"
        );
    }
    check_system()?;
    let mut packages = node_packages();
    packages.extend(missing(PEERS));
    packages.extend(missing(additional));
    if !Path::new(CERTIFICATES).exists() {
        packages.push("ca-certificates");
    }
    if !succeeds("python3", &["-c", "import ensurepip, venv"]) {
        packages.push("python3-venv");
    }
    let mut other_lines = Vec::new();
    if !succeeds("go", &["version"]) {
        other_lines.push("Go 1.26 or newer (https://go.dev/dl), with its bin folder on PATH");
    }
    if !succeeds("npm", &["--version"]) {
        other_lines.push("Node 20 or newer with npm (https://nodejs.org)");
    }
    if !succeeds("python3", &["-c", "import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))"]) {
        other_lines.push("Python 3.11, 3.12 or 3.13 as the first python3 on PATH");
    }
    report_missing(packages, other_lines)
}

pub fn check_go() -> Result<()> {
    if succeeds("go", &["version"]) {
        return Ok(());
    }
    bail!("Go 1.26 or newer is missing: install it from https://go.dev/dl and add its bin folder to PATH")
}

fn check_system() -> Result<()> {
    if !cfg!(target_os = "linux") {
        bail!("the test bed needs Linux; `make dev` runs the proxy without it");
    }
    if !rustix::process::geteuid().is_root() {
        bail!(
            "the test bed needs root (network namespaces, cgroups, mounts): use sudo, or run the proxy without it: `make dev`"
        );
    }
    Ok(())
}

fn node_packages() -> Vec<&'static str> {
    let mut packages = missing(NODE);
    if !Path::new(CNI_PLUGINS).join("bridge").exists() {
        packages.push("containernetworking-plugins");
    }
    packages
}

fn missing(requirements: &[Requirement]) -> Vec<&'static str> {
    requirements
        .iter()
        .filter(|(name, package)| program::find(name, package).is_err())
        .map(|(_, package)| *package)
        .collect()
}

fn report_missing(mut packages: Vec<&'static str>, other_lines: Vec<&'static str>) -> Result<()> {
    packages.dedup();
    let mut lines = Vec::new();
    if !packages.is_empty() {
        let list = packages.join(" ");
        lines.push(format!("Debian packages {list}: apt-get install --yes --no-install-recommends {list}"));
    }
    lines.extend(other_lines.into_iter().map(str::to_owned));
    if lines.is_empty() { Ok(()) } else { bail!("missing on this machine:\n    {}", lines.join("\n    ")) }
}

fn succeeds(program: &str, arguments: &[&str]) -> bool {
    Command::new(program).args(arguments).output().is_ok_and(|output| output.status.success())
}
