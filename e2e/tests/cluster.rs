//! The test bed's own cluster: pods, Services, DNS and cleanup.
//!
//! Needs root on Linux and the packages that `e2e cluster up` checks.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::{
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use e2e::{
    cluster::{Cluster, leftovers},
    image::{self, Image},
    peers::{http, netns::run_in_netns},
    progress::wait_until,
    run::{JournalEntry, Run},
};
use rustix::process::{Pid, Signal, kill_process};

/// Removes the run at the end of the test, and keeps the logs if it failed.
struct RunGuard(Run);

impl Drop for RunGuard {
    fn drop(&mut self) {
        let failed = std::thread::panicking();
        if failed {
            eprintln!("logs are kept in {}", self.0.logs().display());
        }
        let result = Cluster::down(&self.0, failed);
        // A second panic would abort the other tests and leave their clusters.
        if failed { eprintln!("{result:?}") } else { result.unwrap() }
    }
}

fn run(name: &str) -> (Run, RunGuard) {
    let run = Run::open(&format!("{name}-{}", std::process::id())).unwrap();
    (run.clone(), RunGuard(run))
}

fn probe() -> Result<Image> {
    let folder = tempfile::tempdir()?;
    let binary = folder.path().join("probe");
    let source = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/probe/probe.rs");
    let mut rustc = Command::new("rustc");
    rustc.args(["--edition", "2024", "-O", "-C", "target-feature=+crt-static", "-o"]).arg(&binary).arg(source);
    ensure!(rustc.status()?.success(), "the probe does not compile");
    image::build("mcp-oauth-probe", &binary, None)
}

fn deployment(image: &Image) -> String {
    format!(
        "{{ apiVersion: apps/v1, kind: Deployment, metadata: {{ name: probe, namespace: default }}, spec: {{
             replicas: 2, selector: {{ matchLabels: {{ app: probe }} }},
             template: {{ metadata: {{ labels: {{ app: probe }} }}, spec: {{ terminationGracePeriodSeconds: 1, containers: [{{
               name: probe, image: {image},
               ports: [{{ containerPort: 8080 }}],
               readinessProbe: {{ periodSeconds: 1, httpGet: {{ path: /, port: 8080 }} }},
               securityContext: {{ runAsNonRoot: true, runAsUser: 65532, readOnlyRootFilesystem: true }} }}] }} }} }} }}
---
{{ apiVersion: v1, kind: Service, metadata: {{ name: probe, namespace: default }},
   spec: {{ selector: {{ app: probe }}, ports: [{{ port: 80, targetPort: 8080 }}] }} }}
",
        image = image.reference
    )
}

/// The body of a response, requested in the run's network namespace.
fn get(run: &Run, url: &str) -> Result<String> {
    let url = url.to_owned();
    tokio::runtime::Runtime::new()?.block_on(run_in_netns(run, move || async move {
        Ok(http::client(None)?.get(&url).send().await?.error_for_status()?.text().await?)
    }))
}

#[test]
fn deployment_pods_are_reachable_by_service_and_dns() {
    let (run, _guard) = run("pods");
    let cluster = Cluster::up(&run).unwrap();
    let image = probe().unwrap();
    cluster.load_image(&image.archive, &image.reference).unwrap();
    let kubectl = cluster.kubectl_program();
    let started = Instant::now();
    kubectl.apply(&deployment(&image)).unwrap();
    kubectl.output(&["rollout", "status", "deployment/probe", "--timeout=120s"]).unwrap();
    eprintln!("both pods ready after {:.1} s", started.elapsed().as_secs_f32());

    let address = kubectl.output(&["get", "service", "probe", "--output", "jsonpath={.spec.clusterIP}"]).unwrap();
    let by_service = |path: &str| get(&run, &format!("http://{address}/{path}"));
    let eventually = |path: &str, wanted: &dyn Fn(&str) -> bool| {
        let what = format!("the expected response to {path}");
        wait_until(&what, Duration::from_secs(90), || Ok(by_service(path).is_ok_and(|response| wanted(&response))))
            .unwrap();
    };
    eventually("", &|response| response.starts_with("probe-"));
    eventually("lookup/kubernetes.default:443", &|response| response == "10.96.0.1");
    eventually("lookup/probe.default.svc.cluster.local:80", &|response| response == address);
    eventually("call/probe:80", &|response| response.starts_with("probe-"));

    // A program outside the pods, by the host name that a browser uses, and by a Service name.
    let server = ["-m", "http.server", "--bind", run.address(), "8999"];
    let page = run.directory().join("page");
    std::fs::create_dir_all(&page).unwrap();
    std::fs::write(page.join("index.html"), "outside").unwrap();
    run.spawn("page", run.command("python3").args(server).current_dir(&page)).unwrap();
    eventually("lookup/login.localhost:80", &|response| response == "10.89.0.1");
    eventually("call/login.localhost:8999", &|response| response == "outside");
    cluster.create_service_for("gateway", "elsewhere", 80, 8999).unwrap();
    eventually("call/gateway.elsewhere:80", &|response| response == "outside");

    // Logs are fetched by the API server from the kubelet.
    kubectl.output(&["logs", "deployment/probe"]).unwrap();
}

#[test]
fn api_server_is_reachable_from_outside() {
    let (run, _guard) = run("client");
    let cluster = Cluster::up(&run).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let version = runtime.block_on(async { cluster.client().await.unwrap().apiserver_version().await.unwrap() });
    assert_eq!((version.major.as_str(), version.minor.as_str()), ("1", "35"));
}

#[test]
fn killed_run_is_cleaned_up_by_the_next() {
    let (run, guard) = run("killed");
    let cluster = Cluster::up(&run).unwrap();
    let image = probe().unwrap();
    cluster.load_image(&image.archive, &image.reference).unwrap();
    let kubectl = cluster.kubectl_program();
    kubectl.apply(&deployment(&image)).unwrap();
    kubectl.output(&["rollout", "status", "deployment/probe", "--timeout=120s"]).unwrap();
    let sysctls: Vec<(String, String)> = run.journal_entries().into_iter().filter_map(sysctl).collect();
    assert!(!sysctls.is_empty(), "the kubelet's changes are recorded");
    for (_, pid) in run.components() {
        kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    }
    let left = leftovers(&run);
    assert!(left.iter().any(|what| what.starts_with("process")), "pods outlive their kubelet: {left:?}");

    Cluster::up(&run).unwrap();
    let pods = kubectl.output(&["get", "pods", "--all-namespaces", "--output", "name"]).unwrap();
    assert_eq!(pods, "", "a new cluster is empty");

    Cluster::down(&run, false).unwrap();
    assert_eq!(leftovers(&run), Vec::<String>::new());
    assert!(!run.directory().exists());
    // The last run restores the sysctls, because other runs' kubelets need them.
    if !Run::all().unwrap().iter().any(|other| other.journal_entries().into_iter().any(|entry| sysctl(entry).is_some()))
    {
        for (key, before) in sysctls {
            let now = std::fs::read_to_string(format!("/proc/sys/{}", key.replace('.', "/"))).unwrap();
            assert_eq!(now.trim(), before, "{key}");
        }
    }
    drop(guard);
}

#[test]
fn named_cluster_is_used_and_left_unchanged() {
    let (owner, _guard) = run("owner");
    let (guest, _guest_guard) = run("guest");
    let cluster = Cluster::up(&owner).unwrap();
    let context = format!("mcp-oauth-{}", owner.name());
    let e2e = |arguments: &[&str], permission: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_e2e"));
        command.args(arguments).args(["--run", guest.name()]);
        command.env("E2E_KUBECONFIG", cluster.kubeconfig()).env("E2E_CONTEXT", &context);
        command.env("E2E_I_MAY_DESTROY", permission).env("E2E_LOAD_IMAGE", "cp \"$1\" \"$1.loaded\"");
        command.output().unwrap()
    };
    let refused = e2e(&["cluster", "up"], "");
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("E2E_I_MAY_DESTROY="), "{refused:?}");

    let up = e2e(&["cluster", "up"], &context);
    assert!(up.status.success(), "{up:?}");
    assert!(String::from_utf8_lossy(&up.stdout).contains(&format!("--context {context}")), "{up:?}");
    assert_eq!(leftovers(&guest), Vec::<String>::new(), "nothing was started for the guest");

    let archive = guest.directory().join("image.tar");
    std::fs::write(&archive, "").unwrap();
    let loaded = e2e(&["cluster", "load-image", &archive.display().to_string()], &context);
    assert!(loaded.status.success(), "{loaded:?}");
    assert!(guest.directory().join("image.tar.loaded").exists());

    assert!(e2e(&["cluster", "down"], &context).status.success());
    cluster.kubectl_program().output(&["get", "nodes"]).unwrap();
}

fn sysctl(entry: JournalEntry) -> Option<(String, String)> {
    match entry {
        JournalEntry::Sysctl { key, before } => Some((key, before)),
        _ => None,
    }
}
