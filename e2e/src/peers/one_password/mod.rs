//! A stand-in for 1Password's operator, which needs an account. Like the real one, it creates Secrets from
//! `OnePasswordItem` objects, but reads the items from a file instead of a vault.

mod items;
mod operator;

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use self::items::read;
pub use self::items::{Item, Items};
use super::component_state;
use crate::{
    cluster::Cluster,
    forward::e2e_program,
    progress::tail,
    run::{Run, RunArg},
    tls::install_crypto_provider,
};

const NAME: &str = "one-password";

#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct OnePassword {
    items: PathBuf,
}

impl OnePassword {
    /// Installs the CRD and starts the stand-in without items, or finds it running.
    pub async fn up(run: &Run, cluster: &Cluster) -> Result<Self> {
        if let Some(running) = component_state::load(run, NAME) {
            return Ok(running);
        }
        run.stop(NAME)?;
        let folder = run.directory().join(NAME);
        fs::create_dir_all(&folder)?;
        let (stand_in, ready) = (Self { items: folder.join("items.json") }, folder.join("ready"));
        component_state::replace_json(&stand_in.items, &Items::new())?;
        if ready.exists() {
            fs::remove_file(&ready)?;
        }
        let mut command = run.command(e2e_program()?);
        command.args(["one-password", "serve", "--kubeconfig"]).arg(cluster.namespace_kubeconfig());
        command.arg("--items").arg(&stand_in.items).arg("--ready").arg(&ready);
        run.spawn(NAME, &mut command)?;
        let (log, deadline) = (run.log(NAME), Instant::now() + Duration::from_secs(30));
        while !ready.exists() {
            if run.running(NAME).is_none() || Instant::now() > deadline {
                bail!("the 1Password stand-in did not start. Its log {}:{}", log.display(), tail(&log));
            }
            sleep(Duration::from_millis(50)).await;
        }
        component_state::save(run, NAME, &stand_in)?;
        eprintln!("one-password  creates Secrets from {} · log {}", stand_in.items.display(), log.display());
        Ok(stand_in)
    }

    /// Stops the stand-in. The CRD and the Secrets stay.
    pub fn down(run: &Run) -> Result<()> {
        run.stop(NAME)
    }

    /// Creates or changes an item.
    pub fn put(&self, path: &str, fields: &[(&str, &str)]) -> Result<()> {
        let _lock = component_state::lock_folder(self.items.parent().context("the items are in a folder")?)?;
        let mut items = read(&self.items)?;
        let item = items.entry(path.to_owned()).or_default();
        item.version += 1;
        item.fields = fields.iter().map(|(label, value)| ((*label).to_owned(), (*value).to_owned())).collect();
        component_state::replace_json(&self.items, &items)
    }
}

/// `e2e one-password`
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Start the stand-in for the run's cluster
    Up(RunArg),
    /// Create or change an item
    Put {
        #[command(flatten)]
        run: RunArg,
        /// vaults/VAULT/items/ITEM
        path: String,
        /// LABEL=VALUE
        fields: Vec<String>,
    },
    /// Stop the stand-in
    Down(RunArg),
    /// Run the stand-in (started by `up`)
    #[command(hide = true)]
    Serve {
        #[arg(long)]
        kubeconfig: PathBuf,
        #[arg(long)]
        items: PathBuf,
        /// Created once the CRD is established
        #[arg(long)]
        ready: PathBuf,
    },
}

impl Action {
    pub async fn perform(self) -> Result<()> {
        match self {
            Self::Up(run) => {
                let run = run.open()?;
                OnePassword::up(&run, &Cluster::attach(&run)?).await.map(drop)
            }
            Self::Put { run, path, fields } => {
                let stand_in: OnePassword = component_state::load(&run.open()?, NAME)
                    .context("the stand-in is not running: start it with e2e one-password up")?;
                let fields: Option<Vec<_>> = fields.iter().map(|field| field.split_once('=')).collect();
                stand_in.put(&path, &fields.context("fields must be LABEL=VALUE")?)
            }
            Self::Down(run) => OnePassword::down(&run.open()?),
            Self::Serve { kubeconfig, items, ready } => {
                install_crypto_provider();
                let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
                let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
                operator::serve(kube::Client::try_from(config)?, items, &ready).await
            }
        }
    }
}
