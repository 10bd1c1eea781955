//! The bed's own cluster: one node, all components as processes in the run's network namespace.

use std::fs;

use anyhow::{Context, Result};
use serde_json::Value;

use super::{
    cgroup, control_plane, dns, kubeconfig,
    kubeconfig::outside_kubeconfig,
    kubectl::Kubectl,
    needs, network, node,
    pki::Pki,
    setup::{API_PORT, NODE, Setup},
    tools::Tools,
    undo,
};
use crate::{
    forward::free_port,
    image,
    progress::{Progress, catch_interrupts},
    run::{NODE_ADDRESS, Run},
};

/// Brings the cluster up. One that is up already stays; one that half is, or whose makers were killed, is undone first.
pub fn up(run: &Run) -> Result<()> {
    let progress = Progress::default();
    needs::check_node()?;
    catch_interrupts();
    let _lock = run.lock()?;
    let tools = Tools::ready(&progress)?;
    if is_up(run, &tools) {
        progress.say(format!("the cluster of run {} is already up", run.name()));
        return Ok(());
    }
    if !run.made().is_empty() {
        progress.say(format!("an earlier run {} was not ended: undoing it first", run.name()));
        undo::everything(run)?;
    }
    let run = &Run::open(run.name())?;
    let pki = Pki::at(run.directory().join("pki"));
    let setup = Setup { run, tools, pki, progress };
    let Err(error) = setup.bring_up() else { return Ok(()) };
    progress.say("this failed: undoing what was made");
    if let Err(second) = undo::keeping_logs(run) {
        progress.say(format!("could not undo all of it: {second:#}"));
    }
    Err(error.context(format!("no cluster came up; logs are kept in {}", run.logs().display())))
}

/// Ends the cluster and everything else of the run.
pub fn down(run: &Run, keep_logs: bool) -> Result<()> {
    let progress = Progress::default();
    let _lock = run.lock()?;
    let was_there = !run.made().is_empty();
    if keep_logs {
        undo::keeping_logs(run)?;
    } else {
        undo::everything(run)?;
    }
    progress.say(match was_there {
        true => format!("run {} is down, nothing of it is left", run.name()),
        false => format!("run {} was not up", run.name()),
    });
    Ok(())
}

/// Whether the cluster's components run and its node is ready.
pub fn is_up(run: &Run, tools: &Tools) -> bool {
    COMPONENTS.iter().all(|component| run.running(component).is_some())
        && node_is_ready(&Kubectl::of_run(run, tools)).unwrap_or(false)
}

/// The processes of a cluster, in the order of their start. They are ended in the opposite one.
pub const COMPONENTS: &[&str] = &[
    "containerd",
    "etcd",
    "kube-apiserver",
    "api-forward",
    "kube-controller-manager",
    "kube-scheduler",
    "kube-proxy",
    "kubelet",
    "coredns",
];

impl Setup<'_> {
    fn bring_up(&self) -> Result<()> {
        self.progress.say(format!("run {}: logs are in {}", self.run.name(), self.run.logs().display()));
        let pause = image::pause()?;
        self.pki.make(NODE)?;
        network::make(self.run)?;
        let cgroup = cgroup::make(self.run)?;
        undo::remember_sysctls(self.run)?;
        self.write_kubeconfigs()?;
        self.progress.say("network namespace, certificates and cgroup made");

        node::start_containerd(self, &pause.reference)?;
        control_plane::start_storage_and_api(self)?;
        self.run.forward("api-forward", &[(self.api_port()?, &format!("{NODE_ADDRESS}:{API_PORT}"))])?;
        node::wait_for_containerd(self)?;
        node::import_image(self.run, &pause.archive)?;
        let kubectl = Kubectl::of_run(self.run, &self.tools);
        self.wait(&["kube-apiserver", "api-forward", "etcd"], "the API server to be ready", || {
            Ok(kubectl.try_run(&["get", "--raw", "/readyz"]))
        })?;
        self.progress.say("API server ready");

        control_plane::start_controllers(self)?;
        node::start_kube_proxy(self)?;
        let alone = node::start_kubelet(self, &cgroup)?;
        dns::start(self)?;
        self.wait(&["kubelet", "containerd"], "the node to be ready", || Ok(node_is_ready(&kubectl).unwrap_or(false)))?;
        drop(alone);
        self.progress.say("node ready");
        Ok(())
    }

    fn write_kubeconfigs(&self) -> Result<()> {
        let inside = format!("https://{NODE_ADDRESS}:{API_PORT}");
        for user in ["admin", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet"] {
            kubeconfig::write(&self.kubeconfig(user), &self.pki, user, &inside, &self.context())?;
        }
        let outside = format!("https://127.0.0.1:{}", free_port()?);
        kubeconfig::write(&outside_kubeconfig(self.run), &self.pki, "admin", &outside, &self.context())
    }

    /// The port of this machine's loopback at which the API server is reached, as the kubeconfig for outside says.
    fn api_port(&self) -> Result<u16> {
        let text = fs::read_to_string(outside_kubeconfig(self.run))?;
        let config: Value = serde_yaml::from_str(&text)?;
        let server = config.pointer("/clusters/0/cluster/server").and_then(Value::as_str);
        let port = server.and_then(|server| server.rsplit_once(':')).context("the kubeconfig has no port")?.1;
        Ok(port.parse()?)
    }
}

fn node_is_ready(kubectl: &Kubectl) -> Result<bool> {
    let path = "jsonpath={.status.conditions[?(@.type==\"Ready\")].status}";
    Ok(kubectl.output(&["get", "node", NODE, "--output", path])?.trim() == "True")
}
