//! The network namespace of a run, with the node's address on a bridge of its own. Nothing in it can collide with another
//! run, and nothing of it leads out.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result, bail};

use crate::run::{Made, NODE_ADDRESS, Run};

/// Pods get their addresses from here.
pub const POD_RANGE: &str = "10.88.0.0/24";
/// Services get theirs from here.
pub const SERVICE_RANGE: &str = "10.96.0.0/16";
/// The first of them, which Kubernetes gives to its own API.
pub const API_SERVICE_ADDRESS: &str = "10.96.0.1";

/// Makes the run's network namespace.
pub fn make(run: &Run) -> Result<()> {
    let name = run.machine_name();
    run.record(&Made::NetworkNamespace { name: name.clone() })?;
    ip(&["netns", "add", &name])?;
    let inside = |words: &[&str]| ip(&[&["-netns", &name], words].concat());
    inside(&["link", "set", "lo", "up"])?;
    // A bridge without ports: some kernels have no dummy devices.
    inside(&["link", "add", "node0", "type", "bridge"])?;
    inside(&["address", "add", &format!("{NODE_ADDRESS}/24"), "dev", "node0"])?;
    inside(&["link", "set", "node0", "up"])?;
    // The API server and the kubelet look for a default route to find the node's address.
    inside(&["route", "add", "default", "dev", "node0"])?;
    // Per namespace, so the machine's own setting stays as it is.
    execute(run.command("sh").args(["-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"]))
}

/// Removes a network namespace, if it is there.
pub fn remove(name: &str) -> Result<()> {
    if exists(name) { ip(&["netns", "delete", name]) } else { Ok(()) }
}

/// Whether a network namespace of that name is there.
pub fn exists(name: &str) -> bool {
    Path::new("/run/netns").join(name).exists()
}

/// What tells a network namespace from all others: its inode, as /proc/PID/ns/net shows it too.
pub fn inode(path: &Path) -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    Some(fs::metadata(path).ok()?.ino())
}

fn ip(words: &[&str]) -> Result<()> {
    execute(Command::new("ip").args(words))
}

fn execute(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("cannot run {}", command.get_program().display()))?;
    if !output.status.success() {
        bail!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
