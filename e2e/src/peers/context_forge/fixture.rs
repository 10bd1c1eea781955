//! Context Forge's content in every run: users, a team, the MCP server, and a virtual server with its tools.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use reqwest::{Client, Method};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::settings::ADMINISTRATOR;
use crate::peers::http;

/// Members of the team that may use the tools.
pub const MEMBERS: [&str; 2] = ["alice@example.com", "carol@example.com"];
/// A user of Context Forge who is in no team.
pub const NON_MEMBER: &str = "bob@example.com";

/// Satisfies the password policy; never used.
const PASSWORD: &str = "Qw7!rTk9#LmPz2vB";

/// Populates an empty Context Forge and returns the virtual server's id.
pub async fn populate(base: &str, everything: &str) -> Result<String> {
    let api = Api { base, client: http::client(None)? };
    for email in MEMBERS.iter().chain([&NON_MEMBER]) {
        let user = json!({"email": email, "password": PASSWORD, "full_name": email, "is_admin": false});
        api.post("/v1/auth/email/admin/users", &user).await?;
    }
    let team = id(&api.post("/v1/teams/", &json!({"name": "Blue", "visibility": "private"})).await?)?;
    for email in MEMBERS {
        api.post(&format!("/v1/teams/{team}/members"), &json!({"email": email, "role": "member"})).await?;
    }
    let gateway = json!({"name": "everything", "url": everything, "transport": "STREAMABLEHTTP", "visibility": "team", "team_id": team});
    api.post("/v1/gateways", &gateway).await?;
    let tools = api.tools().await?;
    let server =
        json!({"server": {"name": "everything", "associated_tools": tools}, "team_id": team, "visibility": "team"});
    id(&api.post("/v1/servers", &server).await?)
}

struct Api<'a> {
    base: &'a str,
    client: Client,
}

impl Api<'_> {
    async fn post(&self, path: &str, body: &Value) -> Result<Value> {
        self.call(Method::POST, path, Some(body)).await
    }

    /// The ids of the tools that Context Forge discovered at the MCP server.
    async fn tools(&self) -> Result<Vec<String>> {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            // In header mode, /v1/tools lists no team's tools for any user.
            let found = self.call(Method::GET, "/admin/tools/ids", None).await?;
            let tools: Vec<String> = serde_json::from_value(found["tool_ids"].clone())?;
            if !tools.is_empty() {
                return Ok(tools);
            }
            if Instant::now() > deadline {
                bail!("Context Forge discovered no tools");
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value> {
        let mut request =
            self.client.request(method, format!("{}{path}", self.base)).header("x-forwarded-user", ADMINISTRATOR);
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await.with_context(|| format!("{path}: no response"))?;
        let (status, text) = (response.status(), response.text().await?);
        if !status.is_success() {
            bail!("{path}: {status}: {text}");
        }
        serde_json::from_str(&text).with_context(|| format!("{path}: not JSON: {text}"))
    }
}

fn id(object: &Value) -> Result<String> {
    Ok(object["id"].as_str().with_context(|| format!("no id in {object}"))?.to_owned())
}
