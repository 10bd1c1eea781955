//! etcd, the API server, the controller manager and the scheduler.

use anyhow::Result;

use super::{
    network::SERVICE_RANGE,
    setup::{API_PORT, Setup, text},
};
use crate::run::NODE_ADDRESS;

/// Plain HTTP, because pods cannot reach the namespace's loopback.
const ETCD: &str = "http://127.0.0.1:2379";
const ETCD_PEER: &str = "http://127.0.0.1:2380";

/// Starts etcd, and the API server, which waits for etcd.
pub fn start_storage_and_api(setup: &Setup<'_>) -> Result<()> {
    start_etcd(setup)?;
    start_api_server(setup)
}

/// Starts the controller manager and the scheduler, which exit if the API server is not running.
pub fn start_controllers(setup: &Setup<'_>) -> Result<()> {
    start_controller_manager(setup)?;
    start_scheduler(setup)
}

fn start_etcd(setup: &Setup<'_>) -> Result<()> {
    setup.start(
        "etcd",
        setup.tools.etcd(),
        &[
            format!("--data-dir={}", text(&setup.path("etcd"))),
            format!("--listen-client-urls={ETCD}"),
            format!("--advertise-client-urls={ETCD}"),
            format!("--listen-peer-urls={ETCD_PEER}"),
            format!("--initial-advertise-peer-urls={ETCD_PEER}"),
            format!("--initial-cluster=default={ETCD_PEER}"),
            "--log-level=warn".to_owned(),
            // The data need not survive a crash of the machine.
            "--unsafe-no-fsync".to_owned(),
        ],
    )
}

fn start_api_server(setup: &Setup<'_>) -> Result<()> {
    let pki = &setup.pki;
    setup.start(
        "kube-apiserver",
        setup.tools.kubernetes("kube-apiserver"),
        &[
            format!("--etcd-servers={ETCD}"),
            format!("--secure-port={API_PORT}"),
            format!("--advertise-address={NODE_ADDRESS}"),
            format!("--service-cluster-ip-range={SERVICE_RANGE}"),
            format!("--tls-cert-file={}", text(&pki.certificate("kube-apiserver"))),
            format!("--tls-private-key-file={}", text(&pki.key("kube-apiserver"))),
            format!("--client-ca-file={}", text(&pki.certificate("ca"))),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            format!("--service-account-signing-key-file={}", text(&pki.key("service-accounts"))),
            format!("--service-account-key-file={}", text(&pki.certificate("service-accounts"))),
            "--authorization-mode=Node,RBAC".to_owned(),
            "--enable-admission-plugins=NodeRestriction".to_owned(),
            "--allow-privileged".to_owned(),
            format!("--kubelet-client-certificate={}", text(&pki.certificate("kubelet-client"))),
            format!("--kubelet-client-key={}", text(&pki.key("kubelet-client"))),
            format!("--kubelet-certificate-authority={}", text(&pki.certificate("ca"))),
            // By default, logs and exec resolve the node's name, which DNS does not have.
            "--kubelet-preferred-address-types=InternalIP".to_owned(),
        ],
    )
}

fn start_controller_manager(setup: &Setup<'_>) -> Result<()> {
    let pki = &setup.pki;
    let mut arguments = controller_arguments(setup, "kube-controller-manager");
    arguments.extend([
        format!("--service-account-private-key-file={}", text(&pki.key("service-accounts"))),
        format!("--root-ca-file={}", text(&pki.certificate("ca"))),
        "--use-service-account-credentials".to_owned(),
        format!("--cluster-signing-cert-file={}", text(&pki.certificate("ca"))),
        format!("--cluster-signing-key-file={}", text(&pki.key("ca"))),
    ]);
    setup.start("kube-controller-manager", setup.tools.kubernetes("kube-controller-manager"), &arguments)
}

fn start_scheduler(setup: &Setup<'_>) -> Result<()> {
    let arguments = controller_arguments(setup, "kube-scheduler");
    setup.start("kube-scheduler", setup.tools.kubernetes("kube-scheduler"), &arguments)
}

fn controller_arguments(setup: &Setup<'_>, user: &str) -> Vec<String> {
    let kubeconfig = text(&setup.kubeconfig(user));
    vec![
        format!("--kubeconfig={kubeconfig}"),
        format!("--authentication-kubeconfig={kubeconfig}"),
        format!("--authorization-kubeconfig={kubeconfig}"),
        "--bind-address=127.0.0.1".to_owned(),
        "--leader-elect=false".to_owned(),
    ]
}
