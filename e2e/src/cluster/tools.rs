//! Programs built from their published Go modules, once per version, into the cache.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use anyhow::{Context, Result, bail};

use super::requirements;
use crate::{
    progress::{self, Progress},
    run::cache_directory,
};

/// A go.mod of this crate. The programs of its `tool` lines are built together.
struct ToolModule {
    /// The name, and the folder of the go.mod.
    name: &'static str,
    title: &'static str,
    /// The module whose version is the version of the programs.
    module: &'static str,
    /// The build time on two cores.
    duration: &'static str,
}

const KUBERNETES: ToolModule =
    ToolModule { name: "kubernetes", title: "Kubernetes", module: "k8s.io/kubernetes", duration: "4 minutes" };
const ETCD: ToolModule =
    ToolModule { name: "etcd", title: "etcd", module: "go.etcd.io/etcd/server/v3", duration: "30 seconds" };
const COREDNS: ToolModule =
    ToolModule { name: "coredns", title: "CoreDNS", module: "github.com/coredns/coredns", duration: "90 seconds" };
const HELM: ToolModule = ToolModule { name: "helm", title: "helm", module: "helm.sh/helm/v4", duration: "90 seconds" };

/// The folders of the built programs.
#[derive(Clone, Debug)]
pub struct Tools {
    kubernetes: PathBuf,
    etcd: PathBuf,
    coredns: PathBuf,
    helm: PathBuf,
}

impl Tools {
    /// Builds the programs that the cache does not contain.
    pub fn ready(progress: &Progress) -> Result<Self> {
        Ok(Self {
            kubernetes: KUBERNETES.ready(progress)?,
            etcd: ETCD.ready(progress)?,
            coredns: COREDNS.ready(progress)?,
            helm: HELM.ready(progress)?,
        })
    }

    /// A Kubernetes program, such as `kube-apiserver`.
    pub fn kubernetes(&self, program: &str) -> PathBuf {
        self.kubernetes.join(program)
    }

    /// The etcd module names its program `server`.
    pub fn etcd(&self) -> PathBuf {
        self.etcd.join("server")
    }

    pub fn coredns(&self) -> PathBuf {
        self.coredns.join("coredns")
    }

    pub fn helm(&self) -> PathBuf {
        self.helm.join("helm")
    }
}

impl ToolModule {
    /// Returns the folder of the built programs, and builds them if needed.
    fn ready(&self, progress: &Progress) -> Result<PathBuf> {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(self.name);
        let go_mod =
            fs::read_to_string(source.join("go.mod")).with_context(|| format!("no go.mod in {}", source.display()))?;
        let version = version_of(self.module, &go_mod)?;
        let tools = cache_directory()?.join("tools");
        let built = tools.join(format!("{}-{version}", self.name));
        if built.is_dir() {
            return Ok(built);
        }
        requirements::check_go()?;
        fs::create_dir_all(&tools)?;
        let lock = File::create(tools.join(".lock"))?;
        if lock.try_lock().is_err() {
            progress.print("waiting for another process that builds tools");
            lock.lock()?;
        }
        if !built.is_dir() {
            progress.print(format!("building {} {version} (once, about {})", self.title, self.duration));
            self.build(&source, version, &built)?;
            progress.print(format!("built {}", self.title));
        }
        Ok(built)
    }

    fn build(&self, source: &Path, version: &str, built: &Path) -> Result<()> {
        let mut partial = built.to_owned().into_os_string();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        let _ = fs::remove_dir_all(&partial);
        fs::create_dir_all(&partial)?;
        // The trailing slash makes go treat the target as a folder.
        let mut target = partial.clone().into_os_string();
        target.push("/");
        let started = Instant::now();
        let output = Command::new("go")
            .current_dir(source)
            .env("CGO_ENABLED", "0")
            .env("GOTOOLCHAIN", "local")
            .env("GOFLAGS", "-mod=readonly")
            .args(["build", "-trimpath", "-ldflags", &self.linker_flags(version), "-o"])
            .arg(target)
            .arg("tool")
            .output()
            .context("cannot run go")?;
        progress::stop_if_interrupted()?;
        if !output.status.success() {
            bail!(
                "go build in {} failed after {} s:\n{}",
                source.display(),
                started.elapsed().as_secs(),
                String::from_utf8_lossy(&output.stderr)
            );
        }
        fs::rename(&partial, built).with_context(|| format!("cannot create {}", built.display()))
    }

    fn linker_flags(&self, version: &str) -> String {
        let strip = "-s -w";
        if self.name != "kubernetes" {
            return strip.to_owned();
        }
        // The kubelet compares its version with the API server's, and `kubectl version` prints it.
        let package = "k8s.io/component-base/version";
        let mut parts = version.trim_start_matches('v').split('.');
        let (major, minor) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        format!(
            "{strip} -X {package}.gitVersion={version} -X {package}.gitMajor={major} -X {package}.gitMinor={minor} \
             -X {package}.gitTreeState=clean"
        )
    }
}

/// The required version of a module in a go.mod.
fn version_of<'a>(module: &str, go_mod: &'a str) -> Result<&'a str> {
    go_mod
        .lines()
        .map(|line| line.trim().trim_start_matches("require "))
        .find_map(|line| line.strip_prefix(module)?.strip_prefix(' ')?.split_whitespace().next())
        .with_context(|| format!("go.mod does not require {module}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_is_read_from_the_requirement() {
        let go_mod = "tool helm.sh/helm/v4/cmd/helm\n\nrequire (\n\thelm.sh/helm/v4 v4.3.1 // indirect\n)\n";
        assert_eq!(version_of("helm.sh/helm/v4", go_mod).unwrap(), "v4.3.1");
        assert!(version_of("helm.sh/helm/v3", go_mod).is_err());
    }

    #[test]
    fn linker_flags_set_the_kubernetes_version() {
        let flags = KUBERNETES.linker_flags("v1.35.4");
        assert!(flags.contains("gitVersion=v1.35.4") && flags.contains("gitMinor=35"), "{flags}");
    }
}
