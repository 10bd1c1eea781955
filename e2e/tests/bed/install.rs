use e2e::{
    cluster::Cluster,
    image::{self, workspace},
    operator::{self, Installer},
    run::Run,
};

/// A cluster of its own, which ends with the test.
struct Own(Run);

impl Drop for Own {
    fn drop(&mut self) {
        let failed = std::thread::panicking();
        if let Err(error) = Cluster::down(&self.0, failed) {
            eprintln!("{error:#}");
        }
    }
}

#[test]
fn kubectl_apply_k_installs_the_operator() {
    let own = Own(Run::open(&format!("kustomize-{}", std::process::id())).unwrap());
    let cluster = Cluster::up(&own.0).unwrap();
    operator::install(&cluster, &image::operator().unwrap(), Installer::Kustomize, "info").unwrap();
    let kubectl = cluster.kubectl_program();
    // An operator that could not list its resources would not be ready; that people can is shown here.
    kubectl.output(&["get", "mop,mcpsessions", "--all-namespaces"]).unwrap();
    let explained = kubectl.output(&["explain", "mop.spec.access"]).unwrap();
    assert!(explained.contains("which people may log in"), "{explained}");

    // With what docs/observability.md adds.
    let overlay = tempfile::tempdir_in(workspace().join("config")).unwrap();
    let kustomization = "resources: [../default]\ncomponents: [../monitoring]\n";
    std::fs::write(overlay.path().join("kustomization.yaml"), kustomization).unwrap();
    let objects = kubectl.output(&["kustomize", overlay.path().to_str().unwrap()]).unwrap();
    for (kind, count) in [("PodMonitor", 2), ("PrometheusRule", 1), ("ConfigMap", 1), ("Deployment", 1)] {
        assert_eq!(objects.matches(&format!("\nkind: {kind}\n")).count(), count, "{kind}");
    }
}
