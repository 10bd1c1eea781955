//! nghttpx: a gateway that speaks cleartext HTTP/2 (h2c) to the proxy, as Envoy and service meshes do.

use anyhow::Result;

use super::http;
use crate::{forward::free_port, program, run::Run};

/// Starts a gateway in front of a proxy at `target`, waits until it returns the proxy's metadata, and returns its host
/// and port.
pub async fn http2(run: &Run, name: &str, target: &str) -> Result<String> {
    let component = format!("gateway-{name}");
    let (host, port) = target.rsplit_once(':').unwrap_or((target, "80"));
    let own = free_port()?;
    let mut command = run.command(program::find("nghttpx", "nghttp2-proxy")?);
    command.args(["--conf=/dev/null", "--workers=1", "--accesslog-file=/dev/stdout", "--errorlog-file=/dev/stderr"]);
    command.arg(format!("--frontend=127.0.0.1,{own};no-tls"));
    command.arg(format!("--backend={host},{port};;proto=h2"));
    let address = format!("127.0.0.1:{own}");
    let metadata = format!("http://{address}/.well-known/oauth-authorization-server");
    http::start(run, &component, &mut command, &metadata).await?;
    Ok(address)
}
