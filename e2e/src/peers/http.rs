//! HTTP client of the test bed, and readiness checks.

use std::{
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use reqwest::{Certificate, Client, redirect};
use tokio::time::sleep;

use super::netns::run_in_netns;
use crate::{progress::tail, run::Run, tls::install_crypto_provider};

/// The longest start of a component on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(60);

/// A client without redirects, cookies and proxies. It trusts only the CA in `trusted`, if given.
pub fn client(trusted: Option<&Path>) -> Result<Client> {
    install_crypto_provider();
    let mut builder = Client::builder().no_proxy().redirect(redirect::Policy::none()).timeout(Duration::from_secs(30));
    if let Some(file) = trusted {
        let pem = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        builder = builder.tls_certs_only([Certificate::from_pem(&pem)?]);
    } else {
        builder = builder.tls_certs_only([]);
    }
    Ok(builder.build()?)
}

/// (Re)starts a component and waits until the URL, requested from the run's namespace, returns a success status.
pub async fn start(run: &Run, component: &str, command: &mut Command, ready_url: &str) -> Result<()> {
    run.stop(component)?;
    run.spawn(component, command)?;
    wait_until_ready(run, component, ready_url, START_LIMIT).await
}

/// Waits until the URL, requested from the run's namespace, returns a success status. Fails immediately if the
/// component exits.
pub async fn wait_until_ready(run: &Run, component: &str, url: &str, limit: Duration) -> Result<()> {
    let log = run.log(component);
    let (run, name, url) = (run.clone(), component.to_owned(), url.to_owned());
    let namespace_run = run.clone();
    run_in_netns(&namespace_run, move || async move {
        let client = client(None)?;
        let deadline = Instant::now() + limit;
        loop {
            if client.get(&url).send().await.is_ok_and(|response| response.status().is_success()) {
                return Ok(());
            }
            if run.running(&name).is_none() {
                bail!("{name} exited. The end of its log {}:{}", log.display(), tail(&log));
            }
            if Instant::now() > deadline {
                bail!("{name} is not ready at {url} after {} s. Its log: {}", limit.as_secs(), log.display());
            }
            sleep(Duration::from_millis(50)).await;
        }
    })
    .await
}
