//! A reverse proxy in front of Context Forge that records the requests it receives, for tests.

use std::{
    convert::Infallible,
    fs::{self, File, OpenOptions},
    io::Write,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context, Result};
use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderName, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use clap::Subcommand;
use futures::{StreamExt, stream};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

use super::{component_state, http};
use crate::{
    forward::{e2e_program, free_port},
    progress::complete_lines,
    run::{Run, RunArg},
};

const NAME: &str = "tap";
/// A path that the tap serves itself.
const HEALTH: &str = "/.tap/health";
/// The query for which the tap itself returns an endless event stream, because Context Forge offers none.
pub const STREAM_QUERY: &str = "listen";

/// A request as received.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct RecordedRequest {
    pub method: String,
    /// Including the query.
    pub path: String,
    /// In order, including duplicates; names in lower case.
    pub headers: Vec<(String, String)>,
}

impl RecordedRequest {
    pub fn header(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_str()).collect()
    }
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Tap {
    /// Host and port in the run's namespace.
    pub address: String,
    records: PathBuf,
}

impl Tap {
    /// Starts a tap in front of `upstream`, a host and port, or finds it running.
    pub async fn up(run: &Run, upstream: &str) -> Result<Self> {
        if let Some(running) = Self::find(run) {
            return Ok(running);
        }
        let address = format!("{}:{}", run.address(), free_port()?);
        let tap = Self { address, records: run.logs().join("tap.jsonl") };
        File::create(&tap.records)?;
        let mut command = run.command(e2e_program()?);
        command.args(["tap", "serve", "--listen", &tap.address, "--upstream", upstream, "--records"]);
        command.arg(&tap.records);
        http::start(run, NAME, &mut command, &format!("http://{}{HEALTH}", tap.address)).await?;
        component_state::save(run, NAME, &tap)?;
        eprintln!("tap           {} in front of {upstream} · records {}", tap.address, tap.records.display());
        Ok(tap)
    }

    /// The tap, if it is running.
    pub fn find(run: &Run) -> Option<Self> {
        component_state::load(run, NAME)
    }

    pub fn down(run: &Run) -> Result<()> {
        run.stop(NAME)
    }

    /// All requests so far.
    pub fn requests(&self) -> Result<Vec<RecordedRequest>> {
        let text = fs::read_to_string(&self.records)?;
        complete_lines(&text).map(|line| Ok(serde_json::from_str(line)?)).collect()
    }
}

#[derive(Clone)]
struct Shared {
    upstream: Arc<str>,
    records: Arc<Mutex<File>>,
    client: Client<HttpConnector, Body>,
}

async fn serve(listen: SocketAddr, upstream: &str, records: PathBuf) -> Result<()> {
    let records = OpenOptions::new().create(true).append(true).open(records)?;
    let shared = Shared {
        upstream: upstream.into(),
        records: Arc::new(Mutex::new(records)),
        client: Client::builder(TokioExecutor::new()).build_http(),
    };
    let router = Router::new().fallback(handle).with_state(shared);
    let listener = TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen}"))?;
    Ok(axum::serve(listener, router).await?)
}

async fn handle(State(shared): State<Shared>, mut request: Request) -> Response {
    if request.uri().path() == HEALTH {
        return StatusCode::OK.into_response();
    }
    if request.uri().query() == Some(STREAM_QUERY) {
        let events = stream::once(async { Ok::<_, Infallible>("data: {}\n\n") }).chain(stream::pending());
        return ([(header::CONTENT_TYPE, "text/event-stream")], Body::from_stream(events)).into_response();
    }
    match forward(&shared, &mut request).await {
        Ok(response) => response,
        Err(error) => (StatusCode::BAD_GATEWAY, format!("tap: {error:#}")).into_response(),
    }
}

async fn forward(shared: &Shared, request: &mut Request) -> Result<Response> {
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str()).to_owned();
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    let headers = request.headers().iter().map(|(name, value)| (name.to_string(), text(value.as_bytes()))).collect();
    let recorded = RecordedRequest { method: request.method().to_string(), path: path.clone(), headers };
    let line = format!("{}\n", serde_json::to_string(&recorded)?);
    shared.records.lock().unwrap_or_else(PoisonError::into_inner).write_all(line.as_bytes())?;

    let mut onward = std::mem::take(request);
    *onward.uri_mut() = Uri::try_from(format!("http://{}{path}", shared.upstream))?;
    remove_hop_by_hop(onward.headers_mut());
    let mut response = shared.client.request(onward).await?.map(Body::new);
    remove_hop_by_hop(response.headers_mut());
    Ok(response)
}

/// Hop-by-hop headers apply to one connection; the libraries add their own (RFC 9110 §7.6.1).
fn remove_hop_by_hop(headers: &mut axum::http::HeaderMap) {
    for name in [header::CONNECTION, header::TRANSFER_ENCODING, HeaderName::from_static("keep-alive")] {
        headers.remove(name);
    }
}

/// `e2e tap`
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Start the tap in front of a host and port
    Up {
        #[command(flatten)]
        run: RunArg,
        upstream: String,
    },
    /// Stop the tap
    Down(RunArg),
    /// Run the tap (started by `up`)
    #[command(hide = true)]
    Serve {
        #[arg(long)]
        listen: SocketAddr,
        #[arg(long)]
        upstream: String,
        #[arg(long)]
        records: PathBuf,
    },
}

impl Action {
    pub async fn perform(self) -> Result<()> {
        match self {
            Self::Up { run, upstream } => {
                let tap = Tap::up(&run.open()?, &upstream).await?;
                println!("{}", serde_json::to_string(&tap)?);
                Ok(())
            }
            Self::Down(run) => Tap::down(&run.open()?),
            Self::Serve { listen, upstream, records } => serve(listen, &upstream, records).await,
        }
    }
}
