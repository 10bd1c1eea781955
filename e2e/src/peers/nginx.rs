//! nginx, used by the TLS edge and the hosts of metadata documents.

use std::fs;

use anyhow::Result;

use super::http;
use crate::{forward::free_port, program, run::Run};

/// Starts nginx in the run's namespace with `servers` inside `http { }`, and waits until it is ready. Relative paths
/// refer to the component's folder.
pub async fn start(run: &Run, component: &str, servers: &str) -> Result<()> {
    let nginx = program::find("nginx", "nginx-light")?;
    let folder = run.directory().join(component);
    fs::create_dir_all(folder.join("temporary"))?;
    let health = free_port()?;
    // The workers need access to the run's folder.
    let user = if rustix::process::getuid().is_root() { "user root root;" } else { "" };
    let settings = format!(
        r"# Written by e2e.
daemon off;
{user}
worker_processes 1;
pid nginx.pid;
error_log stderr warn;
events {{ worker_connections 4096; }}
http {{
  client_body_temp_path temporary;
  proxy_temp_path temporary;
  fastcgi_temp_path temporary;
  uwsgi_temp_path temporary;
  scgi_temp_path temporary;
  server {{
    listen 127.0.0.1:{health};
    access_log off;
    return 200;
  }}
{servers}
}}
"
    );
    fs::write(folder.join("nginx.conf"), settings)?;
    let mut command = run.command(nginx);
    command.arg("-p").arg(&folder).args(["-c", "nginx.conf", "-e", "stderr"]);
    http::start(run, component, &mut command, &format!("http://127.0.0.1:{health}/")).await
}
