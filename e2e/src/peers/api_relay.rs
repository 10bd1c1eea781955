//! Between a program and the API server: passes everything on, does to watches what networks and proxies do to
//! them, and can be as silent as an API server that has stopped.

use std::{net::SocketAddr, path::Path, time::Duration};

use anyhow::{Context, Result};
use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use futures::{StreamExt, channel::mpsc, stream};
use serde_json::json;
use tokio::{
    net::TcpListener,
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep, sleep_until},
};

/// What is done to watches, to those that are open and to new ones.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Watches {
    /// Nothing.
    Pass,
    /// They stay open, and nothing comes, not even their end.
    Hold,
    /// They are broken off.
    Cut,
    /// All that they say comes this much later.
    Delay(Duration),
    /// They are told that what they ask for has been compacted away.
    Expire,
}

/// The running relay. It ends with this.
#[derive(Debug)]
pub struct ApiRelay {
    address: SocketAddr,
    watches: watch::Sender<Watches>,
    answers: watch::Sender<bool>,
    serving: JoinHandle<()>,
}

#[derive(Clone)]
struct Relay {
    client: kube::Client,
    watches: watch::Receiver<Watches>,
    answers: watch::Receiver<bool>,
}

impl ApiRelay {
    /// Starts it before an API server, with the rights of `client`.
    pub async fn up(client: kube::Client) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let ((watches, now), (answers, does_answer)) = (watch::channel(Watches::Pass), watch::channel(true));
        let router = Router::new().fallback(relay).with_state(Relay { client, watches: now, answers: does_answer });
        let serving = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                eprintln!("the relay before the API server has ended: {error}");
            }
        });
        Ok(Self { address, watches, answers, serving })
    }

    /// Writes a kubeconfig that leads to it.
    pub fn write_kubeconfig(&self, file: &Path) -> Result<()> {
        let cluster = json!({"name": "relay", "cluster": {"server": format!("http://{}", self.address)}});
        let context = json!({"name": "relay", "context": {"cluster": "relay", "user": "nobody"}});
        let kubeconfig = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [cluster],
            "users": [{"name": "nobody", "user": {}}],
            "contexts": [context],
            "current-context": "relay",
        });
        std::fs::write(file, kubeconfig.to_string()).with_context(|| file.display().to_string())
    }

    /// From now on this is done to watches.
    pub fn set(&self, watches: Watches) {
        self.watches.send_replace(watches);
    }

    /// As if the API server had been stopped: no request is answered until [`Self::resume`], and watches are broken off.
    pub fn stop(&self) {
        self.answers.send_replace(false);
        self.set(Watches::Cut);
    }

    /// It goes on.
    pub fn resume(&self) {
        self.set(Watches::Pass);
        self.answers.send_replace(true);
    }
}

impl Drop for ApiRelay {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn relay(State(mut relay): State<Relay>, request: Request) -> Response {
    if relay.answers.wait_for(|answers| *answers).await.is_err() {
        return axum::http::StatusCode::BAD_GATEWAY.into_response();
    }
    let is_watch = request.uri().query().is_some_and(|query| query.split('&').any(|pair| pair == "watch=true"));
    if is_watch && *relay.watches.borrow() == Watches::Expire {
        return expired().into_response();
    }
    let (head, body) = request.into_parts();
    let answer = async {
        let body = axum::body::to_bytes(body, usize::MAX).await?;
        let mut request = axum::http::Request::new(kube::client::Body::from(body.to_vec()));
        *request.method_mut() = head.method;
        *request.uri_mut() = head.uri.path_and_query().context("no path")?.to_string().parse()?;
        for name in ["accept", "content-type"] {
            if let Some(value) = head.headers.get(name) {
                request.headers_mut().insert(axum::http::HeaderName::from_static(name), value.clone());
            }
        }
        anyhow::Ok(relay.client.send(request).await?)
    };
    match answer.await {
        Ok(answer) if is_watch => {
            let (head, body) = answer.into_parts();
            Response::from_parts(head, Body::from_stream(disturbed(Body::new(body), relay.watches)))
        }
        Ok(answer) => answer.map(Body::new),
        Err(error) => (axum::http::StatusCode::BAD_GATEWAY, error.to_string()).into_response(),
    }
}

/// What the API server answers to a watch that begins before what it remembers.
fn expired() -> Body {
    let status = json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": "too old resource version",
        "reason": "Expired",
        "code": 410,
    });
    Body::from(format!("{}\n", json!({"type": "ERROR", "object": status})))
}

type Chunk = Result<Bytes, axum::Error>;

/// A watch, as the relay lets it through.
fn disturbed(body: Body, watches: watch::Receiver<Watches>) -> impl stream::Stream<Item = Chunk> {
    let (sender, chunks) = mpsc::unbounded();
    // Read at once, so that what is delayed does not delay what follows once more.
    tokio::spawn(async move {
        let mut body = body.into_data_stream();
        while let Some(chunk) = body.next().await {
            if sender.unbounded_send((Instant::now(), chunk)).is_err() {
                return;
            }
        }
    });
    stream::unfold(Some((chunks, watches)), |open| async {
        let (mut chunks, mut watches) = open?;
        let cut = || Some((Err(axum::Error::new("cut by the relay")), None));
        loop {
            let now = *watches.borrow_and_update();
            let next = async {
                match now {
                    Watches::Hold => std::future::pending().await,
                    Watches::Delay(late) => {
                        let next = chunks.next().await;
                        match &next {
                            Some((read, _)) => sleep_until(*read + late).await,
                            None => sleep(late).await,
                        }
                        next
                    }
                    _ => chunks.next().await,
                }
            };
            if matches!(now, Watches::Cut | Watches::Expire) {
                return cut();
            }
            tokio::select! {
                next = next => return next.map(|(_, chunk)| (chunk, Some((chunks, watches)))),
                changed = watches.changed() => if changed.is_err() { return cut() },
            }
        }
    })
}
