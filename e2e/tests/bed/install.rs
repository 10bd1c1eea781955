use e2e::{
    cluster::Cluster,
    image::{self, workspace},
    operator::{self, Installer},
    run::Run,
};

/// A separate cluster, removed at the end of the test.
struct ClusterGuard(Run);

impl Drop for ClusterGuard {
    fn drop(&mut self) {
        let failed = std::thread::panicking();
        if let Err(error) = Cluster::down(&self.0, failed) {
            eprintln!("{error:#}");
        }
    }
}

#[test]
fn kubectl_apply_k_installs_the_operator() {
    let guard = ClusterGuard(Run::open(&format!("kustomize-{}", std::process::id())).unwrap());
    let cluster = Cluster::up(&guard.0).unwrap();
    operator::install(&cluster, &image::operator().unwrap(), Installer::Kustomize, "info").unwrap();
    let kubectl = cluster.kubectl_program();
    // The rollout shows that the operator can list its resources. This shows that administrators can.
    kubectl.output(&["get", "mop,mcpsessions", "--all-namespaces"]).unwrap();
    let explained = kubectl.output(&["explain", "mop.spec.access"]).unwrap();
    assert!(explained.contains("which users may log in"), "{explained}");

    // The overlay of docs/observability.md.
    let overlay = tempfile::tempdir_in(workspace().join("config")).unwrap();
    let kustomization = "resources: [../default]\ncomponents: [../monitoring]\n";
    std::fs::write(overlay.path().join("kustomization.yaml"), kustomization).unwrap();
    let objects = kubectl.output(&["kustomize", overlay.path().to_str().unwrap()]).unwrap();
    for (kind, count) in [("PodMonitor", 2), ("PrometheusRule", 1), ("ConfigMap", 1), ("Deployment", 1)] {
        assert_eq!(objects.matches(&format!("\nkind: {kind}\n")).count(), count, "{kind}");
    }
}
