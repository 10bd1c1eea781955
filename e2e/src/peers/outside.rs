//! Components of the run's network under the same port on this machine's loopback: for the person at the demo, the browser
//! and the MCP clients.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use tokio::{net::TcpStream, time::sleep};

use crate::run::{NODE_ADDRESS, Run};

/// Makes the component's port on the node's address reachable on this machine's loopback. Without a namespace it is there
/// already.
pub async fn publish(run: &Run, component: &str, port: u16) -> Result<()> {
    if run.namespace().is_none() {
        return Ok(());
    }
    let carrier = carrier(component);
    run.forward(&carrier, &[(port, &format!("{NODE_ADDRESS}:{port}"))])?;
    let deadline = Instant::now() + Duration::from_secs(60);
    while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
        if run.running(&carrier).is_none() || Instant::now() > deadline {
            bail!("127.0.0.1:{port} does not lead into the run's network. The log: {}", run.log(&carrier).display());
        }
        sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Ends what [`publish`] began.
pub fn withdraw(run: &Run, component: &str) -> Result<()> {
    run.stop(&carrier(component))
}

fn carrier(component: &str) -> String {
    format!("{component}-outside")
}
