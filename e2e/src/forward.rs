//! Forwards loopback ports of the host into a run's network namespace, for the user's shell and browser.
//!
//! The forwarding process binds its listeners on the host and then enters the namespace: sockets keep the namespace in
//! which they were created.

use std::{
    collections::hash_map::RandomState,
    fs::{self, File, OpenOptions},
    hash::{BuildHasher, Hasher},
    io::{Read, Seek, Write},
    net::{SocketAddr, TcpListener},
    ops::Range,
    os::fd::AsFd,
    path::PathBuf,
    process::Command,
    str::FromStr,
};

use anyhow::{Context, Result, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::{io::copy_bidirectional, net};

use crate::run::{Run, cache_directory};

/// Below the ephemeral ports (Linux: 32768 and up) and Kubernetes's node ports, so that neither takes a port in a run's
/// namespace before its component listens there.
const PORTS: Range<u16> = 20_000..30_000;

/// A TCP port that is free on the host's loopback. A file in the cache makes successive calls of all processes return
/// successive ports, because ports in use in a run's namespace are not visible here.
pub fn free_port() -> Result<u16> {
    let cache = cache_directory()?;
    fs::create_dir_all(&cache)?;
    let last_port = cache.join("last-port");
    let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&last_port)?;
    file.lock().with_context(|| format!("cannot lock {}", last_port.display()))?;
    let mut last = String::new();
    file.read_to_string(&mut last)?;
    let skipped = match last.parse::<u16>() {
        Ok(port) if PORTS.contains(&port) => usize::from(port - PORTS.start) + 1,
        // A random start keeps two caches on one machine apart.
        _ => usize::try_from(RandomState::new().build_hasher().finish() % PORTS.len() as u64)?,
    };
    let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    let port = PORTS.cycle().skip(skipped).take(PORTS.len()).find(is_free);
    let port = port.context("every port from 20000 to 29999 is in use")?;
    file.set_len(0)?;
    file.rewind()?;
    write!(file, "{port}")?;
    Ok(port)
}

impl Run {
    /// Starts the component `name`, which forwards loopback ports of the host to addresses in the run's namespace.
    /// Without a namespace, components listen on the host's loopback already.
    pub fn forward(&self, name: &str, forwards: &[(u16, &str)]) -> Result<()> {
        let Some(namespace) = self.namespace() else { return Ok(()) };
        let mut command = Command::new(e2e_program()?);
        command.arg("forward").arg("--namespace").arg(namespace);
        for (port, target) in forwards {
            command.arg(format!("{port}={target}"));
        }
        self.spawn(name, &mut command)?;
        Ok(())
    }
}

/// The `e2e` executable: this process, or the one beside this test's executable.
pub fn e2e_program() -> Result<PathBuf> {
    let this = std::env::current_exe()?;
    let candidates = this.ancestors().take(3).map(|folder| folder.join("e2e"));
    let found = std::iter::once(this.clone()).chain(candidates).find(|path| path.ends_with("e2e") && path.is_file());
    found.with_context(|| format!("no `e2e` beside {}: build it with cargo build --package e2e", this.display()))
}

/// The operator's executable, built beside `e2e`.
pub fn operator_program() -> Result<PathBuf> {
    Ok(e2e_program()?.with_file_name("mcp-oauth-operator"))
}

/// A loopback port of the host and its target in the namespace, written PORT=ADDRESS:PORT.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct PortForward {
    port: u16,
    target: SocketAddr,
}

impl FromStr for PortForward {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let Some((port, target)) = text.split_once('=') else { bail!("expected PORT=ADDRESS:PORT, not {text}") };
        Ok(Self { port: port.parse().context("PORT")?, target: target.parse().context("ADDRESS:PORT")? })
    }
}

#[derive(clap::Args)]
pub struct Args {
    /// The network namespace's name in /run/netns.
    #[arg(long)]
    namespace: String,
    /// PORT=ADDRESS:PORT: a loopback port of the host and its target in the namespace.
    #[arg(required = true)]
    forwards: Vec<PortForward>,
}

impl Args {
    pub fn run(self) -> Result<()> {
        let listeners = self.forwards.into_iter().map(listen).collect::<Result<Vec<_>>>()?;
        let namespace = format!("/run/netns/{}", self.namespace);
        let namespace = File::open(&namespace).with_context(|| format!("cannot open {namespace}"))?;
        // setns(2) moves only this thread, so the runtime must be single-threaded.
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
            .context("cannot enter the namespace")?;
        tokio::runtime::Builder::new_current_thread().enable_io().build()?.block_on(async {
            let mut open = tokio::task::JoinSet::new();
            for (listener, target) in listeners {
                open.spawn(forward_connections(net::TcpListener::from_std(listener)?, target));
            }
            match open.join_next().await {
                Some(ended) => ended?,
                None => Ok(()),
            }
        })
    }
}

fn listen(forward: PortForward) -> Result<(TcpListener, SocketAddr)> {
    let listener =
        TcpListener::bind(("127.0.0.1", forward.port)).with_context(|| format!("port {} is in use", forward.port))?;
    listener.set_nonblocking(true)?;
    Ok((listener, forward.target))
}

async fn forward_connections(listener: net::TcpListener, target: SocketAddr) -> Result<()> {
    loop {
        let (mut outer, _) = listener.accept().await?;
        tokio::spawn(async move {
            // If the target refuses, or either side closes, dropping the sockets closes the other side.
            if let Ok(mut inner) = net::TcpStream::connect(target).await {
                let _ = (outer.set_nodelay(true), inner.set_nodelay(true));
                let _ = copy_bidirectional(&mut outer, &mut inner).await;
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, thread};

    use super::*;

    #[test]
    fn allocated_ports_are_distinct() {
        let allocate = || (0..250).map(|_| free_port().unwrap()).collect::<Vec<_>>();
        let ports: HashSet<u16> = (0..4)
            .map(|_| thread::spawn(allocate))
            .collect::<Vec<_>>()
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect();
        assert_eq!(ports.len(), 1000);
    }

    #[test]
    fn forward_is_parsed_as_port_and_address() {
        let forward: PortForward = "8443=10.89.0.1:6443".parse().unwrap();
        assert_eq!(forward, PortForward { port: 8443, target: "10.89.0.1:6443".parse().unwrap() });
        assert!("8443".parse::<PortForward>().is_err());
        assert!("8443=somewhere".parse::<PortForward>().is_err());
    }
}
