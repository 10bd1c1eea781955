//! A run of the test bed: its folder, logs, processes, and the journal of changes to the machine from which it is
//! cleaned up.

use std::{
    ffi::OsStr,
    fs::{self, File, OpenOptions},
    hash::{DefaultHasher, Hash, Hasher},
    io::Write,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

/// The node's address in the run's network namespace, at which pods reach the test bed's programs.
pub const NODE_ADDRESS: &str = "10.89.0.1";

/// A journal entry: something that the run created or changed on the machine outside its folder.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "camelCase")]
pub enum JournalEntry {
    /// A process. The start time (clock ticks since boot) distinguishes it from a later process with the same id.
    Process {
        name: String,
        pid: i32,
        started: u64,
    },
    NetworkNamespace {
        name: String,
    },
    /// A cgroup, in each mounted hierarchy.
    Cgroup {
        path: String,
    },
    /// A sysctl that was changed, with its original value.
    Sysctl {
        key: String,
        before: String,
    },
}

/// The `--run` option that all commands share.
#[derive(clap::Args, Clone, Debug)]
pub struct RunArg {
    /// The run's name. Several runs can exist at once.
    #[arg(id = "run", long = "run", value_name = "NAME", default_value = "demo", env = "E2E_RUN")]
    name: String,
}

impl RunArg {
    pub fn open(&self) -> Result<Run> {
        Run::open(&self.name)
    }
}

/// One run of the test bed. Several can exist at once, with different names.
#[derive(Clone, Debug)]
pub struct Run {
    name: String,
    directory: PathBuf,
}

impl Run {
    /// Opens a run and creates its folder if needed.
    pub fn open(name: &str) -> Result<Self> {
        // The name becomes part of the names of a network namespace, a cgroup, a node and folders.
        let is_allowed = |character: char| matches!(character, 'a'..='z' | '0'..='9' | '-');
        if name.is_empty() || name.len() > 30 || !name.chars().all(is_allowed) {
            bail!("{name:?} is not a run name: use 1 to 30 lower-case letters, digits and dashes");
        }
        let directory = runs_directory()?.join(name);
        fs::create_dir_all(directory.join("logs")).with_context(|| format!("cannot create {}", directory.display()))?;
        Ok(Self { name: name.to_owned(), directory })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The run's name for namespaces and cgroups, which are machine-wide. It contains a hash of the path, because runs
    /// in different caches (two users, two checks at once) may have the same name.
    pub fn machine_name(&self) -> String {
        let mut hasher = DefaultHasher::new();
        self.directory.hash(&mut hasher);
        format!("mcp-oauth-{}-{:04x}", self.name, hasher.finish() & 0xffff)
    }

    /// All runs that have a folder.
    pub fn all() -> Result<Vec<Self>> {
        let Ok(entries) = fs::read_dir(runs_directory()?) else { return Ok(Vec::new()) };
        // Does not create folders: a run may be in the middle of its removal.
        let runs = entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir());
        Ok(runs
            .filter_map(|directory| {
                let name = directory.file_name()?.to_str()?.to_owned();
                Some(Self { name, directory })
            })
            .collect())
    }

    /// Prevents other processes from starting or stopping this run until the file is dropped.
    pub fn lock(&self) -> Result<File> {
        // Beside the folder, because the folder is removed while the lock is held.
        let file = File::create(self.lock_file())?;
        file.lock()?;
        Ok(file)
    }

    /// Removes the lock file after the run's removal. A process that waits for the lock then finds no run, as intended.
    pub fn remove_lock(&self) {
        let _ = fs::remove_file(self.lock_file());
    }

    fn lock_file(&self) -> PathBuf {
        self.directory.with_file_name(format!(".{}.lock", self.name))
    }

    /// Marks this process as the run's owner until the file is dropped. A run whose owner has exited without cleanup is
    /// abandoned.
    pub fn take_ownership(&self) -> Result<File> {
        let file = File::create(self.owner_file())?;
        file.try_lock().with_context(|| format!("run {} belongs to another process", self.name))?;
        Ok(file)
    }

    /// Whether the run's owner exited without cleaning up.
    pub fn is_abandoned(&self) -> bool {
        let owned = File::open(self.owner_file());
        owned.is_ok_and(|file| file.try_lock().is_ok()) && !self.journal_entries().is_empty()
    }

    fn owner_file(&self) -> PathBuf {
        self.directory.join("owner")
    }

    pub fn logs(&self) -> PathBuf {
        self.directory.join("logs")
    }

    /// The log file of a component.
    pub fn log(&self, component: &str) -> PathBuf {
        self.logs().join(format!("{component}.log"))
    }

    /// The run's network namespace, if it has a cluster.
    pub fn namespace(&self) -> Option<String> {
        self.journal_entries().into_iter().rev().find_map(|entry| match entry {
            JournalEntry::NetworkNamespace { name } => Some(name),
            _ => None,
        })
    }

    /// The listen address at which pods reach a component: the node's address, or loopback without a cluster.
    pub fn address(&self) -> &'static str {
        if self.namespace().is_some() { NODE_ADDRESS } else { "127.0.0.1" }
    }

    /// A command in the run's network namespace, or in the host's without a cluster.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        match self.namespace() {
            Some(name) => {
                // Not `ip netns exec`: it remounts /sys, which hides the cgroups.
                let mut command = Command::new("nsenter");
                command.arg(format!("--net=/run/netns/{name}")).arg("--").arg(program);
                command
            }
            None => Command::new(program),
        }
    }

    /// Starts a program that outlives this process, with its output in the component's log. A previous process of the
    /// component must have been stopped.
    pub fn spawn(&self, component: &str, command: &mut Command) -> Result<i32> {
        let log = File::create(self.log(component))?;
        // Its own process group, so that a Ctrl-C in the terminal does not reach it.
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {component}: {}", command.get_program().display()))?;
        let pid = i32::try_from(child.id())?;
        let started = start_time(pid).unwrap_or_default();
        self.record(&JournalEntry::Process { name: component.to_owned(), pid, started })?;
        // Reaped by this process while it runs, and by init afterwards.
        thread::spawn(move || {
            let mut child = child;
            child.wait()
        });
        Ok(pid)
    }

    /// The process id of a running component.
    pub fn running(&self, component: &str) -> Option<i32> {
        self.journal_entries().into_iter().rev().find_map(|entry| match entry {
            JournalEntry::Process { name, pid, started } if name == component && is_running(pid, started) => Some(pid),
            _ => None,
        })
    }

    /// Name and process id of all running components, oldest first.
    pub fn components(&self) -> Vec<(String, i32)> {
        let entries = self.journal_entries().into_iter();
        entries
            .filter_map(|entry| match entry {
                JournalEntry::Process { name, pid, started } if is_running(pid, started) => Some((name, pid)),
                _ => None,
            })
            .collect()
    }

    /// Terminates a component's process and waits for its exit. Does nothing if it is not running.
    pub fn stop(&self, component: &str) -> Result<()> {
        for entry in self.journal_entries() {
            if let JournalEntry::Process { name, pid, started } = &entry
                && name == component
            {
                terminate(name, *pid, *started)?;
                self.remove_entry(&entry)?;
            }
        }
        Ok(())
    }

    /// Records a resource, so that it is cleaned up even if this process is killed.
    pub fn record(&self, entry: &JournalEntry) -> Result<()> {
        let _lock = self.lock_journal()?;
        let mut journal = OpenOptions::new().create(true).append(true).open(self.journal())?;
        writeln!(journal, "{}", serde_json::to_string(entry)?)?;
        journal.sync_data()?;
        Ok(())
    }

    /// All journal entries, oldest first.
    pub fn journal_entries(&self) -> Vec<JournalEntry> {
        let text = fs::read_to_string(self.journal()).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Removes an entry after its cleanup.
    pub fn remove_entry(&self, removed: &JournalEntry) -> Result<()> {
        let _lock = self.lock_journal()?;
        let rest: Vec<String> = self
            .journal_entries()
            .iter()
            .filter(|entry| *entry != removed)
            .map(serde_json::to_string)
            .collect::<Result<_, _>>()?;
        let text = rest.iter().map(|line| format!("{line}\n")).collect::<String>();
        let new = self.directory.join("journal.new");
        fs::write(&new, text)?;
        fs::rename(new, self.journal())?;
        Ok(())
    }

    /// Several processes write the journal of one run. The folder is locked, because the file is replaced.
    fn lock_journal(&self) -> Result<File> {
        let folder = File::open(&self.directory)?;
        folder.lock()?;
        Ok(folder)
    }

    fn journal(&self) -> PathBuf {
        self.directory.join("journal")
    }
}

/// The cache of tools and downloads, shared across runs and clones.
pub fn cache_directory() -> Result<PathBuf> {
    if let Some(set) = std::env::var_os("MCP_OAUTH_CACHE") {
        return Ok(set.into());
    }
    let base = match std::env::var_os("XDG_CACHE_HOME") {
        Some(set) => PathBuf::from(set),
        None => PathBuf::from(std::env::var_os("HOME").context("HOME is not set")?).join(".cache"),
    };
    Ok(base.join("mcp-oauth-operator"))
}

pub fn runs_directory() -> Result<PathBuf> {
    Ok(cache_directory()?.join("runs"))
}

/// Terminates a process with SIGTERM, and with SIGKILL after 20 s.
pub fn terminate(name: &str, pid: i32, started: u64) -> Result<()> {
    for signal in [Signal::TERM, Signal::KILL] {
        if !is_running(pid, started) {
            return Ok(());
        }
        let id = Pid::from_raw(pid).with_context(|| format!("{pid} is not a process id"))?;
        // The process may exit between the check and the signal.
        let _ = kill_process(id, signal);
        let deadline = Instant::now() + Duration::from_secs(20);
        while is_running(pid, started) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(20));
        }
    }
    if is_running(pid, started) { bail!("{name} (process {pid}) does not exit") } else { Ok(()) }
}

/// Whether the process with this id and start time exists and is not a zombie.
fn is_running(pid: i32, started: u64) -> bool {
    start_time(pid).is_some_and(|now| now == started)
}

/// The start time (field 22 of /proc/PID/stat), unless the process is gone or a zombie (proc(5)).
fn start_time(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Field 2, the name, is in parentheses and may contain spaces and parentheses.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    if fields.first() == Some(&"Z") { None } else { fields.get(19)?.parse().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removed_entry_is_no_longer_in_the_journal() {
        let folder = tempfile::tempdir().unwrap();
        let run = Run { name: "a".to_owned(), directory: folder.path().to_owned() };
        let namespace = JournalEntry::NetworkNamespace { name: "n".to_owned() };
        let cgroup = JournalEntry::Cgroup { path: "/c".to_owned() };
        run.record(&namespace).unwrap();
        run.record(&cgroup).unwrap();
        run.remove_entry(&namespace).unwrap();
        assert_eq!(run.journal_entries(), [cgroup]);
        assert_eq!(run.namespace(), None);
    }

    #[test]
    fn process_with_a_reused_id_is_detected() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let started = start_time(pid).unwrap();
        assert!(is_running(pid, started));
        assert!(!is_running(pid, started + 1));
    }

    #[test]
    fn run_name_fits_a_namespace_and_a_folder() {
        for name in ["", "../x", "A", "a b"] {
            assert!(Run::open(name).is_err(), "{name:?}");
        }
    }
}
