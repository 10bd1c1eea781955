//! The parent cgroup of all pods of a run.
//!
//! A kubelet kills the processes of pod cgroups that it does not know. A separate root keeps the kubelets of several
//! runs, or of another node on the machine, from killing each other's pods.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};

use crate::{
    progress::wait_uninterruptibly,
    run::{JournalEntry, Run},
};

/// Creates the run's cgroup in every mounted hierarchy and returns its path for the kubelet's `cgroupRoot`.
pub fn make(run: &Run) -> Result<String> {
    let path = format!("/{}", run.machine_name());
    run.record(&JournalEntry::Cgroup { path: path.clone() })?;
    for hierarchy in hierarchies() {
        let group = below(&hierarchy, &path);
        fs::create_dir_all(&group).with_context(|| format!("cannot create the cgroup {}", group.display()))?;
        if hierarchy.join("cpuset.cpus").exists() && !hierarchy.join("cgroup.controllers").exists() {
            // cgroup v1: a new cpuset is empty and accepts no processes.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                fs::write(group.join(file), fs::read(hierarchy.join(file))?)?;
            }
        }
        delegate(&hierarchy, &group)?;
    }
    Ok(path)
}

/// cgroup v2: children have only the controllers that their parent enables.
fn delegate(hierarchy: &Path, group: &Path) -> Result<()> {
    let Ok(controllers) = fs::read_to_string(hierarchy.join("cgroup.controllers")) else { return Ok(()) };
    for controller in controllers.split_whitespace() {
        for parent in [hierarchy, group] {
            fs::write(parent.join("cgroup.subtree_control"), format!("+{controller}"))
                .with_context(|| format!("cannot enable the cgroup controller {controller} for pods"))?;
        }
    }
    Ok(())
}

/// The processes in a cgroup and its descendants.
pub fn processes(path: &str) -> Vec<i32> {
    let mut found: Vec<i32> = hierarchies()
        .iter()
        .flat_map(|hierarchy| tree(&below(hierarchy, path)))
        .filter_map(|group| fs::read_to_string(group.join("cgroup.procs")).ok())
        .flat_map(|text| text.lines().filter_map(|line| line.parse().ok()).collect::<Vec<i32>>())
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}

/// Removes a cgroup, which must contain no processes, from every hierarchy.
pub fn remove(path: &str) -> Result<()> {
    wait_uninterruptibly(&format!("the cgroup {path} to be removable"), Duration::from_secs(60), || {
        for group in hierarchies().iter().flat_map(|hierarchy| tree(&below(hierarchy, path))) {
            // A killed process is counted for a moment, so removal is retried.
            let _ = fs::remove_dir(group);
        }
        Ok(!exists(path))
    })
}

pub fn exists(path: &str) -> bool {
    hierarchies().iter().any(|hierarchy| below(hierarchy, path).exists())
}

/// A cgroup and its descendants, children first.
fn tree(group: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(group) else { return Vec::new() };
    let children = entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir());
    children.flat_map(|child| tree(&child)).chain([group.to_owned()]).collect()
}

fn below(hierarchy: &Path, path: &str) -> PathBuf {
    hierarchy.join(path.trim_start_matches('/'))
}

/// The mount points of cgroup hierarchies: one for v2, several for v1.
fn hierarchies() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    mounted_hierarchies(&mounts)
}

fn mounted_hierarchies(mounts: &str) -> Vec<PathBuf> {
    mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let mount_point = fields.next()?;
            matches!(fields.next()?, "cgroup" | "cgroup2").then(|| PathBuf::from(mount_point))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_cgroup_versions_are_found() {
        let mounts = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
                      cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        let found = mounted_hierarchies(mounts);
        assert_eq!(found, [Path::new("/sys/fs/cgroup/cpu"), Path::new("/sys/fs/cgroup/unified")]);
    }
}
