//! Messages to and from the MCP server, and its session: MCP 2025-03-26 to 2025-11-25 have one, later versions have none.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::Value;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};

use super::{
    BridgeError, Result,
    events::{Events, RETRY},
    message::{self, BRIDGE_ERROR, Message, PROTOCOL_VERSION},
    server::{McpServer, is_event_stream},
};

const SESSION_ID: HeaderName = HeaderName::from_static("mcp-session-id");

/// How long a stream is read after its last response, so that the connection can be reused.
const LINGER: Duration = Duration::from_secs(1);

/// How often in a row a stream is resumed without receiving an event.
const MAX_ATTEMPTS: u32 = 5;

const MAX_BACKOFF: Duration = Duration::from_secs(30);

/// Deadline for deleting the session, because the client waits for this process to exit.
const DELETE_TIMEOUT: Duration = Duration::from_secs(2);

pub struct Upstream {
    server: McpServer,
    output: mpsc::Sender<String>,
    session: Mutex<Session>,
    /// `initialize` and `notifications/initialized`, sent again when the server has lost the session.
    handshake: tokio::sync::Mutex<Vec<Message>>,
}

#[derive(Clone, Debug, Default)]
struct Session {
    generation: u64,
    /// `Mcp-Session-Id` and `MCP-Protocol-Version`, if the server specified them.
    headers: HeaderMap,
}

/// The requests that have no response yet.
#[derive(Default)]
struct Pending {
    ids: Vec<Value>,
    /// The responses to a replayed handshake are not forwarded.
    is_replay: bool,
    protocol_version: Option<String>,
}

impl Upstream {
    pub fn new(server: McpServer, output: mpsc::Sender<String>) -> Self {
        Self { server, output, session: Mutex::default(), handshake: tokio::sync::Mutex::default() }
    }

    /// Sends a message and forwards the responses. If that fails, its requests get an error.
    pub async fn deliver(&self, message: &Message) {
        let mut pending = Pending { ids: message.ids.clone(), ..Pending::default() };
        let result = if message.is_initialize() {
            self.initialize(message, &mut pending).await
        } else {
            self.exchange(message, &mut pending).await
        };
        if message.is_initialized() && result.is_ok() {
            self.handshake.lock().await.push(message.clone());
        }
        let Err(error) = result else { return };
        tracing::warn!(%error, method = message.method(), "message not delivered");
        for id in pending.ids {
            let body = if let BridgeError::Status { body, .. } = &error { &body[..] } else { b"" };
            let line = message::server_error(&id, body);
            self.write(line.unwrap_or_else(|| message::error(&id, BRIDGE_ERROR, &error.to_string()))).await;
        }
    }

    /// Forwards the messages of the standalone stream. Never prompts for a login, because no request waits for it.
    pub async fn listen(&self) {
        let (mut last_id, mut backoff, mut rejected) = (None, RETRY, None);
        let mut generation = self.session().generation;
        loop {
            let session = self.session().clone();
            if session.generation != generation {
                (generation, last_id) = (session.generation, None);
            }
            match self.server.events(&session.headers, last_id.as_deref(), &mut rejected).await {
                Ok(mut events) => {
                    let opened = Instant::now();
                    while let Ok(Some(event)) = events.next().await {
                        last_id = event.id.or(last_id);
                        if !event.data.is_empty() && self.forward(&event.data, &mut Pending::default()).await.is_err() {
                            tracing::warn!("the server sends events that are not JSON-RPC messages");
                        }
                    }
                    // If the server closes streams immediately, the backoff still grows.
                    if opened.elapsed() > backoff {
                        backoff = events.retry();
                    }
                }
                // The stream is optional. With a session id, 404 means that the session is lost.
                Err(BridgeError::Status { status, .. })
                    if status.is_client_error()
                        && status != StatusCode::TOO_MANY_REQUESTS
                        && (status != StatusCode::NOT_FOUND || !session.headers.contains_key(SESSION_ID)) =>
                {
                    tracing::debug!(%status, "the server has no standalone stream");
                    return;
                }
                Err(error) => tracing::debug!(%error, "cannot open the standalone stream"),
            }
            sleep(backoff).await;
            backoff = (backoff * 2).min(MAX_BACKOFF);
        }
    }

    pub async fn delete_session(&self) {
        let session = self.session().clone();
        if !session.headers.contains_key(SESSION_ID) {
            return;
        }
        let result = timeout(DELETE_TIMEOUT, self.server.delete(&session.headers)).await;
        tracing::debug!(?result, "sent the DELETE request of the session");
    }

    async fn exchange(&self, message: &Message, pending: &mut Pending) -> Result<()> {
        let mut session = self.session().clone();
        let mut response = self.server.post(message, &session.headers).await?;
        if response.status() == StatusCode::NOT_FOUND && session.headers.contains_key(SESSION_ID) {
            session = self.reinitialize(session.generation).await?;
            response = self.server.post(message, &session.headers).await?;
        }
        self.receive(response, &session, pending).await
    }

    async fn initialize(&self, message: &Message, pending: &mut Pending) -> Result<()> {
        let mut handshake = self.handshake.lock().await;
        self.start_session(message, pending).await?;
        *handshake = vec![message.clone()];
        Ok(())
    }

    /// Replaces a lost session, unless another request has replaced it already. The client does not notice; its
    /// subscriptions are lost.
    async fn reinitialize(&self, lost_generation: u64) -> Result<Session> {
        let handshake = self.handshake.lock().await;
        if self.session().generation == lost_generation {
            let (first, rest) = handshake.split_first().ok_or(BridgeError::SessionLost)?;
            tracing::info!("the server lost the session: initializing a new one");
            let mut pending = Pending { ids: first.ids.clone(), is_replay: true, ..Pending::default() };
            self.start_session(first, &mut pending).await?;
            for message in rest {
                let session = self.session().clone();
                let response = self.server.post(message, &session.headers).await?;
                self.receive(response, &session, &mut pending).await?;
            }
        }
        Ok(self.session().clone())
    }

    async fn start_session(&self, message: &Message, pending: &mut Pending) -> Result<()> {
        let mut session = Session::default();
        let response = self.server.post(message, &session.headers).await?;
        session.headers.extend(response.headers().get(SESSION_ID).map(|id| (SESSION_ID, id.clone())));
        self.receive(response, &session, pending).await?;
        // The client sees an error response itself, but not that of a replay.
        if pending.is_replay && pending.protocol_version.is_none() {
            return Err(BridgeError::SessionLost);
        }
        let version = pending.protocol_version.take().and_then(|version| HeaderValue::try_from(version).ok());
        session.headers.extend(version.map(|version| (PROTOCOL_VERSION, version)));
        let mut current = self.session();
        session.generation = current.generation + 1;
        *current = session;
        Ok(())
    }

    /// Forwards the messages in a response until no request is pending.
    async fn receive(&self, response: Response<Incoming>, session: &Session, pending: &mut Pending) -> Result<()> {
        if response.status().is_success() && is_event_stream(&response) {
            return self.receive_events(Events::new(response.into_body()), session, pending).await;
        }
        let body = self.server.read(response).await?;
        if !pending.ids.is_empty() && !body.is_empty() {
            let text = std::str::from_utf8(&body).map_err(|_| BridgeError::NotJsonRpc)?;
            self.forward(text, pending).await?;
        }
        if pending.ids.is_empty() { Ok(()) } else { Err(BridgeError::NoResponse) }
    }

    async fn receive_events(&self, mut events: Events, session: &Session, pending: &mut Pending) -> Result<()> {
        let (mut last_id, mut attempts, mut rejected) = (None, 0, None);
        loop {
            let limit = if pending.ids.is_empty() { LINGER } else { Duration::MAX };
            if let Some(event) = timeout(limit, events.next()).await.unwrap_or(Ok(None))? {
                attempts = 0;
                last_id = event.id.or(last_id);
                if !event.data.is_empty() {
                    self.forward(&event.data, pending).await?;
                }
                continue;
            }
            if pending.ids.is_empty() {
                return Ok(());
            }
            // A server that sends event ids may close a stream at any time (MCP 2025-11-25, resumability).
            let Some(id) = last_id.as_deref().filter(|_| attempts < MAX_ATTEMPTS) else {
                return Err(BridgeError::Incomplete);
            };
            attempts += 1;
            sleep(events.retry()).await;
            match self.server.events(&session.headers, Some(id), &mut rejected).await {
                Ok(resumed) => events = resumed,
                Err(error @ BridgeError::Status { .. }) => return Err(error),
                Err(error) => tracing::debug!(%error, "cannot resume the stream"),
            }
        }
    }

    async fn forward(&self, text: &str, pending: &mut Pending) -> Result<()> {
        let (line, responses) = message::parse_server_message(text).ok_or(BridgeError::NotJsonRpc)?;
        if !pending.is_replay || responses.is_empty() {
            self.write(line).await;
        }
        for response in responses {
            pending.ids.retain(|id| *id != response.id);
            pending.protocol_version = pending.protocol_version.take().or(response.protocol_version);
        }
        Ok(())
    }

    async fn write(&self, line: String) {
        // Fails only if the output is closed, which ends the bridge.
        let _ = self.output.send(line).await;
    }

    fn session(&self) -> MutexGuard<'_, Session> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
