//! The network namespace of a run, with the node's address on its own bridge. It cannot collide with other runs and has
//! no route to the outside.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result, bail};

use crate::run::{JournalEntry, NODE_ADDRESS, Run};

/// The address range of pods.
pub const POD_RANGE: &str = "10.88.0.0/24";
/// The address range of Services.
pub const SERVICE_RANGE: &str = "10.96.0.0/16";
/// The first Service address, which Kubernetes assigns to its API.
pub const API_SERVICE_ADDRESS: &str = "10.96.0.1";

pub fn make(run: &Run) -> Result<()> {
    let name = run.machine_name();
    run.record(&JournalEntry::NetworkNamespace { name: name.clone() })?;
    ip(&["netns", "add", &name])?;
    let ip_in_netns = |words: &[&str]| ip(&[&["-netns", &name], words].concat());
    ip_in_netns(&["link", "set", "lo", "up"])?;
    // A bridge without ports, because some kernels have no dummy devices.
    ip_in_netns(&["link", "add", "node0", "type", "bridge"])?;
    ip_in_netns(&["address", "add", &format!("{NODE_ADDRESS}/24"), "dev", "node0"])?;
    ip_in_netns(&["link", "set", "node0", "up"])?;
    // The API server and the kubelet derive the node's address from the default route.
    ip_in_netns(&["route", "add", "default", "dev", "node0"])?;
    // This setting is per namespace, so the host's is unchanged.
    execute(run.command("sh").args(["-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"]))
}

/// Removes a network namespace if it exists.
pub fn remove(name: &str) -> Result<()> {
    if exists(name) { ip(&["netns", "delete", name]) } else { Ok(()) }
}

pub fn exists(name: &str) -> bool {
    Path::new("/run/netns").join(name).exists()
}

/// The inode that identifies a network namespace; /proc/PID/ns/net has the same.
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
