//! P7 with sessions in a real API server, and the API server's own write rate.

use std::{
    fs,
    path::Path,
    process::Command,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use futures::future::try_join_all;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{
    Api,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use mcp_oauth_operator::api::McpOAuthSession;
use serde_json::json;
use tokio::task::spawn_blocking;

use super::{
    cores::MEASURED_CORE,
    kill_switch::{self, EndLatencies},
    login, logins,
    measure::{Rate, resident_kib},
    streams,
};
use crate::{cluster::Cluster, forward::free_port, image::workspace, peers::http, run::Run};

const NAMESPACE: &str = "default";

pub struct Results {
    pub logins: Rate,
    pub refreshes: Rate,
    /// Objects per second that the API server creates and then patches, with as many concurrent writers as users.
    pub write_pairs: f64,
    pub end_latencies: EndLatencies,
    /// The proxy's memory in KiB with [`kill_switch::SESSIONS`] sessions, and its time from start to ready.
    pub with_sessions: u64,
    pub start: Duration,
}

/// Measures a second proxy with the public URL of the `dev` server at `login`: they share an issuer, whose login page
/// knows only one redirect URI.
pub async fn measure(run: &Run, binary: &Path, login: &str, state: &Path) -> Result<Results> {
    let issuer = logins::issuer(login).await?;
    let cluster_run = Run::open(&format!("{}-cluster", run.name()))?;
    let cluster = {
        let run = cluster_run.clone();
        spawn_blocking(move || Cluster::up(&run)).await??
    };
    let results = in_cluster(run, &cluster, binary, login, &issuer, state).await;
    let removal = spawn_blocking(move || Cluster::down(&cluster_run, false)).await?;
    let results = results?;
    removal?;
    Ok(results)
}

async fn in_cluster(
    run: &Run,
    cluster: &Cluster,
    binary: &Path,
    url: &str,
    issuer: &str,
    state: &Path,
) -> Result<Results> {
    let crds = workspace().join("crds");
    let kubectl = cluster.kubectl_program();
    kubectl.output(&["apply", "--server-side", "-k", &crds.display().to_string()])?;
    kubectl.output(&["wait", "--for=condition=Established", "crd/mcpoauthproxies.mcp.jomcgi.dev"])?;
    // No operator reconciles it. It owns the sessions, which the garbage collector would delete otherwise.
    let resource = json!({
        "apiVersion": "mcp.jomcgi.dev/v1alpha1",
        "kind": "McpOAuthProxy",
        "metadata": {"name": "bench", "namespace": NAMESPACE},
        "spec": {
            "publicURL": "https://mcp.example.com",
            "identityProvider": {"issuerURL": "https://issuer.example.com"},
            "credentials": {"secretRef": {"name": "bench"}},
            "access": {"policy": "AnyUser"},
            "upstream": {"url": "http://upstream.example.com"},
        },
    });
    kubectl.apply(&resource.to_string())?;
    let uid = kubectl.output(&["get", "mop", "bench", "-n", NAMESPACE, "-o", "jsonpath={.metadata.uid}"])?;

    let folder = run.directory().join("kubernetes");
    fs::create_dir_all(&folder)?;
    let (listen, health) = (free_port()?, free_port()?);
    let configuration = json!({
        "publicURL": url,
        "listen": format!("127.0.0.1:{listen}"),
        "healthListen": format!("127.0.0.1:{health}"),
        "identityProvider": {"issuerURL": issuer},
        "credentials": {"directory": state},
        "signingKeys": state.join("signing-keys.json"),
        "access": {"policy": "AnyUser"},
        "upstream": {
            "url": format!("http://127.0.0.1:{}", streams::upstream().await?),
            "limits": {"streamsPerUser": 100_000},
        },
        "sessions": {"store": {"type": "Kubernetes", "namespace": NAMESPACE, "proxy": "bench", "uid": uid}},
    });
    let file = folder.join("proxy.yaml");
    fs::write(&file, serde_yaml::to_string(&configuration)?)?;
    let start = async || -> Result<i32> {
        let mut command = Command::new("taskset");
        command.args(["-c", MEASURED_CORE]).arg(binary).args(["proxy", "--config"]).arg(&file);
        let pid = run.spawn("kubernetes", command.env("KUBECONFIG", cluster.kubeconfig()))?;
        let ready = format!("http://127.0.0.1:{health}/readyz");
        http::wait_until_ready(run, "kubernetes", &ready, Duration::from_secs(30)).await?;
        Ok(pid)
    };
    let pid = start().await?;

    let proxy = format!("http://127.0.0.1:{listen}");
    let objects: Api<McpOAuthSession> = Api::namespaced(cluster.client().await?, NAMESPACE);
    login::log_in(&login::client()?, &proxy, "first@example.com").await?;
    let write_pairs = write_pairs(&objects).await?;
    let logins = logins::logins(&proxy, pid).await?;
    let refreshes = logins::refreshes(&proxy, pid).await?;

    let present = objects.list_metadata(&ListParams::default()).await?.items.len();
    kill_switch::create_sessions(&proxy, present).await?;
    run.stop("kubernetes")?;
    let started = Instant::now();
    let pid = start().await?;
    let start = started.elapsed();
    let with_sessions = resident_kib(pid)?;
    let end_latencies = kill_switch::measure_ends(&proxy, &objects).await?;
    run.stop("kubernetes")?;
    Ok(Results { logins, refreshes, write_pairs, end_latencies, with_sessions, start })
}

/// The API server's cost of a login: an object like a session is created and then patched as the proxy does. A simpler
/// object would not be comparable: objects with a schema cost several times as much as a `ConfigMap`.
async fn write_pairs(objects: &Api<McpOAuthSession>) -> Result<f64> {
    let template = objects.list(&ListParams::default().limit(1)).await?.items.pop().context("no session exists")?;
    let (template, started, count) = (&template, Instant::now(), &AtomicU64::new(0));
    try_join_all((0..logins::USERS).map(|writer| async move {
        let claims = serde_json::to_value(&template.spec.claims)?;
        for number in 0.. {
            let name = format!("{writer:02x}{number:030x}");
            let metadata = ObjectMeta {
                name: Some(name.clone()),
                labels: Some([("bench".to_owned(), "pairs".to_owned())].into()),
                owner_references: template.metadata.owner_references.clone(),
                ..ObjectMeta::default()
            };
            let object = McpOAuthSession { metadata, spec: template.spec.clone() };
            let created = objects.create(&PostParams::default(), &object).await?;
            let change = json!({
                "metadata": {"resourceVersion": created.metadata.resource_version, "uid": created.metadata.uid},
                "spec": {
                    "phase": template.spec.phase,
                    "rotation": 7,
                    "rotatedAt": template.spec.expires_at,
                    "expiresAt": template.spec.expires_at,
                    "claims": claims,
                    "mac": template.spec.mac,
                },
            });
            objects.patch(&name, &PatchParams::default(), &Patch::Merge(change)).await?;
            count.fetch_add(1, Ordering::Relaxed);
            if started.elapsed() >= logins::DURATION {
                break;
            }
        }
        anyhow::Ok(())
    }))
    .await
    .context("the API server rejected a write")?;
    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
    let pairs = count.load(Ordering::Relaxed) as f64 / started.elapsed().as_secs_f64();
    // They are not valid sessions, because each copies another session's MAC.
    objects.delete_collection(&DeleteParams::default(), &ListParams::default().labels("bench=pairs")).await?;
    Ok(pairs)
}
