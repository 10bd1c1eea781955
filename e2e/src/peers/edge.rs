//! The TLS edge: nginx terminates TLS in front of the Service, as the tunnel does in production.

use std::net::IpAddr;

use anyhow::{Result, bail};
use clap::Subcommand;
use serde::{Deserialize, Serialize};

use super::{certificates::Certificates, component_state, host_ports, nginx};
use crate::{
    forward::free_port,
    run::{NODE_ADDRESS, Run, RunArg},
};

/// A running edge. A run may have several.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Edge {
    pub name: String,
    /// `https://localhost:PORT`, reachable from the host and from the run's namespace.
    pub url: String,
    /// Host and port of the upstream.
    pub target: String,
}

impl Edge {
    /// Starts an edge on `port`, or finds it running. `port` comes from [`free_port`], because the public URL contains
    /// it. A target name is resolved with the cluster's DNS at each request, so it need not exist yet.
    pub async fn up(run: &Run, name: &str, port: u16, target: &str) -> Result<Self> {
        let component = component(name);
        if let Some(running) = component_state::load(run, &component) {
            return Ok(running);
        }
        Self::down(run, name)?;
        let servers = servers(run, &Certificates::for_run(run)?, port, target)?;
        nginx::start(run, &component, &servers).await?;
        host_ports::publish(run, &component, port).await?;
        let edge = Self { name: name.to_owned(), url: format!("https://localhost:{port}"), target: target.to_owned() };
        component_state::save(run, &component, &edge)?;
        eprintln!("edge          {} in front of {target} · log {}", edge.url, run.log(&component).display());
        Ok(edge)
    }

    /// The edge with this name, if it is running.
    pub fn find(run: &Run, name: &str) -> Option<Self> {
        component_state::load(run, &component(name))
    }

    pub fn down(run: &Run, name: &str) -> Result<()> {
        host_ports::unpublish(run, &component(name))?;
        run.stop(&component(name))
    }
}

fn component(name: &str) -> String {
    format!("edge-{name}")
}

fn servers(run: &Run, certificates: &Certificates, port: u16, target: &str) -> Result<String> {
    let in_namespace = run.namespace().is_some();
    let host = target.rsplit_once(':').map_or(target, |(host, _)| host);
    if !in_namespace && host.parse::<IpAddr>().is_err() {
        bail!("without a cluster the edge has no DNS: use an address instead of {host}");
    }
    let resolver = if in_namespace { format!("resolver {NODE_ADDRESS} valid=1s ipv6=off;") } else { String::new() };
    let node = if in_namespace { format!("listen {NODE_ADDRESS}:{port} ssl;") } else { String::new() };
    let certificate = certificates.certificate().display().to_string();
    let key = certificates.key().display().to_string();
    Ok(format!(
        r#"  access_log /dev/stdout;
  {resolver}
  server {{
    listen 127.0.0.1:{port} ssl;
    {node}
    ssl_certificate {certificate};
    ssl_certificate_key {key};
    ssl_protocols TLSv1.2 TLSv1.3;
    # Limits and unusual headers, such as x_forwarded_user, are left to the proxy.
    underscores_in_headers on;
    ignore_invalid_headers off;
    client_max_body_size 0;
    location / {{
      # A variable makes nginx resolve the name per request instead of at startup.
      set $target "{target}";
      proxy_pass http://$target;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Host $http_host;
      proxy_set_header X-Forwarded-Host $http_host;
      proxy_set_header X-Forwarded-Proto https;
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
      proxy_buffering off;
      proxy_request_buffering off;
      proxy_read_timeout 1h;
      proxy_send_timeout 1h;
    }}
  }}"#
    ))
}

/// `e2e edge`
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Start an edge in front of a host and port
    Up {
        #[command(flatten)]
        run: RunArg,
        #[arg(long, default_value = "main")]
        name: String,
        #[arg(long)]
        port: Option<u16>,
        target: String,
    },
    /// Stop the edge
    Down {
        #[command(flatten)]
        run: RunArg,
        #[arg(long, default_value = "main")]
        name: String,
    },
}

impl Action {
    pub async fn perform(self) -> Result<()> {
        match self {
            Self::Up { run, name, port, target } => {
                let port = port.map_or_else(free_port, Ok)?;
                let edge = Edge::up(&run.open()?, &name, port, &target).await?;
                println!("{}", serde_json::to_string(&edge)?);
                Ok(())
            }
            Self::Down { run, name } => Edge::down(&run.open()?, &name),
        }
    }
}
