use std::{
    env,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use e2e::{
    cluster::Kubectl,
    environment::{DeployedProxy, Environment, NAMESPACE},
    peers::{browser::Browser, certificates::Certificates, http, netns::run_in_netns},
    run::Run,
};
use kube::{Api, api::ListParams};
use mcp_oauth_operator::api::McpOAuthSession;
use reqwest::{Client, Response, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use url::Url;

/// The environment that `make test` has started.
pub fn environment() -> Environment {
    let name = env::var("E2E_RUN").expect("these tests need the test bed: run `make test` or `e2e test`");
    Environment::attach(&Run::open(&name).unwrap()).expect("the run has no environment: run `make test` or `e2e test`")
}

/// An HTTP client that trusts the edge.
pub fn client(environment: &Environment) -> Client {
    http::client(Some(&Certificates::for_run(&environment.run).unwrap().authority())).unwrap()
}

/// Polls every 200 ms until the condition holds. Fails after 150 s, longer than the operator's retry
/// interval.
pub async fn eventually<F: Future<Output = bool>>(what: &str, check: impl FnMut() -> F) {
    eventually_within(Duration::from_secs(150), what, check).await;
}

/// Like [`eventually`], with another limit.
pub async fn eventually_within<F: Future<Output = bool>>(limit: Duration, what: &str, mut check: impl FnMut() -> F) {
    let started = Instant::now();
    while !check().await {
        assert!(started.elapsed() < limit, "timed out waiting until {what}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// A condition of a proxy's status; empty if missing.
#[derive(Debug, Default, Deserialize)]
pub struct Condition {
    pub status: String,
    pub reason: String,
    pub message: String,
}

impl Condition {
    pub fn get(kubectl: &Kubectl, proxy: &str, kind: &str) -> Self {
        let object = kubectl.output(&["--namespace", NAMESPACE, "get", "mop", proxy, "-o", "json"]).unwrap();
        let object: Value = serde_json::from_str(&object).unwrap();
        let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let found = conditions.into_iter().find(|condition| condition["type"] == kind);
        found.map(|condition| serde_json::from_value(condition).unwrap()).unwrap_or_default()
    }
}

/// The IP addresses of a proxy's pods.
pub fn pods(environment: &Environment, proxy: &str) -> Vec<String> {
    let selector = format!("app.kubernetes.io/name={proxy}");
    let addresses = "jsonpath={.items[*].status.podIP}";
    let words = ["--namespace", NAMESPACE, "get", "pods", "--selector", &selector, "-o", addresses];
    environment.cluster.kubectl_program().output(&words).unwrap().split_whitespace().map(str::to_owned).collect()
}

pub async fn sessions(environment: &Environment, proxy: &str) -> Vec<McpOAuthSession> {
    let api: Api<McpOAuthSession> = Api::namespaced(environment.cluster.client().await.unwrap(), NAMESPACE);
    let of_proxy = ListParams::default().fields(&format!("spec.proxy={proxy}"));
    api.list(&of_proxy).await.unwrap().items
}

/// A scripted MCP client, for behaviour that real clients do not have.
pub struct ScriptedClient {
    pub http: Client,
    pub origin: String,
    pub client_id: String,
    pub verifier: String,
}

/// A token response.
#[derive(Clone, Debug)]
pub struct Tokens {
    pub access: String,
    pub refresh: String,
}

pub const REDIRECT_URI: &str = "http://localhost:9/callback";

impl ScriptedClient {
    pub async fn register(environment: &Environment, proxy: &DeployedProxy) -> Result<Self> {
        let http = client(environment);
        let body =
            json!({"client_name": "scripted", "redirect_uris": [REDIRECT_URI], "token_endpoint_auth_method": "none"});
        let response: Value = http
            .post(format!("{}/register", proxy.edge.url))
            .json(&body)
            .send()
            .await?
            .error_for_status()?
            .json()
            .await?;
        let client_id = response["client_id"].as_str().context("no client_id")?.to_owned();
        Ok(Self { http, origin: proxy.edge.url.clone(), client_id, verifier: "v".repeat(64) })
    }

    /// A static client.
    pub fn listed(environment: &Environment, proxy: &DeployedProxy, client_id: &str) -> Self {
        let (origin, client_id) = (proxy.edge.url.clone(), client_id.to_owned());
        Self { http: client(environment), origin, client_id, verifier: "v".repeat(64) }
    }

    pub fn authorize_url(&self) -> Url {
        let challenge = BASE64_URL_SAFE_NO_PAD.encode(digest(&SHA256, self.verifier.as_bytes()));
        let parameters = [
            ("response_type", "code"),
            ("client_id", &self.client_id),
            ("redirect_uri", REDIRECT_URI),
            ("state", "the-clients-state"),
            ("code_challenge", &challenge),
            ("code_challenge_method", "S256"),
            ("resource", &format!("{}/mcp", self.origin)),
        ];
        Url::parse_with_params(&format!("{}/authorize", self.origin), parameters).unwrap()
    }

    /// Logs in with the browser and returns the code.
    pub async fn code(&self, browser: &Browser, email: &str) -> Result<String> {
        let final_page = browser.login(self.authorize_url().as_str(), email).await?;
        final_page.parameter("code").with_context(|| format!("no code: {final_page:?}"))
    }

    /// Logs in with the browser and redeems the code.
    pub async fn login(&self, browser: &Browser, email: &str) -> Result<Tokens> {
        let code = self.code(browser, email).await?;
        self.tokens(&[("grant_type", "authorization_code"), ("code", &code), ("code_verifier", &self.verifier)]).await
    }

    pub async fn refresh(&self, refresh: &str) -> Result<Tokens> {
        self.tokens(&[("grant_type", "refresh_token"), ("refresh_token", refresh)]).await
    }

    async fn tokens(&self, parameters: &[(&str, &str)]) -> Result<Tokens> {
        let mut form = parameters.to_vec();
        form.push(("client_id", &self.client_id));
        read_tokens(self.http.post(format!("{}/token", self.origin)).form(&form).send().await?).await
    }

    /// The status of an MCP request to one pod, bypassing edge and Service.
    pub async fn call_pod(&self, environment: &Environment, pod: &str, access: &str) -> StatusCode {
        let (url, access) = (format!("http://{pod}:8080/mcp"), access.to_owned());
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": "ping"});
        let status = run_in_netns(&environment.run, move || async move {
            let request = http::client(None)?.post(url).bearer_auth(access).json(&body);
            Ok(request.header("accept", "application/json, text/event-stream").send().await?.status())
        });
        status.await.unwrap()
    }

    /// A refresh at one pod, bypassing edge and Service.
    pub async fn refresh_at(&self, environment: &Environment, pod: &str, refresh: &str) -> Result<Tokens> {
        self.tokens_at(environment, pod, &[("grant_type", "refresh_token"), ("refresh_token", refresh)]).await
    }

    /// Redeems a code at one pod.
    pub async fn redeem_at(&self, environment: &Environment, pod: &str, code: &str) -> Result<Tokens> {
        let parameters = [("grant_type", "authorization_code"), ("code", code), ("code_verifier", &self.verifier)];
        self.tokens_at(environment, pod, &parameters).await
    }

    async fn tokens_at(&self, environment: &Environment, pod: &str, parameters: &[(&str, &str)]) -> Result<Tokens> {
        let url = format!("http://{pod}:8080/token");
        let mut form: Vec<_> =
            parameters.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        form.push(("client_id".to_owned(), self.client_id.clone()));
        let request = move || async move { read_tokens(http::client(None)?.post(url).form(&form).send().await?).await };
        run_in_netns(&environment.run, request).await
    }

    pub async fn call(&self, access: &str, headers: &[(&str, &str)]) -> Response {
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}});
        let mut request = self
            .http
            .post(format!("{}/mcp", self.origin))
            .bearer_auth(access)
            .header("accept", "application/json, text/event-stream")
            .json(&body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.send().await.unwrap()
    }
}

async fn read_tokens(response: Response) -> Result<Tokens> {
    let (status, body) = (response.status(), response.json::<Value>().await?);
    if status != StatusCode::OK {
        bail!("{status}: {body}");
    }
    let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
    Ok(Tokens { access: text("access_token"), refresh: text("refresh_token") })
}
