//! The MCP server for the conformance suite's server scenarios (`e2e/js/scenarios.mjs`), and an nginx that adds the
//! token, because the suite cannot send one.

use anyhow::Result;
use tokio::task::spawn_blocking;

use super::{http, nginx, node::Node};
use crate::{forward::free_port, run::Run};

const NAME: &str = "scenarios";

/// Starts the server and returns its host and port. Its MCP endpoint is `/mcp`.
pub async fn up(run: &Run) -> Result<String> {
    let node = spawn_blocking(Node::with_clients).await??;
    let address = format!("127.0.0.1:{}", free_port()?);
    let (host, port) = address.split_once(':').unwrap_or_default();
    let mut server = run.command(node.interpreter()?);
    server.arg(node.script(run, "scenarios.mjs")?).arg(host).env("PORT", port);
    http::start(run, NAME, &mut server, &format!("http://{address}/health")).await?;
    Ok(address)
}

/// Starts an nginx in front of a proxy at `target` that adds a token to each request and changes nothing else. Returns
/// its host and port.
pub async fn with_token(run: &Run, name: &str, target: &str, token: &str) -> Result<String> {
    let address = format!("127.0.0.1:{}", free_port()?);
    let servers = format!(
        r#"  access_log off;
  server {{
    listen {address};
    underscores_in_headers on;
    ignore_invalid_headers off;
    client_max_body_size 0;
    location / {{
      proxy_pass http://{target};
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Host $http_host;
      proxy_set_header Authorization "Bearer {token}";
      proxy_buffering off;
      proxy_request_buffering off;
      proxy_read_timeout 1h;
    }}
  }}"#
    );
    nginx::start(run, &format!("token-{name}"), &servers).await?;
    Ok(address)
}
