//! The complete environment of the demo and the cluster tests: a cluster with the operator, the issuer, and Context
//! Forge behind the tap, under a Service name.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{
    Api, Client,
    api::{ObjectMeta, Patch, PatchParams},
};
use mcp_oauth_operator::api::{McpOAuthProxy, McpOAuthProxySpec};
use serde_json::json;
use tokio::task::spawn_blocking;

use crate::{
    cluster::Cluster,
    forward::free_port,
    image,
    operator::{self, Installer},
    peers::{
        certificates::Certificates,
        context_forge::ContextForge,
        edge::Edge,
        http,
        provider::{self, Provider},
        tap::Tap,
    },
    progress::Progress,
    run::Run,
};

/// The namespace of Context Forge and the proxies, as in the deployment that the sample replaces.
pub const NAMESPACE: &str = "mcp-gateway";

/// Context Forge's Service, as in the sample.
const GATEWAY: &str = "context-forge-mcp-stack-mcpgateway";

/// The client that all proxies use at the issuer.
pub const CLIENT_ID: &str = "mcp-oauth-proxy";
pub const CLIENT_SECRET: &str = "e2e-client-secret";

/// A fixed 32-byte key: the cluster exists only for the test run.
pub const ENCRYPTION_KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

/// The field manager for server-side apply.
const FIELD_MANAGER: &str = "e2e";

#[derive(Clone, Debug)]
pub struct Environment {
    pub run: Run,
    pub cluster: Cluster,
    pub provider: Provider,
    pub context_forge: ContextForge,
    pub tap: Tap,
}

/// A proxy behind a TLS edge.
#[derive(Clone, Debug)]
pub struct DeployedProxy {
    pub name: String,
    pub edge: Edge,
}

impl DeployedProxy {
    /// The MCP endpoint's URL for clients.
    pub fn url(&self) -> String {
        format!("{}/mcp", self.edge.url)
    }
}

impl Environment {
    /// Starts the environment, or attaches to it if it runs. `log` is the operator's log filter.
    pub async fn start(run: &Run, installer: Installer, log: &'static str) -> Result<Self> {
        let progress = Progress::default();
        let (cluster_run, image) = (run.clone(), spawn_blocking(image::operator));
        let image = async { image.await? };
        let cluster = spawn_blocking(move || Cluster::up(&cluster_run)).await??;
        // Reopened, because the run now has a network namespace.
        let run = Run::open(run.name())?;
        let options = provider::Options { origin: Some("http://login.localhost".to_owned()), port: None, issuer: None };
        let provider = async { Provider::up(&run, &options).await };
        let (provider, context_forge, image) = tokio::try_join!(provider, ContextForge::up(&run), image)?;
        let tap = Tap::up(&run, &context_forge.address).await?;
        let port = tap.address.rsplit_once(':').context("the tap has no port")?.1.parse()?;
        cluster.create_service_for(GATEWAY, NAMESPACE, 80, port)?;
        let operator_cluster = cluster.clone();
        spawn_blocking(move || operator::install(&operator_cluster, &image, installer, log)).await??;
        progress.print("the environment is ready");
        Ok(Self { run, cluster, provider, context_forge, tap })
    }

    /// Attaches to a running environment.
    pub fn attach(run: &Run) -> Result<Self> {
        let missing = |what: &str| format!("run {} has no {what}", run.name());
        Ok(Self {
            run: run.clone(),
            cluster: Cluster::attach(run)?,
            provider: Provider::find(run).with_context(|| missing("provider"))?,
            context_forge: ContextForge::find(run).with_context(|| missing("Context Forge"))?,
            tap: Tap::find(run).with_context(|| missing("tap"))?,
        })
    }

    /// The default proxy spec for tests, behind this edge.
    pub fn spec(&self, name: &str, edge: &Edge) -> Result<McpOAuthProxySpec> {
        let spec = json!({
            "publicURL": edge.url,
            "identityProvider": {"issuerURL": self.provider.issuer},
            "credentials": {"secretRef": {"name": credentials_name(name)}},
            "access": {"domains": ["example.com"]},
            "upstream": {"url": format!("http://{GATEWAY}.{NAMESPACE}.svc.cluster.local:80")},
        });
        Ok(serde_json::from_value(spec)?)
    }

    /// Starts an edge for the proxy, or finds it, and registers its callback at the issuer.
    pub async fn edge(&self, name: &str) -> Result<Edge> {
        let target = format!("{name}.{NAMESPACE}.svc.cluster.local:8080");
        let edge = match Edge::find(&self.run, name) {
            Some(running) => running,
            None => Edge::up(&self.run, name, free_port()?, &target).await?,
        };
        self.provider.register(CLIENT_ID, CLIENT_SECRET, &[&format!("{}/callback", edge.url)])?;
        Ok(edge)
    }

    /// Applies a proxy with its Secret and edge, and waits until it is Ready and reachable.
    pub async fn deploy_proxy(&self, name: &str, change: impl FnOnce(&mut McpOAuthProxySpec)) -> Result<DeployedProxy> {
        let edge = self.edge(name).await?;
        let mut spec = self.spec(name, &edge)?;
        change(&mut spec);
        let client = self.cluster.client().await?;
        self.apply_credentials(&client, name).await?;
        self.apply(&client, name, spec).await?;
        self.wait_ready(name)?;
        self.wait_until_reachable(name, edge).await
    }

    /// Waits until a Ready proxy is reachable through its edge: kube-proxy programs a new Service after about a second.
    pub async fn wait_until_reachable(&self, name: &str, edge: Edge) -> Result<DeployedProxy> {
        let client = http::client(Some(&Certificates::for_run(&self.run)?.authority()))?;
        let metadata = format!("{}/.well-known/oauth-authorization-server", edge.url);
        let deadline = Instant::now() + Duration::from_secs(90);
        while !client.get(&metadata).send().await.is_ok_and(|response| response.status().is_success()) {
            if Instant::now() > deadline {
                bail!("{} does not reach the proxy", edge.url);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(DeployedProxy { name: name.to_owned(), edge })
    }

    /// Applies the Secret of a proxy's credentials.
    pub async fn apply_credentials(&self, client: &Client, name: &str) -> Result<()> {
        let values = [
            ("OAUTH_CLIENT_ID", CLIENT_ID),
            ("OAUTH_CLIENT_SECRET", CLIENT_SECRET),
            ("ENCRYPTION_KEY", ENCRYPTION_KEY),
        ];
        let secret = Secret {
            metadata: ObjectMeta { name: Some(credentials_name(name)), ..ObjectMeta::default() },
            data: Some(
                values
                    .map(|(key, value)| (key.to_owned(), ByteString(value.as_bytes().to_vec())))
                    .into_iter()
                    .collect(),
            ),
            ..Secret::default()
        };
        let secrets: Api<Secret> = Api::namespaced(client.clone(), NAMESPACE);
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        secrets.patch(&credentials_name(name), &parameters, &Patch::Apply(&secret)).await?;
        Ok(())
    }

    /// Applies a proxy with server-side apply.
    pub async fn apply(&self, client: &Client, name: &str, spec: McpOAuthProxySpec) -> Result<McpOAuthProxy> {
        let proxies: Api<McpOAuthProxy> = Api::namespaced(client.clone(), NAMESPACE);
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        Ok(proxies.patch(name, &parameters, &Patch::Apply(&McpOAuthProxy::new(name, spec))).await?)
    }

    /// Waits for the condition Ready; the error contains the status.
    pub fn wait_ready(&self, name: &str) -> Result<()> {
        let object = format!("mcpoauthproxy/{name}");
        let limit = Duration::from_secs(150);
        let timeout = format!("--timeout={}s", limit.as_secs());
        let wait = ["--namespace", NAMESPACE, "wait", "--for=condition=Ready", &object, &timeout];
        if self.cluster.kubectl(&wait).output()?.status.success() {
            return Ok(());
        }
        let describe = ["--namespace", NAMESPACE, "get", &object, "-o", "jsonpath={.status}"];
        let status = self.cluster.kubectl(&describe).output()?.stdout;
        bail!("{name} is not ready after {} s: {}", limit.as_secs(), String::from_utf8_lossy(&status))
    }
}

pub fn credentials_name(name: &str) -> String {
    format!("{name}-credentials")
}
