//! The test bed's own cluster: one node, with all components as processes in the run's network namespace.

use std::fs;

use anyhow::{Context, Result};
use serde_json::Value;

use super::{
    cgroup, cleanup, control_plane, dns, kubeconfig,
    kubeconfig::host_kubeconfig,
    kubectl::Kubectl,
    network, node,
    pki::Pki,
    requirements,
    setup::{API_PORT, NODE, Setup},
    tools::Tools,
};
use crate::{
    forward::free_port,
    image,
    progress::{Progress, catch_interrupts},
    run::{NODE_ADDRESS, Run},
};

/// Starts the cluster, unless it runs already. A partly running cluster is cleaned up first.
pub fn up(run: &Run) -> Result<()> {
    let progress = Progress::default();
    requirements::check_node()?;
    catch_interrupts();
    let _lock = run.lock()?;
    let tools = Tools::ready(&progress)?;
    if is_up(run, &tools) {
        progress.print(format!("the cluster of run {} is already running", run.name()));
        return Ok(());
    }
    if !run.journal_entries().is_empty() {
        progress.print(format!("cleaning up an earlier run {} first", run.name()));
        cleanup::remove_run(run)?;
    }
    let run = &Run::open(run.name())?;
    let pki = Pki::at(run.directory().join("pki"));
    let setup = Setup { run, tools, pki, progress };
    let Err(error) = setup.bring_up() else { return Ok(()) };
    progress.print("the start failed: cleaning up");
    if let Err(second) = cleanup::remove_run_except_logs(run) {
        progress.print(format!("the cleanup is incomplete: {second:#}"));
    }
    Err(error.context(format!("the cluster did not start; its logs are in {}", run.logs().display())))
}

/// Stops the cluster and removes everything else of the run.
pub fn down(run: &Run, keep_logs: bool) -> Result<()> {
    let progress = Progress::default();
    let _lock = run.lock()?;
    let was_there = !run.journal_entries().is_empty();
    if keep_logs {
        cleanup::remove_run_except_logs(run)?;
    } else {
        cleanup::remove_run(run)?;
    }
    progress.print(match was_there {
        true => format!("run {} is removed", run.name()),
        false => format!("run {} was not running", run.name()),
    });
    Ok(())
}

pub fn is_up(run: &Run, tools: &Tools) -> bool {
    COMPONENTS.iter().all(|component| run.running(component).is_some())
        && node_is_ready(&Kubectl::for_run(run, tools)).unwrap_or(false)
}

/// The cluster's processes in start order. They are stopped in reverse order.
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
        self.progress.print(format!("run {}: logs are in {}", self.run.name(), self.run.logs().display()));
        let pause = image::pause()?;
        self.pki.make(NODE)?;
        network::make(self.run)?;
        let cgroup = cgroup::make(self.run)?;
        cleanup::record_sysctls(self.run)?;
        self.write_kubeconfigs()?;
        self.progress.print("network namespace, certificates and cgroup created");

        node::start_containerd(self, &pause.reference)?;
        control_plane::start_storage_and_api(self)?;
        self.run.forward("api-forward", &[(self.api_port()?, &format!("{NODE_ADDRESS}:{API_PORT}"))])?;
        node::wait_for_containerd(self)?;
        node::import_image(self.run, &pause.archive)?;
        let kubectl = Kubectl::for_run(self.run, &self.tools);
        self.wait(&["kube-apiserver", "api-forward", "etcd"], "the API server to be ready", || {
            Ok(kubectl.try_run(&["get", "--raw", "/readyz"]))
        })?;
        self.progress.print("API server ready");

        control_plane::start_controllers(self)?;
        node::start_kube_proxy(self)?;
        let kubelet_lock = node::start_kubelet(self, &cgroup)?;
        dns::start(self)?;
        self.wait(&["kubelet", "containerd"], "the node to be ready", || Ok(node_is_ready(&kubectl).unwrap_or(false)))?;
        drop(kubelet_lock);
        self.progress.print("node ready");
        Ok(())
    }

    fn write_kubeconfigs(&self) -> Result<()> {
        let namespace_server = format!("https://{NODE_ADDRESS}:{API_PORT}");
        for user in ["admin", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet"] {
            kubeconfig::write(&self.kubeconfig(user), &self.pki, user, &namespace_server, &self.context())?;
        }
        let host_server = format!("https://127.0.0.1:{}", free_port()?);
        kubeconfig::write(&host_kubeconfig(self.run), &self.pki, "admin", &host_server, &self.context())
    }

    /// The host's loopback port of the API server, read from the host kubeconfig.
    fn api_port(&self) -> Result<u16> {
        let text = fs::read_to_string(host_kubeconfig(self.run))?;
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
