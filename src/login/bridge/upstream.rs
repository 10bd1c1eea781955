//! The MCP server (Streamable HTTP). MCP 2025-03-26 to 2025-11-25 have one session, later versions have none.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE},
    request::Builder,
};
use hyper::body::Incoming;
use openidconnect::AccessToken;
use serde_json::Value;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};

use super::{
    BridgeError, MAX_MESSAGE, Result,
    events::{Events, RETRY},
    message::{self, BRIDGE_ERROR, Message, PROTOCOL_VERSION},
};
use crate::login::{
    account::{Account, Prompt},
    http::{bearer, read_body},
    tokens::printable,
};
use crate::media_type::has_media_type;

const SESSION_ID: HeaderName = HeaderName::from_static("mcp-session-id");
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
const EVENT_STREAM: &str = "text/event-stream";

/// How long a stream is read after its last response, so that the connection can be reused.
const LINGER: Duration = Duration::from_secs(1);

/// How often in a row a stream is resumed without receiving an event.
const MAX_ATTEMPTS: u32 = 5;

const MAX_BACKOFF: Duration = Duration::from_secs(30);

/// Deadline for deleting the session, because the client waits for this process to exit.
const DELETE_TIMEOUT: Duration = Duration::from_secs(2);

pub struct Upstream {
    account: Account,
    prompt: Prompt,
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
    pub fn new(account: Account, prompt: Prompt, output: mpsc::Sender<String>) -> Self {
        let (session, handshake) = (Mutex::default(), tokio::sync::Mutex::default());
        Self { account, prompt, output, session, handshake }
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
            match self.events(&session, last_id.as_deref(), &mut rejected).await {
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
        let delete = async {
            // A refresh could exceed the deadline.
            let Some(tokens) = self.account.fresh_tokens(None)? else { return Ok(None) };
            let request = self.request(Method::DELETE, &session, &tokens.access_token)?;
            Ok::<_, BridgeError>(Some(self.account.http.open(request, "").await?.status()))
        };
        let result = timeout(DELETE_TIMEOUT, delete).await;
        tracing::debug!(?result, "sent the DELETE request of the session");
    }

    async fn exchange(&self, message: &Message, pending: &mut Pending) -> Result<()> {
        let mut session = self.session().clone();
        let mut response = self.post(message, &session).await?;
        if response.status() == StatusCode::NOT_FOUND && session.headers.contains_key(SESSION_ID) {
            session = self.reinitialize(session.generation).await?;
            response = self.post(message, &session).await?;
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
                let response = self.post(message, &session).await?;
                self.receive(response, &session, &mut pending).await?;
            }
        }
        Ok(self.session().clone())
    }

    async fn start_session(&self, message: &Message, pending: &mut Pending) -> Result<()> {
        let mut session = Session::default();
        let response = self.post(message, &session).await?;
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

    /// Returns when the response head has arrived. After 401, refreshes the token once, then logs in again once.
    async fn post(&self, message: &Message, session: &Session) -> Result<Response<Incoming>> {
        // A user is prompted only if the client waits for a result.
        let is_awaited = !message.ids.is_empty() || message.is_initialized();
        let prompt = if is_awaited { self.prompt } else { Prompt::Never };
        let mut rejected = None;
        for attempt in 0..3 {
            let tokens = match attempt {
                0 | 1 => self.account.tokens(rejected.as_ref(), prompt).await?,
                _ => self.account.new_tokens(rejected.as_ref(), prompt).await?,
            };
            let mut request = self
                .request(Method::POST, session, &tokens.access_token)?
                .header(CONTENT_TYPE, "application/json")
                .header(ACCEPT, "application/json, text/event-stream");
            if let Some(headers) = request.headers_mut() {
                headers.extend(message.headers.clone());
            }
            let response = self.account.http.open(request, message.text.clone()).await?;
            if response.status() != StatusCode::UNAUTHORIZED {
                return Ok(response);
            }
            rejected = Some(tokens.access_token);
        }
        Err(BridgeError::TokenRejected)
    }

    /// Opens the standalone stream, or the stream of the event with this id.
    async fn events(&self, session: &Session, id: Option<&str>, rejected: &mut Option<AccessToken>) -> Result<Events> {
        let tokens = self.account.tokens(rejected.as_ref(), Prompt::Never).await?;
        let mut request = self.request(Method::GET, session, &tokens.access_token)?.header(ACCEPT, EVENT_STREAM);
        if let Some(id) = id {
            request = request.header(LAST_EVENT_ID, id);
        }
        let response = self.account.http.open(request, "").await?;
        match response.status() {
            StatusCode::OK if has_media_type(response.headers(), EVENT_STREAM) => Ok(Events::new(response.into_body())),
            StatusCode::OK => Err(self.status_error(StatusCode::METHOD_NOT_ALLOWED, Bytes::new())),
            StatusCode::UNAUTHORIZED => {
                *rejected = Some(tokens.access_token);
                Err(BridgeError::TokenRejected)
            }
            status => Err(self.status_error(status, Bytes::new())),
        }
    }

    /// Forwards the messages in a response until no request is pending.
    async fn receive(&self, response: Response<Incoming>, session: &Session, pending: &mut Pending) -> Result<()> {
        let status = response.status();
        if status.is_success() && has_media_type(response.headers(), EVENT_STREAM) {
            return self.receive_events(Events::new(response.into_body()), session, pending).await;
        }
        let host = self.account.url.host_str().unwrap_or_default();
        let body = read_body(response.into_body(), host, MAX_MESSAGE).await?;
        if !status.is_success() {
            return Err(self.status_error(status, body));
        }
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
            match self.events(session, Some(id), &mut rejected).await {
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

    fn request(&self, method: Method, session: &Session, token: &AccessToken) -> Result<Builder> {
        let mut request =
            Request::builder().method(method).uri(self.account.url.as_str()).header(AUTHORIZATION, bearer(token)?);
        if let Some(headers) = request.headers_mut() {
            headers.extend(session.headers.clone());
        }
        Ok(request)
    }

    fn status_error(&self, status: StatusCode, body: Bytes) -> BridgeError {
        let text = printable(&String::from_utf8_lossy(&body));
        BridgeError::Status { url: self.account.url.to_string(), status, text, body }
    }

    fn session(&self) -> MutexGuard<'_, Session> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
