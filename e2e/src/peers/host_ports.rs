//! Publishes component ports of the run's namespace on the host's loopback, under the same number: for the user of the
//! demo, the browser and MCP clients.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use tokio::{net::TcpStream, time::sleep};

use crate::run::{NODE_ADDRESS, Run};

/// Publishes a component's port of the node's address on the host's loopback. Does nothing without a namespace.
pub async fn publish(run: &Run, component: &str, port: u16) -> Result<()> {
    if run.namespace().is_none() {
        return Ok(());
    }
    let forwarder = forwarder(component);
    run.forward(&forwarder, &[(port, &format!("{NODE_ADDRESS}:{port}"))])?;
    let deadline = Instant::now() + Duration::from_secs(60);
    while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
        if run.running(&forwarder).is_none() || Instant::now() > deadline {
            bail!(
                "127.0.0.1:{port} is not forwarded into the run's namespace. The log: {}",
                run.log(&forwarder).display()
            );
        }
        sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Reverses [`publish`].
pub fn unpublish(run: &Run, component: &str) -> Result<()> {
    run.stop(&forwarder(component))
}

fn forwarder(component: &str) -> String {
    format!("{component}-forward")
}
