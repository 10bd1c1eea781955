//! The node: containerd, the kubelet and kube-proxy. All their state is in the run's folder.

use std::{
    fs::{self, File},
    path::Path,
    process::Command,
};

use anyhow::{Context, Result, bail};
use serde_json::json;

use super::{
    network::POD_RANGE,
    requirements::CNI_PLUGINS,
    setup::{NODE, Setup, text},
};
use crate::run::{NODE_ADDRESS, Run, runs_directory};

/// Starts containerd with this image for pod sandboxes.
pub fn start_containerd(setup: &Setup<'_>, sandbox_image: &str) -> Result<()> {
    let state = setup.path("containerd");
    fs::create_dir_all(setup.path("cni"))?;
    fs::create_dir_all(&state)?;
    let network = json!({
        "cniVersion": "0.4.0",
        "name": setup.run.machine_name(),
        "plugins": [{
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": true,
            "ipMasq": false,
            "hairpinMode": true,
            "ipam": {
                "type": "host-local",
                // The default is a machine-wide folder in /var/lib.
                "dataDir": setup.path("cni-addresses"),
                "ranges": [[{ "subnet": POD_RANGE }]],
                "routes": [{ "dst": "0.0.0.0/0" }],
            },
        }],
    });
    setup.configure("cni/bed.conflist", &network)?;
    let config = state.join("config.toml");
    fs::write(&config, containerd_config(setup, sandbox_image))?;
    setup.start("containerd", "containerd", &[format!("--config={}", text(&config))])
}

fn containerd_config(setup: &Setup<'_>, sandbox_image: &str) -> String {
    let path = |name: &str| text(&setup.path(name));
    format!(
        r#"version = 2
root = "{root}"
state = "{state}"
[grpc]
address = "{socket}"
[plugins."io.containerd.internal.v1.opt"]
path = "{opt}"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{sandbox_image}"
# Root of a container or a small virtual machine may lack CAP_SYS_RESOURCE; every sandbox fails then without this.
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true
disable_tcp_service = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{CNI_PLUGINS}"
conf_dir = "{cni}"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = false
Root = "{runc}"
"#,
        root = path("containerd/root"),
        state = path("containerd/state"),
        socket = text(&socket(setup.run)),
        opt = path("containerd/opt"),
        cni = path("cni"),
        runc = path("runc"),
    )
}

pub fn wait_for_containerd(setup: &Setup<'_>) -> Result<()> {
    setup.wait(&["containerd"], "containerd to respond", || {
        Ok(socket(setup.run).exists() && ctr(setup.run).arg("version").output()?.status.success())
    })
}

/// Whether the node has an image with this name and tag.
pub fn has_image(run: &Run, reference: &str) -> Result<bool> {
    let present =
        ctr(run).args(["images", "ls", "-q", &format!("name=={reference}")]).output().context("cannot run ctr")?;
    Ok(String::from_utf8_lossy(&present.stdout).trim() == reference)
}

/// Loads an image archive on the node.
pub fn import_image(run: &Run, archive: &Path) -> Result<()> {
    let output = ctr(run).args(["images", "import"]).arg(archive).output().context("cannot run ctr")?;
    if !output.status.success() {
        bail!("cannot import {}: {}", archive.display(), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// Starts the kubelet. Hold the returned lock until the node is ready: it delays other runs' kubelets.
///
/// A starting kubelet removes and recreates the device plugin socket at a machine-wide path that is not configurable.
/// Two kubelets that do so at the same time fail with "address already in use".
pub fn start_kubelet(setup: &Setup<'_>, cgroup: &str) -> Result<File> {
    let kubelet_lock = File::create(runs_directory()?.join(".kubelet.lock"))?;
    kubelet_lock.lock()?;
    let config = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": NODE_ADDRESS,
        "healthzBindAddress": "127.0.0.1",
        "containerRuntimeEndpoint": format!("unix://{}", text(&socket(setup.run))),
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": cgroup,
        "failCgroupV1": false,
        "failSwapOn": false,
        "authentication": {
            "anonymous": { "enabled": false },
            "webhook": { "enabled": true },
            "x509": { "clientCAFile": setup.pki.certificate("ca") },
        },
        "authorization": { "mode": "Webhook" },
        "tlsCertFile": setup.pki.certificate("kubelet"),
        "tlsPrivateKeyFile": setup.pki.key("kubelet"),
        "resolvConf": "",
        "clusterDNS": [NODE_ADDRESS],
        "clusterDomain": "cluster.local",
        // The longest delay until changed Secrets appear in pods.
        "syncFrequency": "10s",
        "configMapAndSecretChangeDetectionStrategy": "Watch",
        "podLogsDir": setup.run.logs().join("pods"),
        "volumePluginDir": setup.path("volume-plugins"),
        // The machine's disk may be nearly full.
        "evictionHard": { "memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%" },
        "imageGCHighThresholdPercent": 100,
    });
    let config = setup.configure("kubelet.yaml", &config)?;
    setup.start(
        "kubelet",
        setup.tools.kubernetes("kubelet"),
        &[
            format!("--config={}", text(&config)),
            format!("--kubeconfig={}", text(&setup.kubeconfig("kubelet"))),
            format!("--root-dir={}", text(&setup.path("kubelet"))),
            format!("--cert-dir={}", text(&setup.path("kubelet-pki"))),
            format!("--hostname-override={NODE}"),
            format!("--node-ip={NODE_ADDRESS}"),
        ],
    )?;
    Ok(kubelet_lock)
}

pub fn start_kube_proxy(setup: &Setup<'_>) -> Result<()> {
    let config = json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "bindAddress": NODE_ADDRESS,
        "clientConnection": { "kubeconfig": setup.kubeconfig("kube-proxy") },
        "clusterCIDR": POD_RANGE,
        "hostnameOverride": NODE,
        // Zero leaves these machine-wide settings unchanged.
        "conntrack": { "maxPerCore": 0, "min": 0 },
        "nftables": { "minSyncPeriod": "100ms" },
    });
    let config = setup.configure("kube-proxy.yaml", &config)?;
    setup.start("kube-proxy", setup.tools.kubernetes("kube-proxy"), &[format!("--config={}", text(&config))])
}

fn socket(run: &Run) -> std::path::PathBuf {
    run.directory().join("containerd/containerd.sock")
}

fn ctr(run: &Run) -> Command {
    let mut command = Command::new("ctr");
    command.arg("--address").arg(socket(run)).args(["--namespace", "k8s.io"]);
    command
}
