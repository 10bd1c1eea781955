//! Chromium, controlled through chromedriver, in the host's network.

use std::{
    env, fs,
    path::PathBuf,
    process::{self, Command},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use fantoccini::{Client, ClientBuilder, Locator, elements::Element, error::CmdError};
use hyper_util::client::legacy::connect::HttpConnector;
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::json;
use tempfile::TempDir;
use tokio::time::sleep;
use url::Url;

use super::certificates::Certificates;
use crate::{forward::free_port, program, run::Run};

/// The buttons of the consent page.
const APPROVE: &str = "button[name=decision][value=approve]";
const DENY: &str = "button[name=decision][value=deny]";
/// The provider's login form.
const EMAIL: &str = "form#login input[name=email]";
const PASSWORD: &str = "form#login input[name=password]";
const SIGN_IN: &str = "form#login button[type=submit]";
const PROBLEM: &str = "#problem";
/// Redirect hosts of hosted clients. They are unresolvable, so that a test sends them nothing.
const BLOCKED_HOSTS: &str = "MAP claude.ai ~NOTFOUND, MAP *.vscode.dev ~NOTFOUND, MAP vscode.dev ~NOTFOUND, \
    MAP chatgpt.com ~NOTFOUND, MAP *.cursor.com ~NOTFOUND";
/// The longest time until the next page, on a busy machine.
const STEP_LIMIT: Duration = Duration::from_secs(30);

/// A browser with an empty profile.
#[derive(Debug)]
pub struct Browser {
    run: Run,
    component: String,
    client: Client,
    _temporary: TempDir,
}

/// The page at which a login ended.
#[derive(Clone, Debug)]
pub struct FinalPage {
    pub url: Url,
    /// The HTTP status; 0 without a response.
    pub status: u64,
    pub title: String,
    /// The visible text.
    pub text: String,
    /// Whether the consent page was shown.
    pub consented: bool,
    /// Whether the provider's login form was shown.
    pub signed_in: bool,
}

impl FinalPage {
    /// A query parameter.
    pub fn parameter(&self, name: &str) -> Option<String> {
        self.url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
    }
}

impl Browser {
    /// Starts a browser that trusts the run's edges.
    pub async fn start(run: &Run) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let chromium = program::find("chromium", "chromium")?;
        let driver = program::find("chromedriver", "chromium-driver")?;
        let component = format!("browser-{}-{}", process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let profile = run.directory().join(&component);
        fs::create_dir_all(&profile)?;
        let port = free_port()?;
        let mut command = Command::new(driver);
        command.arg(format!("--port={port}")).arg("--allowed-ips=127.0.0.1").env("HOME", &profile);
        // A killed Chromium leaves its lock there. Not in the profile: socket paths are limited to 107 bytes.
        let temporary = tempfile::tempdir()?;
        command.env("TMPDIR", temporary.path());
        command.env("PATH", env::var_os("PATH").unwrap_or_default());
        run.spawn(&component, &mut command)?;
        let trusted = Certificates::for_run(run)?.public_key_hash()?;
        let arguments = [
            "--headless=new".to_owned(),
            // Chromium's sandbox does not work as root.
            "--no-sandbox".to_owned(),
            "--disable-gpu".to_owned(),
            "--disable-dev-shm-usage".to_owned(),
            "--disable-quic".to_owned(),
            "--no-first-run".to_owned(),
            "--disable-background-networking".to_owned(),
            "--disable-component-update".to_owned(),
            "--disable-sync".to_owned(),
            "--no-proxy-server".to_owned(),
            "--window-size=1000,800".to_owned(),
            format!("--host-resolver-rules={BLOCKED_HOSTS}"),
            // Chromium exits with the driver.
            "--remote-debugging-pipe".to_owned(),
            format!("--user-data-dir={}", profile.display()),
            // Accepts only the key of the edges; all other certificate errors stay errors.
            format!("--ignore-certificate-errors-spki-list={trusted}"),
        ];
        let options = json!({"goog:chromeOptions": {"binary": chromium, "args": arguments}});
        let options = options.as_object().cloned().unwrap_or_default();
        let deadline = Instant::now() + Duration::from_secs(90);
        let client = loop {
            let mut builder = ClientBuilder::new(HttpConnector::new());
            match builder.capabilities(options.clone()).connect(&format!("http://127.0.0.1:{port}")).await {
                Ok(client) => break client,
                Err(error) if Instant::now() > deadline || run.running(&component).is_none() => {
                    return Err(error).with_context(|| {
                        format!("Chromium did not start. Its log: {}", run.log(&component).display())
                    });
                }
                Err(_) => sleep(Duration::from_millis(50)).await,
            }
        };
        Ok(Self { run: run.clone(), component, client, _temporary: temporary })
    }

    /// Opens a URL, approves on the consent page and signs in as `email` at the provider (unless it remembers the
    /// account). Returns the next other page: the client's, or an error page of ours.
    pub async fn login(&self, url: &str, email: &str) -> Result<FinalPage> {
        self.complete_login(url, APPROVE, email).await
    }

    /// Like [`Self::login`], but denies on the consent page.
    pub async fn deny(&self, url: &str) -> Result<FinalPage> {
        self.complete_login(url, DENY, "nobody@example.com").await
    }

    async fn complete_login(&self, url: &str, decision: &str, email: &str) -> Result<FinalPage> {
        self.goto(url).await?;
        let (mut consented, mut signed_in) = (false, false);
        for _ in 0..6 {
            if let Some(button) = self.find(decision).await? {
                consented = true;
                self.click(&button).await?;
            } else if let Some(field) = self.find(EMAIL).await? {
                if let Some(problem) = self.find(PROBLEM).await? {
                    bail!("the provider refused the login: {}", problem.text().await?);
                }
                signed_in = true;
                field.clear().await?;
                field.send_keys(email).await?;
                self.client.find(Locator::Css(PASSWORD)).await?.send_keys("any").await?;
                self.click(&self.client.find(Locator::Css(SIGN_IN)).await?).await?;
            } else {
                return self.final_page(consented, signed_in).await;
            }
        }
        let picture = self.screenshot("incomplete").await?;
        bail!("the login did not finish: {}, see {}", self.client.current_url().await?, picture.display())
    }

    /// Clicks a button and waits for the next page: the driver may respond before the click has its effect.
    async fn click(&self, button: &Element) -> Result<()> {
        button.click().await?;
        let deadline = Instant::now() + STEP_LIMIT;
        // The button disappears with its page. While a page loads, its load event is still missing.
        while button.is_enabled().await.is_ok() || !self.has_loaded().await {
            if Instant::now() > deadline {
                let picture = self.screenshot("stuck").await?;
                bail!("no new page after a click at {}, see {}", self.client.current_url().await?, picture.display());
            }
            sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    async fn has_loaded(&self) -> bool {
        let state = self.client.execute("return document.readyState", Vec::new()).await;
        state.is_ok_and(|state| state == "complete")
    }

    async fn goto(&self, url: &str) -> Result<()> {
        match self.client.goto(url).await {
            // A redirect to a closed port: only its URL matters.
            Err(error) if error.to_string().contains("net::ERR_CONNECTION_REFUSED") => Ok(()),
            other => other.with_context(|| format!("the browser cannot open {url}")),
        }
    }

    async fn find(&self, css: &str) -> Result<Option<Element>> {
        match self.client.find(Locator::Css(css)).await {
            Ok(element) => Ok(Some(element)),
            Err(error) if error.is_no_such_element() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn final_page(&self, consented: bool, signed_in: bool) -> Result<FinalPage> {
        let status =
            "const [entry] = performance.getEntriesByType('navigation'); return entry ? entry.responseStatus : 0";
        let text = "return document.body ? document.body.innerText : ''";
        Ok(FinalPage {
            url: self.client.current_url().await?,
            status: self.client.execute(status, Vec::new()).await?.as_u64().unwrap_or_default(),
            title: self.client.title().await?,
            text: self.client.execute(text, Vec::new()).await?.as_str().unwrap_or_default().to_owned(),
            consented,
            signed_in,
        })
    }

    /// Saves a screenshot in the run's logs.
    pub async fn screenshot(&self, name: &str) -> Result<PathBuf> {
        let file = self.run.logs().join(format!("{}-{name}.png", self.component));
        fs::write(&file, self.client.screenshot().await?)?;
        Ok(file)
    }

    /// Closes the browser gracefully. Dropping it works too.
    pub async fn close(self) -> Result<(), CmdError> {
        self.client.clone().close().await
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Kill the process group, because Chromium may outlive a killed driver.
        if let Some(group) = self.run.running(&self.component).and_then(Pid::from_raw) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.run.stop(&self.component);
        let _ = fs::remove_dir_all(self.run.directory().join(&self.component));
    }
}
