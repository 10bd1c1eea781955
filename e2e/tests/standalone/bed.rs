//! The peers of these tests: started by the first test, stopped after the last running one.

use std::{
    fs,
    ops::Deref,
    process,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread,
};

use anyhow::Result;
use e2e::{
    forward::free_port,
    peers::{
        certificates::Certificates,
        context_forge::ContextForge,
        edge::Edge,
        http,
        provider::{Options, Provider},
        standalone::{Proxy, ProxyOptions},
        tap::Tap,
    },
    run::Run,
};
use reqwest::{Certificate, Client, ClientBuilder};
use serde_json::{Value, json};
use tokio::sync::Mutex;
use url::Url;

pub struct Bed {
    pub run: Run,
    pub context_forge: ContextForge,
    pub tap: Tap,
    pub edge: Edge,
    pub proxy: Proxy,
    pub provider: Provider,
    failed: AtomicBool,
}

/// A test's reference to the shared test bed.
pub struct SharedBed(Arc<Bed>);

pub async fn shared() -> SharedBed {
    static SHARED: Mutex<Weak<Bed>> = Mutex::const_new(Weak::new());
    let mut shared = SHARED.lock().await;
    if let Some(bed) = shared.upgrade() {
        return SharedBed(bed);
    }
    let bed = Arc::new(Bed::up().await.unwrap());
    *shared = Arc::downgrade(&bed);
    SharedBed(bed)
}

impl Deref for SharedBed {
    type Target = Bed;

    fn deref(&self) -> &Bed {
        &self.0
    }
}

impl Drop for SharedBed {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.failed.store(true, Ordering::SeqCst);
        }
    }
}

impl Bed {
    async fn up() -> Result<Self> {
        // A previous bed may still be stopping.
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let run = Run::open(&format!("standalone-{}-{}", process::id(), NEXT.fetch_add(1, Ordering::SeqCst)))?;
        let stop_guard = StopOnDrop(run.clone());
        let (provider, context_forge) =
            tokio::try_join!(async { Provider::up(&run, &Options::default()).await }, ContextForge::up(&run))?;
        let tap = Tap::up(&run, &context_forge.address).await?;
        let listen = format!("127.0.0.1:{}", free_port()?);
        let edge = Edge::up(&run, "main", free_port()?, &listen).await?;
        let options = ProxyOptions {
            public_url: &edge.url,
            provider: &provider,
            upstream: &tap.address,
            recheck_on_refresh: true,
            documents: None,
            settings: &[],
        };
        let proxy = Proxy::up(&run, "proxy", &listen, options).await?;
        std::mem::forget(stop_guard);
        Ok(Self { run, context_forge, tap, edge, proxy, provider, failed: AtomicBool::new(false) })
    }

    /// The number of sessions of clients with this name; [`Bed::authorize_url`] registers clients as `e2e`.
    pub fn sessions_of(&self, client: &str) -> usize {
        self.proxy.sessions_of(client).unwrap()
    }

    /// The refresh token generation of a client's only session.
    pub fn generation_of(&self, client: &str) -> usize {
        self.proxy.generation_of(client).unwrap()
    }

    /// An HTTP client that trusts the edge.
    pub fn client(&self) -> Client {
        http::client(Some(&Certificates::for_run(&self.run).unwrap().authority())).unwrap()
    }

    /// A custom HTTP client that trusts the edge.
    pub fn client_with(&self, build: impl FnOnce(ClientBuilder) -> ClientBuilder) -> Client {
        let authority = fs::read(Certificates::for_run(&self.run).unwrap().authority()).unwrap();
        let builder = Client::builder().no_proxy().tls_certs_only([Certificate::from_pem(&authority).unwrap()]);
        build(builder).build().unwrap()
    }

    /// A URL at the edge.
    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.edge.url)
    }

    /// Registers a client and returns its authorization URL.
    pub async fn authorize_url(&self) -> String {
        authorize_url(&self.client(), &self.edge.url).await
    }
}

/// Registers a client at the proxy at this URL, and returns its authorization URL.
pub async fn authorize_url(http: &Client, proxy: &str) -> String {
    let redirect = "http://127.0.0.1:9/callback";
    let registration = json!({"redirect_uris": [redirect], "token_endpoint_auth_method": "none", "client_name": "e2e"});
    let response =
        http.post(format!("{proxy}/register")).json(&registration).send().await.unwrap().error_for_status().unwrap();
    let id = response.json::<Value>().await.unwrap()["client_id"].as_str().unwrap().to_owned();
    let resource = format!("{proxy}/mcp");
    let query = [
        ("response_type", "code"),
        ("client_id", &id),
        ("redirect_uri", redirect),
        ("state", "the-state"),
        ("resource", &resource),
        // RFC 7636, appendix B.
        ("code_challenge", "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"),
        ("code_challenge_method", "S256"),
    ];
    Url::parse_with_params(&format!("{proxy}/authorize"), query).unwrap().to_string()
}

impl Drop for Bed {
    fn drop(&mut self) {
        if self.failed.load(Ordering::SeqCst) {
            eprintln!("the logs are in {}", self.run.logs().display());
        }
        end(&self.run);
        if !self.failed.load(Ordering::SeqCst) {
            let _ = fs::remove_dir_all(self.run.directory());
        }
    }
}

/// Stops the run's components when dropped.
pub struct StopOnDrop(pub Run);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        end(&self.0);
    }
}

fn end(run: &Run) {
    for (component, _) in run.components().iter().rev() {
        if let Err(error) = run.stop(component) {
            eprintln!("{error:#}");
        }
    }
}
