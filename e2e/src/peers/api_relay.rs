//! A relay in front of the API server. It injects faults of networks and proxies into watches, and can stop responding
//! like an API server that is down.

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

/// The fault injected into open and new watches.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum WatchFault {
    /// No fault.
    None,
    /// Watches stay open, but neither events nor their end arrive.
    Stall,
    /// Watches are aborted.
    Cut,
    /// Events are delayed.
    Delay(Duration),
    /// New watches get 410 Expired: their resource version has been compacted.
    Expire,
}

/// A running relay. It stops when dropped.
#[derive(Debug)]
pub struct ApiRelay {
    address: SocketAddr,
    fault: watch::Sender<WatchFault>,
    responding: watch::Sender<bool>,
    serving: JoinHandle<()>,
}

#[derive(Clone)]
struct RelayState {
    client: kube::Client,
    fault: watch::Receiver<WatchFault>,
    responding: watch::Receiver<bool>,
}

impl ApiRelay {
    /// Starts a relay that authenticates as `client`.
    pub async fn up(client: kube::Client) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let ((fault, current_fault), (responding, is_responding)) =
            (watch::channel(WatchFault::None), watch::channel(true));
        let router = Router::new().fallback(relay).with_state(RelayState {
            client,
            fault: current_fault,
            responding: is_responding,
        });
        let serving = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                eprintln!("the API server relay failed: {error}");
            }
        });
        Ok(Self { address, fault, responding, serving })
    }

    /// Writes a kubeconfig for clients of the relay.
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

    pub fn set_fault(&self, fault: WatchFault) {
        self.fault.send_replace(fault);
    }

    /// Simulates a stopped API server: requests hang until [`Self::resume`], and watches are aborted.
    pub fn stop(&self) {
        self.responding.send_replace(false);
        self.set_fault(WatchFault::Cut);
    }

    pub fn resume(&self) {
        self.set_fault(WatchFault::None);
        self.responding.send_replace(true);
    }
}

impl Drop for ApiRelay {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn relay(State(mut state): State<RelayState>, request: Request) -> Response {
    if state.responding.wait_for(|responding| *responding).await.is_err() {
        return axum::http::StatusCode::BAD_GATEWAY.into_response();
    }
    let is_watch = request.uri().query().is_some_and(|query| query.split('&').any(|pair| pair == "watch=true"));
    if is_watch && *state.fault.borrow() == WatchFault::Expire {
        return expired().into_response();
    }
    let (head, body) = request.into_parts();
    let response = async {
        let body = axum::body::to_bytes(body, usize::MAX).await?;
        let mut request = axum::http::Request::new(kube::client::Body::from(body.to_vec()));
        *request.method_mut() = head.method;
        *request.uri_mut() = head.uri.path_and_query().context("no path")?.to_string().parse()?;
        for name in ["accept", "content-type"] {
            if let Some(value) = head.headers.get(name) {
                request.headers_mut().insert(axum::http::HeaderName::from_static(name), value.clone());
            }
        }
        anyhow::Ok(state.client.send(request).await?)
    };
    match response.await {
        Ok(response) if is_watch => {
            let (head, body) = response.into_parts();
            Response::from_parts(head, Body::from_stream(with_faults(Body::new(body), state.fault)))
        }
        Ok(response) => response.map(Body::new),
        Err(error) => (axum::http::StatusCode::BAD_GATEWAY, error.to_string()).into_response(),
    }
}

/// The API server's response to a watch from a compacted resource version.
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

/// The events of a watch, with the current fault applied.
fn with_faults(body: Body, fault: watch::Receiver<WatchFault>) -> impl stream::Stream<Item = Chunk> {
    let (sender, chunks) = mpsc::unbounded();
    // Events are timestamped on arrival, so that each is delayed only once.
    tokio::spawn(async move {
        let mut body = body.into_data_stream();
        while let Some(chunk) = body.next().await {
            if sender.unbounded_send((Instant::now(), chunk)).is_err() {
                return;
            }
        }
    });
    stream::unfold(Some((chunks, fault)), |open| async {
        let (mut chunks, mut fault) = open?;
        let cut = || Some((Err(axum::Error::new("aborted by the relay")), None));
        loop {
            let current = *fault.borrow_and_update();
            let next = async {
                match current {
                    WatchFault::Stall => std::future::pending().await,
                    WatchFault::Delay(delay) => {
                        let next = chunks.next().await;
                        match &next {
                            Some((received, _)) => sleep_until(*received + delay).await,
                            None => sleep(delay).await,
                        }
                        next
                    }
                    _ => chunks.next().await,
                }
            };
            if matches!(current, WatchFault::Cut | WatchFault::Expire) {
                return cut();
            }
            tokio::select! {
                next = next => return next.map(|(_, chunk)| (chunk, Some((chunks, fault)))),
                changed = fault.changed() => if changed.is_err() { return cut() },
            }
        }
    })
}
