//! The whole scene that the demo and the tests play on: a cluster with the operator in it, the issuer, and Context Forge
//! behind the tap under the name that pods know it by.

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

/// Where Context Forge and the proxies are, as in the deployment that the sample replaces.
pub const NAMESPACE: &str = "mcp-gateway";

/// Context Forge's Service, as the sample names it.
const GATEWAY: &str = "context-forge-mcp-stack-mcpgateway";

/// What the issuer calls all our proxies.
pub const CLIENT_ID: &str = "mcp-oauth-proxy";
pub const CLIENT_SECRET: &str = "the-bed-knows-no-secrets-but-this-one";

/// 32 bytes that are as good as any for a cluster of an hour.
pub const ENCRYPTION_KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

/// Whose fields of the resources are whose.
const FIELD_MANAGER: &str = "e2e";

/// The set scene.
#[derive(Clone, Debug)]
pub struct Stage {
    pub run: Run,
    pub cluster: Cluster,
    pub provider: Provider,
    pub context_forge: ContextForge,
    pub tap: Tap,
}

/// A proxy with an edge before it.
#[derive(Clone, Debug)]
pub struct Front {
    pub name: String,
    pub edge: Edge,
}

impl Front {
    /// What to paste into a client.
    pub fn url(&self) -> String {
        format!("{}/mcp", self.edge.url)
    }
}

impl Stage {
    /// Sets the scene, or finds it set. The operator logs what `log` says.
    pub async fn set(run: &Run, installer: Installer, log: &'static str) -> Result<Self> {
        let progress = Progress::default();
        let (name, image) = (run.clone(), spawn_blocking(image::operator));
        let image = async { image.await? };
        let cluster = spawn_blocking(move || Cluster::up(&name)).await??;
        // Opened anew: now it has a network namespace.
        let run = Run::open(run.name())?;
        let login = provider::Options { origin: Some("http://login.localhost".to_owned()), port: None, issuer: None };
        let provider = async { Provider::up(&run, &login).await };
        let (provider, context_forge, image) = tokio::try_join!(provider, ContextForge::up(&run), image)?;
        let tap = Tap::up(&run, &context_forge.address).await?;
        let port = tap.address.rsplit_once(':').context("the tap has no port")?.1.parse()?;
        cluster.name_program(GATEWAY, NAMESPACE, 80, port)?;
        let installing = cluster.clone();
        spawn_blocking(move || operator::install(&installing, &image, installer, log)).await??;
        progress.say("the scene is set");
        Ok(Self { run, cluster, provider, context_forge, tap })
    }

    /// The scene that was set before.
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

    /// The default spec of a proxy in the tests, behind an edge.
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

    /// An edge for the proxy of that name, which the issuer will send people back to.
    pub async fn edge(&self, name: &str) -> Result<Edge> {
        let target = format!("{name}.{NAMESPACE}.svc.cluster.local:8080");
        let edge = match Edge::find(&self.run, name) {
            Some(running) => running,
            None => Edge::up(&self.run, name, free_port()?, &target).await?,
        };
        self.provider.register(CLIENT_ID, CLIENT_SECRET, &[&format!("{}/callback", edge.url)])?;
        Ok(edge)
    }

    /// Applies a proxy, its Secret and its edge, and waits until the operator says that it is ready.
    pub async fn front(&self, name: &str, change: impl FnOnce(&mut McpOAuthProxySpec)) -> Result<Front> {
        let edge = self.edge(name).await?;
        let mut spec = self.spec(name, &edge)?;
        change(&mut spec);
        let client = self.cluster.client().await?;
        self.apply_credentials(&client, name).await?;
        self.apply(&client, name, spec).await?;
        self.wait_ready(name)?;
        self.routed(name, edge).await
    }

    /// A proxy that is ready, once its edge reaches it.
    pub async fn routed(&self, name: &str, edge: Edge) -> Result<Front> {
        self.wait_routed(&edge).await?;
        Ok(Front { name: name.to_owned(), edge })
    }

    /// Waits until the edge reaches the proxy: kube-proxy's rules follow a new Service by about a second.
    async fn wait_routed(&self, edge: &Edge) -> Result<()> {
        let client = http::client(Some(&Certificates::of(&self.run)?.authority()))?;
        let metadata = format!("{}/.well-known/oauth-authorization-server", edge.url);
        let deadline = Instant::now() + Duration::from_secs(90);
        while !client.get(&metadata).send().await.is_ok_and(|answer| answer.status().is_success()) {
            if Instant::now() > deadline {
                bail!("{} leads nowhere", edge.url);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    /// Applies the Secret that a proxy's spec names.
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

    /// Applies a proxy as `kubectl apply --server-side` would.
    pub async fn apply(&self, client: &Client, name: &str, spec: McpOAuthProxySpec) -> Result<McpOAuthProxy> {
        let proxies: Api<McpOAuthProxy> = Api::namespaced(client.clone(), NAMESPACE);
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        Ok(proxies.patch(name, &parameters, &Patch::Apply(&McpOAuthProxy::new(name, spec))).await?)
    }

    /// Waits until the operator says Ready; otherwise says what the conditions say.
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

/// The Secret of a proxy's credentials.
pub fn credentials_name(name: &str) -> String {
    format!("{name}-credentials")
}
