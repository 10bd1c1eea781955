//! The Kubernetes cluster for tests and the demo: the test bed's own (bed.rs), or an external one (external.rs).

mod bed;
mod cgroup;
mod cleanup;
mod control_plane;
mod dns;
mod external;
mod kubeconfig;
mod kubectl;
mod network;
mod node;
mod pki;
pub mod requirements;
mod service;
mod setup;
mod tools;

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use kube::config::{KubeConfigOptions, Kubeconfig};

use self::tools::Tools;
pub use self::{cleanup::leftovers, external::ExternalCluster, kubectl::Kubectl};
use crate::{
    progress::Progress,
    run::{Run, RunArg},
    tls::install_crypto_provider,
};

/// A running cluster.
#[derive(Clone, Debug)]
pub struct Cluster {
    run: Run,
    kind: ClusterKind,
    tools: Tools,
}

#[derive(Clone, Debug)]
enum ClusterKind {
    /// Created by the test bed, in the run's network namespace.
    Bed,
    External(ExternalCluster),
}

impl Cluster {
    /// Starts the run's cluster unless it runs, or uses the external cluster if one is named.
    pub fn up(run: &Run) -> Result<Self> {
        if ExternalCluster::from_env()?.is_none() {
            bed::up(run)?;
        }
        Self::attach(&Run::open(run.name())?)
    }

    /// The run's cluster, which must be running.
    pub fn attach(run: &Run) -> Result<Self> {
        let tools = Tools::ready(&Progress::default())?;
        let kind = match ExternalCluster::from_env()? {
            Some(external) => ClusterKind::External(external),
            None if bed::is_up(run, &tools) => ClusterKind::Bed,
            None => bail!("run {} has no cluster: start it with e2e cluster up --run {}", run.name(), run.name()),
        };
        Ok(Self { run: run.clone(), kind, tools })
    }

    /// Stops and removes the run with all its components. An external cluster is left unchanged.
    pub fn down(run: &Run, keep_logs: bool) -> Result<()> {
        bed::down(run, keep_logs)
    }

    /// Builds the cluster's programs that the cache does not contain.
    pub fn prepare(progress: &Progress) -> Result<()> {
        Tools::ready(progress).map(drop)
    }

    /// Saves the cluster's objects and events beside the logs, for debugging a failure.
    pub fn save_state(&self) {
        let kinds = "mop,mcpsessions,deployments,pods,services,endpointslices,events";
        match self.kubectl_program().output(&["get", kinds, "--all-namespaces", "-o", "yaml"]) {
            Ok(text) => drop(std::fs::write(self.run.logs().join("objects.yaml"), text)),
            Err(error) => eprintln!("cannot save the cluster's objects: {error:#}"),
        }
    }

    /// Cleans up runs whose owner process was killed, except for their logs.
    pub fn down_abandoned() -> Result<()> {
        for run in Run::all()?.into_iter().filter(Run::is_abandoned) {
            eprintln!("run {} was killed: cleaning it up; its logs are in {}", run.name(), run.logs().display());
            bed::down(&run, true)?;
        }
        Ok(())
    }

    pub fn run(&self) -> &Run {
        &self.run
    }

    /// The kubeconfig for programs on the host.
    pub fn kubeconfig(&self) -> PathBuf {
        match &self.kind {
            ClusterKind::Bed => kubeconfig::host_kubeconfig(&self.run),
            ClusterKind::External(external) => external.kubeconfig.clone(),
        }
    }

    /// The kubeconfig for programs started by [`Run::command`].
    pub fn namespace_kubeconfig(&self) -> PathBuf {
        match &self.kind {
            ClusterKind::Bed => kubeconfig::namespace_kubeconfig(&self.run),
            ClusterKind::External(external) => external.kubeconfig.clone(),
        }
    }

    /// A client with administrator rights.
    pub async fn client(&self) -> Result<kube::Client> {
        install_crypto_provider();
        let kubeconfig = Kubeconfig::read_from(self.kubeconfig())?;
        let options = KubeConfigOptions { context: self.context(), ..KubeConfigOptions::default() };
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await?;
        Ok(kube::Client::try_from(config)?)
    }

    /// A kubectl command for this cluster.
    pub fn kubectl(&self, arguments: &[&str]) -> Command {
        self.kubectl_program().command(arguments)
    }

    /// The folder that contains kubectl.
    pub fn programs(&self) -> PathBuf {
        self.tools.kubernetes("")
    }

    pub fn kubectl_program(&self) -> Kubectl {
        Kubectl { program: self.tools.kubernetes("kubectl"), kubeconfig: self.kubeconfig(), context: self.context() }
    }

    /// A helm command for this cluster.
    pub fn helm(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.tools.helm());
        command.env_remove("KUBECONFIG").arg("--kubeconfig").arg(self.kubeconfig());
        if let Some(context) = self.context() {
            command.args(["--kube-context", &context]);
        }
        command.args(arguments);
        command
    }

    /// Loads an image on the nodes, unless the node is known to have it.
    pub fn load_image(&self, archive: &Path, reference: &str) -> Result<()> {
        match &self.kind {
            ClusterKind::Bed if node::has_image(&self.run, reference)? => Ok(()),
            _ => self.load_archive(archive),
        }
    }

    fn load_archive(&self, archive: &Path) -> Result<()> {
        match &self.kind {
            ClusterKind::Bed => node::import_image(&self.run, archive),
            ClusterKind::External(external) => {
                let mut command = Command::new("sh");
                command.args(["-c", &external.load_image, "sh"]).arg(archive);
                let status = command.status().context("cannot run sh")?;
                if status.success() { Ok(()) } else { bail!("E2E_LOAD_IMAGE failed: {}", external.load_image) }
            }
        }
    }

    fn context(&self) -> Option<String> {
        match &self.kind {
            ClusterKind::Bed => None,
            ClusterKind::External(external) => Some(external.context.clone()),
        }
    }
}

#[derive(Subcommand)]
pub enum Action {
    /// Start the cluster.
    Up(RunArg),
    /// Stop the cluster and remove everything of the run.
    Down {
        #[command(flatten)]
        run: RunArg,
        /// Keep the logs.
        #[arg(long)]
        keep_logs: bool,
    },
    /// Load an image archive on the nodes.
    LoadImage {
        #[command(flatten)]
        run: RunArg,
        /// An archive in the format of `docker save`.
        archive: PathBuf,
    },
    /// Show the runs and their running components.
    Status,
}

impl Action {
    pub fn run(self) -> Result<()> {
        match self {
            Self::Up(run) => {
                let cluster = Cluster::up(&run.open()?)?;
                let mut kubectl = format!(
                    "{} --kubeconfig {}",
                    cluster.tools.kubernetes("kubectl").display(),
                    cluster.kubeconfig().display()
                );
                if let Some(context) = cluster.context() {
                    kubectl.push_str(&format!(" --context {context}"));
                }
                println!("{kubectl}");
                Ok(())
            }
            Self::Down { run, keep_logs } => Cluster::down(&run.open()?, keep_logs),
            Self::LoadImage { run, archive } => Cluster::attach(&run.open()?)?.load_archive(&archive),
            Self::Status => status(),
        }
    }
}

fn status() -> Result<()> {
    let runs = Run::all()?;
    if runs.is_empty() {
        println!("no runs");
    }
    for run in runs {
        let missing: Vec<&str> =
            bed::COMPONENTS.iter().filter(|component| run.running(component).is_none()).copied().collect();
        let cluster = match missing.len() {
            0 => "cluster running".to_owned(),
            count if count == bed::COMPONENTS.len() => "no cluster".to_owned(),
            _ => format!("cluster incomplete, not running: {}", missing.join(", ")),
        };
        println!("{}: {cluster}; {}", run.name(), run.directory().display());
        for (name, pid) in run.components() {
            println!("  {pid:>8}  {name}");
        }
    }
    Ok(())
}
