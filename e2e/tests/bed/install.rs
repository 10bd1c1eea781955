use e2e::{
    cluster::Cluster,
    image,
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
    assert!(explained.contains("Who may log in"), "{explained}");
}
