use std::{
    cell::RefCell,
    collections::VecDeque,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use http::{Request, Response, Uri};
use hyper::{
    body::Incoming,
    client::conn::http1::{self, SendRequest},
};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs::default_provider};
use thiserror::Error;
use tower::ServiceExt;

use super::{BoxError, replay::Replay};

/// How long connecting may take, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How many idle connections a worker keeps.
const MAX_IDLE: usize = 512;

/// How long an idle connection is kept.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// Why the upstream gave no answer.
#[derive(Debug, Error)]
pub enum UpstreamError {
    /// It cannot be reached.
    #[error("cannot connect to the upstream: {0}")]
    Connect(#[source] BoxError),
    /// It did not accept a connection in time.
    #[error("the upstream did not accept a connection within {} s", CONNECT_TIMEOUT.as_secs())]
    ConnectTimeout,
    /// The connection broke, or what came was not HTTP.
    #[error("the upstream broke off: {0}")]
    Exchange(#[from] hyper::Error),
}

/// Why no pool can be made.
#[derive(Debug, Error)]
pub enum PoolError {
    /// No root certificates.
    #[error("cannot load the system's root certificates, which an https upstream needs: {0}")]
    Roots(#[from] std::io::Error),
    /// TLS is not available.
    #[error("cannot set up TLS: {0}")]
    Tls(#[from] rustls::Error),
}

/// Connects to the upstream. One for all workers.
pub type Connector = HttpsConnector<HttpConnector>;

/// Makes the connector. The system's root certificates are read for an https upstream only: an image need not have any.
///
/// # Errors
/// When there are no root certificates, or no TLS.
pub fn connector(https: bool) -> Result<Connector, PoolError> {
    let mut http = HttpConnector::new();
    http.set_nodelay(true);
    http.enforce_http(false);
    let builder = HttpsConnectorBuilder::new();
    let builder = if https {
        builder.with_provider_and_native_roots(default_provider())?
    } else {
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        builder.with_tls_config(config)
    };
    Ok(builder.https_or_http().enable_http1().wrap_connector(http))
}

/// The upstream connections of one worker. Never leaves its thread, so it costs no lock and no atomic.
pub struct Pool {
    connector: Connector,
    upstream: Uri,
    idle: RefCell<VecDeque<Idle>>,
}

struct Idle {
    sender: SendRequest<Replay<Incoming>>,
    since: Instant,
}

/// A connection whose response is still being read. Dropping it closes the connection.
pub struct Lease {
    sender: SendRequest<Replay<Incoming>>,
    pool: Rc<Pool>,
}

impl Lease {
    /// For when the response has been read to its end.
    pub fn give_back(self) {
        self.pool.put(self.sender);
    }
}

impl Pool {
    /// A pool for the upstream at `upstream`, whose path does not matter here.
    pub fn new(connector: Connector, upstream: Uri) -> Self {
        Self { connector, upstream, idle: RefCell::default() }
    }

    /// Sends a request, whose target must be in origin form, over an idle connection or a new one.
    ///
    /// # Errors
    /// When no answer came. Only a request of which nothing was sent is tried again, because it may have had effects.
    pub async fn send(
        self: &Rc<Self>,
        mut request: Request<Replay<Incoming>>,
    ) -> Result<(Response<Incoming>, Lease), UpstreamError> {
        if let Some(mut sender) = self.take() {
            match sender.try_send_request(request).await {
                Ok(response) => return Ok((response, Lease { sender, pool: self.clone() })),
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(error.into_error().into()),
                },
            }
        }
        let mut sender = self.connect().await?;
        let response = sender.send_request(request).await?;
        Ok((response, Lease { sender, pool: self.clone() }))
    }

    /// Closes the connections that have been idle for too long.
    pub fn prune(&self) {
        self.idle.borrow_mut().retain(|idle| !idle.sender.is_closed() && idle.since.elapsed() < IDLE_TIMEOUT);
    }

    /// The connection used last, since that is the least likely to be closed by the upstream in this moment.
    fn take(&self) -> Option<SendRequest<Replay<Incoming>>> {
        let mut idle = self.idle.borrow_mut();
        let mut busy = Vec::new();
        let mut found = None;
        while let Some(candidate) = idle.pop_back() {
            if candidate.sender.is_ready() {
                found = Some(candidate.sender);
                break;
            }
            // Answered before it had read the whole request: it becomes ready when that is through.
            if !candidate.sender.is_closed() {
                busy.push(candidate);
            }
        }
        idle.extend(busy.into_iter().rev());
        found
    }

    fn put(&self, sender: SendRequest<Replay<Incoming>>) {
        let mut idle = self.idle.borrow_mut();
        if sender.is_closed() {
            return;
        }
        if idle.len() >= MAX_IDLE {
            idle.pop_front();
        }
        idle.push_back(Idle { sender, since: Instant::now() });
    }

    async fn connect(&self) -> Result<SendRequest<Replay<Incoming>>, UpstreamError> {
        let connecting = self.connector.clone().oneshot(self.upstream.clone());
        let stream = tokio::time::timeout(CONNECT_TIMEOUT, connecting)
            .await
            .map_err(|_| UpstreamError::ConnectTimeout)?
            .map_err(UpstreamError::Connect)?;
        let (sender, connection) = http1::handshake(stream).await?;
        tokio::task::spawn_local(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "upstream connection");
            }
        });
        Ok(sender)
    }
}
