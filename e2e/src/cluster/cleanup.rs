//! Removes everything that a run created on the machine, from its journal. Works the same after a normal end and after
//! a kill.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use rustix::{
    mount::{UnmountFlags, unmount},
    process::{Pid, Signal, kill_process},
};

use super::{cgroup, network};
use crate::{
    progress::wait_uninterruptibly,
    run::{JournalEntry, Run, terminate},
};

/// Machine-wide sysctls that the kubelet changes.
const KUBELET_SYSCTLS: &[&str] = &[
    "vm.overcommit_memory",
    "vm.panic_on_oom",
    "kernel.panic",
    "kernel.panic_on_oops",
    "kernel.keys.root_maxkeys",
    "kernel.keys.root_maxbytes",
];
/// The kubelet's links to container logs, at a path that is not configurable.
const CONTAINER_LOGS: &str = "/var/log/containers";
/// The CNI library's cache of plugin results, at a path that is not configurable.
const CNI_RESULTS: &str = "/var/lib/cni/results";

/// Records the sysctls that the kubelet will change. If another run's kubelet has changed them already, records the
/// value that the other run recorded.
pub fn record_sysctls(run: &Run) -> Result<()> {
    let _lock = lock_sysctls()?;
    let others = other_runs_sysctls(run)?;
    for &key in KUBELET_SYSCTLS {
        let Ok(current) = fs::read_to_string(sysctl_file(key)) else { continue };
        let recorded = others.iter().find(|(other, _)| other == key).map(|(_, before)| before.clone());
        run.record(&JournalEntry::Sysctl {
            key: key.to_owned(),
            before: recorded.unwrap_or_else(|| current.trim().to_owned()),
        })?;
    }
    Ok(())
}

/// Cleans up the machine and removes the run's folder.
pub fn remove_run(run: &Run) -> Result<()> {
    clean_machine(run)?;
    remove_folder(run, run.directory())?;
    run.remove_lock();
    Ok(())
}

/// Cleans up the machine and removes the run's folder except for the logs.
pub fn remove_run_except_logs(run: &Run) -> Result<()> {
    clean_machine(run)?;
    for entry in fs::read_dir(run.directory())?.flatten() {
        if entry.file_name() != "logs" {
            remove_folder(run, &entry.path())?;
        }
    }
    Ok(())
}

/// A description of each process, mount, namespace and cgroup that the run left on the machine; empty after a cleanup.
pub fn leftovers(run: &Run) -> Vec<String> {
    let namespace = run.machine_name();
    let processes = leftover_processes(run)
        .into_iter()
        .map(|pid| format!("process {pid} {}", command_line(pid).replace('\0', " ")));
    let mounts = mounts_below(run.directory()).into_iter().map(|mount| format!("mount {}", mount.display()));
    let network = network::exists(&namespace).then(|| format!("network namespace {namespace}"));
    let cgroup = cgroup::exists(&format!("/{namespace}")).then(|| format!("cgroup /{namespace}"));
    processes.chain(mounts).chain(network).chain(cgroup).collect()
}

fn clean_machine(run: &Run) -> Result<()> {
    let entries = run.journal_entries();
    // A failed step does not prevent the other steps.
    let mut failures: Vec<String> = Vec::new();
    let mut attempt = |done: Result<()>| {
        if let Err(error) = done {
            failures.push(format!("{error:#}"));
        }
    };
    // Reverse start order: an API server that loses etcd hangs for minutes.
    for entry in entries.iter().rev() {
        if let JournalEntry::Process { name, pid, started } = entry {
            if name == "kube-apiserver" {
                // The API server waits for open watches, and an operator in a pod watches as long as it runs. The
                // kubelet, which would restart the pod, was started later and has been stopped already.
                attempt(kill_until_exited("the pods' processes", || {
                    cgroup::processes(&format!("/{}", run.machine_name()))
                }));
            }
            attempt(terminate(name, *pid, *started));
        }
    }
    attempt(kill_until_exited("the remaining processes", || leftover_processes(run)));
    let containers = containers(run);
    remove_shim_sockets(run);
    attempt(unmount_all(run));
    // Without the lock, two runs that end at the same time could each leave the sysctls to the other.
    let _lock = lock_sysctls()?;
    for entry in &entries {
        match entry {
            JournalEntry::Cgroup { path } => attempt(cgroup::remove(path)),
            JournalEntry::NetworkNamespace { name } => attempt(network::remove(name)),
            JournalEntry::Sysctl { key, before } => attempt(restore_sysctl(run, key, before)),
            JournalEntry::Process { .. } => (),
        }
    }
    remove_links_and_results(run, &containers);
    failures.extend(leftovers(run));
    if !failures.is_empty() {
        bail!("the cleanup of run {} is incomplete:\n    {}", run.name(), failures.join("\n    "));
    }
    for entry in &entries {
        run.remove_entry(entry)?;
    }
    Ok(())
}

fn lock_sysctls() -> Result<File> {
    let file = File::create(crate::run::runs_directory()?.join(".sysctls.lock"))?;
    file.lock()?;
    Ok(file)
}

/// The ids of the run's containers and sandboxes.
fn containers(run: &Run) -> Vec<String> {
    let bundles = run.directory().join("containerd/state/io.containerd.runtime.v2.task/k8s.io");
    let entries = fs::read_dir(bundles).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// Processes of pods, their shims, and all other processes in the run's network namespace.
fn leftover_processes(run: &Run) -> BTreeSet<i32> {
    let name = run.machine_name();
    let namespace = network::inode(&Path::new("/run/netns").join(&name));
    let folder = format!("{}/", run.directory().display());
    let belongs_to_run = |pid: &i32| {
        let is_shim = || {
            let line = command_line(*pid);
            line.split('\0').next().is_some_and(|program| program.ends_with("containerd-shim-runc-v2"))
                && line.contains(&folder)
        };
        let is_in_namespace =
            || namespace.is_some() && network::inode(Path::new(&format!("/proc/{pid}/ns/net"))) == namespace;
        is_shim() || is_in_namespace()
    };
    let pods = cgroup::processes(&format!("/{name}"));
    all_processes().into_iter().filter(belongs_to_run).chain(pods).filter(|pid| !has_exited(*pid)).collect()
}

fn kill_until_exited<P: IntoIterator<Item = i32>>(what: &str, find: impl Fn() -> P) -> Result<()> {
    wait_uninterruptibly(&format!("{what} to exit"), Duration::from_secs(20), || {
        let found: Vec<i32> = find().into_iter().filter(|pid| !has_exited(*pid)).collect();
        for pid in found.iter().filter_map(|pid| Pid::from_raw(*pid)) {
            // The process may exit between the check and the signal.
            let _ = kill_process(pid, Signal::KILL);
        }
        Ok(found.is_empty())
    })
}

/// A killed shim leaves its socket in /run/containerd/s. Its bundle has the path.
fn remove_shim_sockets(run: &Run) {
    let bundles = run.directory().join("containerd/state/io.containerd.runtime.v2.task/k8s.io");
    for bundle in fs::read_dir(bundles).into_iter().flatten().flatten() {
        let address = fs::read_to_string(bundle.path().join("address")).unwrap_or_default();
        if let Some(socket) = address.trim().strip_prefix("unix://") {
            let _ = fs::remove_file(socket);
        }
    }
}

fn unmount_all(run: &Run) -> Result<()> {
    wait_uninterruptibly("the run's unmounts", Duration::from_secs(60), || {
        for mount in mounts_below(run.directory()).iter().rev() {
            unmount(mount, UnmountFlags::DETACH).with_context(|| format!("cannot unmount {}", mount.display()))?;
        }
        Ok(mounts_below(run.directory()).is_empty())
    })
}

/// The mounts below a folder, in mount order.
fn mounts_below(folder: &Path) -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mount_points = mounts.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    mount_points.filter(|path| path.starts_with(folder)).collect()
}

/// Another run's kubelet needs its settings; the last run restores them.
fn restore_sysctl(run: &Run, key: &str, before: &str) -> Result<()> {
    if other_runs_sysctls(run)?.iter().any(|(other, _)| other == key) {
        return Ok(());
    }
    fs::write(sysctl_file(key), before).with_context(|| format!("cannot restore the sysctl {key} to {before}"))
}

fn other_runs_sysctls(run: &Run) -> Result<Vec<(String, String)>> {
    let others = Run::all()?.into_iter().filter(|other| other.name() != run.name());
    let entries = others.flat_map(|other| other.journal_entries());
    Ok(entries
        .filter_map(|entry| match entry {
            JournalEntry::Sysctl { key, before } => Some((key, before)),
            _ => None,
        })
        .collect())
}

fn sysctl_file(key: &str) -> PathBuf {
    Path::new("/proc/sys").join(key.replace('.', "/"))
}

/// Removes the run's files in folders that are not configurable.
fn remove_links_and_results(run: &Run, containers: &[String]) {
    for entry in fs::read_dir(CONTAINER_LOGS).into_iter().flatten().flatten() {
        if fs::read_link(entry.path()).is_ok_and(|target| target.starts_with(run.directory())) {
            let _ = fs::remove_file(entry.path());
        }
    }
    for entry in fs::read_dir(CNI_RESULTS).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        // The loopback plugin uses its own network name.
        if name.starts_with(&format!("{}-", run.machine_name())) || containers.iter().any(|id| name.contains(id)) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

fn remove_folder(run: &Run, folder: &Path) -> Result<()> {
    // Never delete outside the run's folder, nor in file systems mounted into it.
    if !folder.starts_with(run.directory()) {
        bail!("{} does not belong to run {}", folder.display(), run.name());
    }
    let status =
        Command::new("rm").args(["-rf", "--one-file-system", "--"]).arg(folder).status().context("cannot run rm")?;
    if status.success() { Ok(()) } else { bail!("cannot remove {}", folder.display()) }
}

fn all_processes() -> Vec<i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// The arguments of a process's command line, each terminated by NUL; empty for a zombie.
fn command_line(pid: i32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn has_exited(pid: i32) -> bool {
    command_line(pid).is_empty()
}
