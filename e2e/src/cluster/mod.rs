//! A Kubernetes cluster for tests and the demo: the bed's own (see bed.rs), or one that the person named (see foreign.rs).

mod bed;
mod cgroup;
mod control_plane;
mod dns;
mod foreign;
mod kubeconfig;
mod kubectl;
pub mod needs;
mod network;
mod node;
mod outside;
mod pki;
mod setup;
mod tools;
mod undo;

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use kube::config::{KubeConfigOptions, Kubeconfig};

use self::tools::Tools;
pub use self::{foreign::Foreign, kubectl::Kubectl, undo::leftovers};
use crate::{
    progress::Progress,
    run::{Name, Run},
};

/// A cluster that is up.
#[derive(Clone, Debug)]
pub struct Cluster {
    run: Run,
    place: Place,
    tools: Tools,
}

#[derive(Clone, Debug)]
enum Place {
    /// Made by the bed, in the run's network namespace.
    Bed,
    /// Made by somebody else.
    Foreign(Foreign),
}

impl Cluster {
    /// Brings up the run's cluster unless it is up, or takes the one that the person named.
    pub fn up(run: &Run) -> Result<Self> {
        if Foreign::named()?.is_none() {
            bed::up(run)?;
        }
        Self::attach(&Run::open(run.name())?)
    }

    /// The run's cluster, which must be up.
    pub fn attach(run: &Run) -> Result<Self> {
        let tools = Tools::ready(&Progress::default())?;
        let place = match Foreign::named()? {
            Some(foreign) => Place::Foreign(foreign),
            None if bed::is_up(run, &tools) => Place::Bed,
            None => bail!("run {} has no cluster: e2e cluster up --run {}", run.name(), run.name()),
        };
        Ok(Self { run: run.clone(), place, tools })
    }

    /// Ends the run with all its components. A cluster of somebody else's stays.
    pub fn down(run: &Run, keep_logs: bool) -> Result<()> {
        bed::down(run, keep_logs)
    }

    /// Builds or fetches the programs of a cluster that the cache does not have.
    pub fn prepare(progress: &Progress) -> Result<()> {
        Tools::ready(progress).map(drop)
    }

    /// Writes what there is in the cluster, and what has happened, beside the logs: for the person who looks at a failure.
    pub fn save_state(&self) {
        let kinds = "mop,mcpsessions,deployments,pods,services,endpointslices,events";
        match self.kubectl_program().output(&["get", kinds, "--all-namespaces", "-o", "yaml"]) {
            Ok(text) => drop(std::fs::write(self.run.logs().join("objects.yaml"), text)),
            Err(error) => eprintln!("the cluster's objects cannot be saved: {error:#}"),
        }
    }

    /// Undoes runs whose owners were killed. Their logs stay.
    pub fn down_abandoned() -> Result<()> {
        for run in Run::all()?.into_iter().filter(Run::is_abandoned) {
            eprintln!("run {} was killed: undoing it, its logs stay in {}", run.name(), run.logs().display());
            bed::down(&run, true)?;
        }
        Ok(())
    }

    pub fn run(&self) -> &Run {
        &self.run
    }

    /// The kubeconfig for the person, and for programs, outside of the run's network namespace.
    pub fn kubeconfig(&self) -> PathBuf {
        match &self.place {
            Place::Bed => kubeconfig::outside_kubeconfig(&self.run),
            Place::Foreign(foreign) => foreign.kubeconfig.clone(),
        }
    }

    /// The kubeconfig for programs started by [`Run::command`].
    pub fn kubeconfig_inside(&self) -> PathBuf {
        match &self.place {
            Place::Bed => kubeconfig::inside_kubeconfig(&self.run),
            Place::Foreign(foreign) => foreign.kubeconfig.clone(),
        }
    }

    /// A client with an administrator's rights. Must be called in a tokio runtime.
    pub async fn client(&self) -> Result<kube::Client> {
        // A second call finds it installed.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let kubeconfig = Kubeconfig::read_from(self.kubeconfig())?;
        let options = KubeConfigOptions { context: self.context(), ..KubeConfigOptions::default() };
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await?;
        Ok(kube::Client::try_from(config)?)
    }

    /// kubectl, with this cluster's kubeconfig.
    pub fn kubectl(&self, arguments: &[&str]) -> Command {
        self.kubectl_program().command(arguments)
    }

    /// The folder with kubectl.
    pub fn programs(&self) -> PathBuf {
        self.tools.kubernetes("")
    }

    pub fn kubectl_program(&self) -> Kubectl {
        Kubectl { program: self.tools.kubernetes("kubectl"), kubeconfig: self.kubeconfig(), context: self.context() }
    }

    /// helm, with this cluster's kubeconfig.
    pub fn helm(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.tools.helm());
        command.env_remove("KUBECONFIG").arg("--kubeconfig").arg(self.kubeconfig());
        if let Some(context) = self.context() {
            command.args(["--kube-context", &context]);
        }
        command.args(arguments);
        command
    }

    /// Brings an image to the nodes, unless they are known to have it.
    pub fn load_image(&self, archive: &Path, reference: &str) -> Result<()> {
        match &self.place {
            Place::Bed if node::has_image(&self.run, reference)? => Ok(()),
            _ => self.load_archive(archive),
        }
    }

    fn load_archive(&self, archive: &Path) -> Result<()> {
        match &self.place {
            Place::Bed => node::import_image(&self.run, archive),
            Place::Foreign(foreign) => {
                let mut command = Command::new("sh");
                command.args(["-c", &foreign.load_image, "sh"]).arg(archive);
                let status = command.status().context("cannot run sh")?;
                if status.success() { Ok(()) } else { bail!("E2E_LOAD_IMAGE failed: {}", foreign.load_image) }
            }
        }
    }

    fn context(&self) -> Option<String> {
        match &self.place {
            Place::Bed => None,
            Place::Foreign(foreign) => Some(foreign.context.clone()),
        }
    }
}

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Bring the cluster up.
    Up {
        #[command(flatten)]
        run: Name,
    },
    /// End the cluster and all else of the run.
    Down {
        #[command(flatten)]
        run: Name,
        /// Leave the logs where they are.
        #[arg(long)]
        keep_logs: bool,
    },
    /// Bring an image archive to the nodes.
    LoadImage {
        #[command(flatten)]
        run: Name,
        /// As `docker save` writes it.
        archive: PathBuf,
    },
    /// Say which runs there are and what of them is running.
    Status,
}

impl Args {
    pub fn run(self) -> Result<()> {
        match self.action {
            Action::Up { run } => {
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
            Action::Down { run, keep_logs } => Cluster::down(&run.open()?, keep_logs),
            Action::LoadImage { run, archive } => Cluster::attach(&run.open()?)?.load_archive(&archive),
            Action::Status => status(),
        }
    }
}

fn status() -> Result<()> {
    let runs = Run::all()?;
    if runs.is_empty() {
        println!("no run is there");
    }
    for run in runs {
        let missing: Vec<&str> =
            bed::COMPONENTS.iter().filter(|component| run.running(component).is_none()).copied().collect();
        let cluster = match missing.len() {
            0 => "cluster up".to_owned(),
            count if count == bed::COMPONENTS.len() => "no cluster".to_owned(),
            _ => format!("cluster broken, not running: {}", missing.join(", ")),
        };
        println!("{}: {cluster}; {}", run.name(), run.directory().display());
        for (name, pid) in run.components() {
            println!("  {pid:>8}  {name}");
        }
    }
    Ok(())
}
