//! Installs the operator as users do: with the Helm chart or with kustomize.

use std::{
    fs,
    path::{Component, Path, PathBuf},
};

use anyhow::{Context, Result};
use clap::{Subcommand, ValueEnum};
use serde_json::json;

use crate::{
    cluster::Cluster,
    image::{self, Image, workspace},
    program,
    progress::Progress,
    run::RunArg,
};

/// The namespace that both installers use.
pub const NAMESPACE: &str = "mcp-oauth-system";
/// The name of the Helm release and of the Deployment.
pub const NAME: &str = "mcp-oauth-operator";
/// The image as the manifests in `config` name it.
const MANIFEST_IMAGE: &str = "ghcr.io/jomcgi/mcp-oauth-operator";

#[derive(Subcommand)]
pub enum Action {
    /// Build the operator's image and install or upgrade the operator.
    Install {
        #[command(flatten)]
        run: RunArg,
        /// The installer.
        #[arg(long = "with", value_enum, default_value_t = Installer::Helm)]
        installer: Installer,
    },
}

/// The two ways to install the operator.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Installer {
    /// The chart in `charts/mcp-oauth-operator`.
    Helm,
    /// `kubectl apply -k` of `config/default`.
    Kustomize,
}

impl Action {
    pub fn run(self) -> Result<()> {
        let Self::Install { run, installer } = self;
        let cluster = Cluster::attach(&run.open()?)?;
        install(&cluster, &image::operator()?, installer, "info")
    }
}

/// Loads the image into the cluster, installs the operator with the log filter `log` (Helm only) and waits until its
/// pod is ready.
pub fn install(cluster: &Cluster, image: &Image, installer: Installer, log: &str) -> Result<()> {
    let progress = Progress::default();
    cluster.load_image(&image.archive, &image.reference)?;
    match installer {
        Installer::Helm => with_helm(cluster, image, log)?,
        Installer::Kustomize => with_kustomize(cluster, image)?,
    }
    let deployment = format!("deployment/{NAME}");
    let rollout = ["--namespace", NAMESPACE, "rollout", "status", &deployment, "--timeout=120s"];
    program::output(&mut cluster.kubectl(&rollout)).context("the operator's pod is not ready")?;
    progress.print("operator ready");
    Ok(())
}

fn with_helm(cluster: &Cluster, image: &Image, log: &str) -> Result<()> {
    let chart = workspace().join("charts/mcp-oauth-operator");
    let (repository, tag) = (format!("image.repository={}", image.name()), format!("image.tag={}", image.tag()));
    let mut helm = cluster.helm(&["upgrade", "--install", NAME]);
    helm.arg(&chart).args(["--namespace", NAMESPACE, "--create-namespace"]);
    // --set would parse a tag of digits as a number.
    helm.args(["--set-string", &repository, "--set-string", &tag, "--set-string", &format!("log.filter={log}")]);
    program::output(&mut helm).map(drop)
}

/// Writes and applies an overlay that sets the image, as a user would.
fn with_kustomize(cluster: &Cluster, image: &Image) -> Result<()> {
    let overlay = cluster.run().directory().join("overlay");
    fs::create_dir_all(&overlay)?;
    let base = relative(&fs::canonicalize(&overlay)?, &fs::canonicalize(workspace().join("config/default"))?);
    let kustomization = json!({
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [base],
        "images": [{ "name": MANIFEST_IMAGE, "newName": image.name(), "newTag": image.tag() }],
        // MCP_OAUTH_PROXY_IMAGE must be replaced too; config/default explains why.
        "replacements": [{
            "source": {
                "kind": "Deployment",
                "name": NAME,
                "fieldPath": "spec.template.spec.containers.[name=operator].image",
            },
            "targets": [{
                "select": { "kind": "Deployment", "name": NAME },
                "fieldPaths": [
                    "spec.template.spec.containers.[name=operator].env.[name=MCP_OAUTH_PROXY_IMAGE].value",
                ],
            }],
        }],
    });
    fs::write(overlay.join("kustomization.yaml"), serde_yaml::to_string(&kustomization)?)?;
    let mut kubectl = cluster.kubectl(&["apply", "--server-side", "--kustomize"]);
    program::output(kubectl.arg(&overlay)).map(drop)
}

/// The relative path between two folders; kustomize does not accept absolute paths.
fn relative(from: &Path, to: &Path) -> PathBuf {
    let shared = from.components().zip(to.components()).take_while(|(a, b)| a == b).count();
    let up = from.components().skip(shared).map(|_| Component::ParentDir);
    up.chain(to.components().skip(shared)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_path_goes_through_the_common_folder() {
        assert_eq!(relative(Path::new("/a/b/c"), Path::new("/a/d")), Path::new("../../d"));
        assert_eq!(relative(Path::new("/a"), Path::new("/a/d/e")), Path::new("d/e"));
    }
}
