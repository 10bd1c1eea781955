//! The MCP server (Streamable HTTP): one session with it in MCP 2025-03-26 to 2025-11-25; from 2026-07-28 on there is none.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderName, HeaderValue, Method, Request, Response, StatusCode,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE},
};
use http_body_util::Full;
use hyper::body::Incoming;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};

use super::{
    BridgeError, MAX_MESSAGE,
    events::{Events, RETRY},
    message::{self, Answer, Message, Repeated},
};
use crate::login::{
    account::{Account, Otherwise},
    http::{bearer, whole},
    tokens::said,
};
use crate::media_type::has_media_type;

const SESSION_ID: HeaderName = HeaderName::from_static("mcp-session-id");
const PROTOCOL_VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
const METHOD: HeaderName = HeaderName::from_static("mcp-method");
const NAME: HeaderName = HeaderName::from_static("mcp-name");
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
const EVENT_STREAM: &str = "text/event-stream";

/// How long a stream is read on after its answer has come: then the connection can be used again.
const LINGER: Duration = Duration::from_secs(1);

/// How often in a row a stream is taken up again that brings nothing.
const ATTEMPTS: u32 = 5;

/// The longest pause before the server is asked again for its own messages.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How long the end of a session may take: the program that has started us is waiting.
const END: Duration = Duration::from_secs(2);

/// The server, and what it knows us by.
pub struct Upstream {
    account: Account,
    otherwise: Otherwise,
    output: mpsc::Sender<String>,
    session: Mutex<Session>,
    /// How the session began, to begin it anew when the server has lost it.
    beginning: tokio::sync::Mutex<Vec<Message>>,
}

/// What the server gave at `initialize`.
#[derive(Clone, Debug, Default)]
struct Session {
    number: u64,
    id: Option<HeaderValue>,
    version: Option<HeaderValue>,
}

impl Upstream {
    /// The server of an account; what it says goes to `output`, a line for each message.
    pub fn new(account: Account, otherwise: Otherwise, output: mpsc::Sender<String>) -> Self {
        let (session, beginning) = (Mutex::default(), tokio::sync::Mutex::default());
        Self { account, otherwise, output, session, beginning }
    }

    /// Sends a message, and passes on what comes back. Whatever goes wrong is the answer to the requests in it.
    pub async fn deliver(&self, message: &Message) {
        let mut unanswered = message.ids.clone();
        let result = if message.initializes() {
            self.initialize(message, &mut unanswered).await
        } else {
            self.exchange(message, &mut unanswered).await
        };
        if message.is_initialized() && result.is_ok() {
            self.beginning.lock().await.push(message.clone());
        }
        let Err(error) = result else { return };
        tracing::warn!(%error, method = message.method.as_deref().unwrap_or_default(), "not delivered");
        for id in unanswered {
            let line = match &error {
                BridgeError::Status { body, .. } => message::error_of(body, &id),
                _ => None,
            };
            self.say(line.unwrap_or_else(|| message::error(&id, &error.to_string()))).await;
        }
    }

    /// Passes on what the server says of its own accord, for as long as it does. It is nobody's request, so nobody is asked
    /// to log in for it.
    pub async fn listen(&self) {
        let (mut last_id, mut pause, mut refused) = (None, RETRY, None);
        let mut number = self.session().number;
        loop {
            let session = self.session().clone();
            if session.number != number {
                (number, last_id) = (session.number, None);
            }
            match self.events(&session, last_id.as_deref(), &mut refused).await {
                Ok(mut events) => {
                    let begun = Instant::now();
                    while let Ok(Some(event)) = events.next().await {
                        last_id = event.id.or(last_id);
                        if !event.data.is_empty() && self.pass(&event.data, &mut Vec::new(), true).await.is_err() {
                            tracing::warn!("the server sends events that are not JSON-RPC messages");
                        }
                    }
                    // A server that ends streams at once is not asked all the time.
                    if begun.elapsed() > pause {
                        pause = events.retry();
                    }
                }
                // It has nothing to say, which it may.
                Err(BridgeError::Status { status, .. })
                    if status.is_client_error()
                        && ![StatusCode::TOO_MANY_REQUESTS, StatusCode::NOT_FOUND].contains(&status) =>
                {
                    tracing::debug!(%status, "the server offers no stream of its own");
                    return;
                }
                Err(BridgeError::Status { status: StatusCode::NOT_FOUND, .. }) if session.id.is_none() => return,
                Err(error) => tracing::debug!(%error, "no stream of the server"),
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Ends the session.
    pub async fn end(&self) {
        let session = self.session().clone();
        if session.id.is_none() {
            return;
        }
        let ending = async {
            // Nothing is renewed for this: there is no time to wait for it.
            let Some(tokens) = self.account.live(None)? else { return Ok(StatusCode::UNAUTHORIZED) };
            let request = self.request(Method::DELETE, &session, &tokens.access_token)?;
            Ok::<_, BridgeError>(self.account.http.open(request.body(Full::default())?).await?.status())
        };
        match timeout(END, ending).await {
            Ok(Ok(status)) => tracing::debug!(%status, "session ended"),
            Ok(Err(error)) => tracing::debug!(%error, "session not ended"),
            Err(_) => tracing::debug!("session not ended in time"),
        }
    }

    async fn exchange(&self, message: &Message, unanswered: &mut Vec<Value>) -> Result<(), BridgeError> {
        let mut session = self.session().clone();
        let mut answer = self.post(message, &session).await?;
        if answer.status() == StatusCode::NOT_FOUND && session.id.is_some() {
            session = self.begin_anew(session.number).await?;
            answer = self.post(message, &session).await?;
        }
        self.receive(answer, &session, unanswered, true).await.map(drop)
    }

    async fn initialize(&self, message: &Message, unanswered: &mut Vec<Value>) -> Result<(), BridgeError> {
        let mut beginning = self.beginning.lock().await;
        self.begin(message, unanswered, true).await?;
        *beginning = vec![message.clone()];
        Ok(())
    }

    /// Begins the session that the server has lost, unless another request has done so meanwhile. The program on our input
    /// notices nothing: what it subscribed to before is gone, which is all that a server keeps.
    async fn begin_anew(&self, lost: u64) -> Result<Session, BridgeError> {
        let beginning = self.beginning.lock().await;
        if self.session().number == lost {
            let (first, rest) = beginning.split_first().ok_or(BridgeError::Lost)?;
            tracing::info!("the server lost the session: initializing a new one");
            self.begin(first, &mut first.ids.clone(), false).await?;
            for message in rest {
                let session = self.session().clone();
                let answer = self.post(message, &session).await?;
                self.receive(answer, &session, &mut Vec::new(), false).await?;
            }
        }
        Ok(self.session().clone())
    }

    async fn begin(&self, message: &Message, unanswered: &mut Vec<Value>, show: bool) -> Result<(), BridgeError> {
        let nothing = Session::default();
        let answer = self.post(message, &nothing).await?;
        let id = answer.headers().get(SESSION_ID).cloned();
        let during = Session { id: id.clone(), ..nothing };
        let answers = self.receive(answer, &during, unanswered, show).await?;
        let version = answers.into_iter().find_map(|answer| answer.protocol_version);
        // An error of the server is passed on, but begins nothing.
        if version.is_none() && !show {
            return Err(BridgeError::Lost);
        }
        let mut session = self.session();
        *session = Session {
            number: session.number + 1,
            id,
            version: version.and_then(|version| HeaderValue::try_from(version).ok()),
        };
        Ok(())
    }

    /// The head of the answer to a message, after logging in anew if need be.
    async fn post(&self, message: &Message, session: &Session) -> Result<Response<Incoming>, BridgeError> {
        // A person is asked for what they wait for.
        let waits = !message.ids.is_empty() || message.is_initialized();
        let otherwise = if waits { self.otherwise } else { Otherwise::Fail };
        let (mut refused, mut refusals): (Option<SecretString>, _) = (None, 0);
        loop {
            let tokens = match refusals {
                0 | 1 => self.account.token(refused.as_ref(), otherwise).await?,
                _ => self.account.anew(refused.as_ref(), otherwise).await?,
            };
            let mut request = self
                .request(Method::POST, session, &tokens.access_token)?
                .header(CONTENT_TYPE, "application/json")
                .header(ACCEPT, "application/json, text/event-stream")
                .body(Full::from(message.text.clone()))?;
            if let Some(Repeated { version, method, name }) = message.repeated.clone() {
                let headers = request.headers_mut();
                headers.insert(PROTOCOL_VERSION, version);
                headers.insert(METHOD, method);
                name.and_then(|name| headers.insert(NAME, name));
            }
            let answer = self.account.http.open(request).await?;
            match answer.status() {
                // As it was kept, renewed, and of a new login.
                StatusCode::UNAUTHORIZED if refusals < 2 => {
                    refusals += 1;
                    refused = Some(tokens.access_token);
                }
                StatusCode::UNAUTHORIZED => return Err(BridgeError::TokenRefused),
                _ => return Ok(answer),
            }
        }
    }

    /// A stream of events after the one with this id, or of what the server says of its own accord.
    async fn events(
        &self,
        session: &Session,
        last_id: Option<&str>,
        refused: &mut Option<SecretString>,
    ) -> Result<Events, BridgeError> {
        let tokens = self.account.token(refused.as_ref(), Otherwise::Fail).await?;
        let mut request = self.request(Method::GET, session, &tokens.access_token)?.header(ACCEPT, EVENT_STREAM);
        if let Some(id) = last_id {
            request = request.header(LAST_EVENT_ID, id);
        }
        let answer = self.account.http.open(request.body(Full::default())?).await?;
        match answer.status() {
            StatusCode::OK if is_stream(&answer) => Ok(Events::new(answer.into_body())),
            StatusCode::UNAUTHORIZED => {
                *refused = Some(tokens.access_token);
                Err(BridgeError::TokenRefused)
            }
            // What is not a stream is as good as none.
            StatusCode::OK => Err(self.status(StatusCode::METHOD_NOT_ALLOWED, Bytes::new())),
            status => Err(self.status(status, Bytes::new())),
        }
    }

    /// Passes on what an answer holds (`show`: answers too), until all that is unanswered has its answer.
    async fn receive(
        &self,
        answer: Response<Incoming>,
        session: &Session,
        unanswered: &mut Vec<Value>,
        show: bool,
    ) -> Result<Vec<Answer>, BridgeError> {
        let (status, host) = (answer.status(), self.account.url.host_str().unwrap_or_default());
        if status.is_success() && is_stream(&answer) {
            return self.receive_events(Events::new(answer.into_body()), session, unanswered, show).await;
        }
        let body = whole(answer.into_body(), host, MAX_MESSAGE).await?;
        if !status.is_success() {
            return Err(self.status(status, body));
        }
        if unanswered.is_empty() {
            // 202, with no body that means anything.
            return Ok(Vec::new());
        }
        if body.is_empty() {
            return Err(BridgeError::NoAnswer);
        }
        let text = std::str::from_utf8(&body).map_err(|_| BridgeError::NotJsonRpc)?;
        let answers = self.pass(text, unanswered, show).await?;
        if unanswered.is_empty() { Ok(answers) } else { Err(BridgeError::NoAnswer) }
    }

    async fn receive_events(
        &self,
        mut events: Events,
        session: &Session,
        unanswered: &mut Vec<Value>,
        show: bool,
    ) -> Result<Vec<Answer>, BridgeError> {
        let (mut answers, mut last_id, mut attempts, mut refused) = (Vec::new(), None, 0, None);
        loop {
            let next = if unanswered.is_empty() {
                timeout(LINGER, events.next()).await.unwrap_or(Ok(None))
            } else {
                events.next().await
            };
            if let Some(event) = next? {
                attempts = 0;
                last_id = event.id.or(last_id);
                if !event.data.is_empty() {
                    answers.extend(self.pass(&event.data, unanswered, show).await?);
                }
                continue;
            }
            if unanswered.is_empty() {
                return Ok(answers);
            }
            // A server may end a stream at any time if it has said how to go on (MCP 2025-11-25, resumability).
            let Some(id) = &last_id else { return Err(BridgeError::BrokenOff) };
            attempts += 1;
            if attempts > ATTEMPTS {
                return Err(BridgeError::BrokenOff);
            }
            sleep(events.retry()).await;
            match self.events(session, Some(id), &mut refused).await {
                Ok(again) => events = again,
                Err(error @ BridgeError::Status { .. }) => return Err(error),
                Err(error) => tracing::debug!(%error, "the stream cannot be resumed"),
            }
        }
    }

    /// Passes on a message of the server; the answers in it are no longer awaited.
    async fn pass(&self, text: &str, unanswered: &mut Vec<Value>, show: bool) -> Result<Vec<Answer>, BridgeError> {
        let (line, answers) = message::from_server(text).ok_or(BridgeError::NotJsonRpc)?;
        unanswered.retain(|id| !answers.iter().any(|answer| answer.id == *id));
        if show || answers.is_empty() {
            self.say(line).await;
        }
        Ok(answers)
    }

    async fn say(&self, line: String) {
        // When nobody reads any more, everything ends.
        let _ = self.output.send(line).await;
    }

    fn request(
        &self,
        method: Method,
        session: &Session,
        token: &SecretString,
    ) -> Result<http::request::Builder, http::Error> {
        let mut request = Request::builder().method(method).uri(self.account.url.as_str());
        request = request.header(AUTHORIZATION, bearer(token.expose_secret())?);
        if let Some(id) = &session.id {
            request = request.header(SESSION_ID, id);
        }
        if let Some(version) = &session.version {
            request = request.header(PROTOCOL_VERSION, version);
        }
        Ok(request)
    }

    fn status(&self, status: StatusCode, body: Bytes) -> BridgeError {
        let words = said(&String::from_utf8_lossy(&body));
        BridgeError::Status { url: self.account.url.to_string(), status, words, body }
    }

    fn session(&self) -> MutexGuard<'_, Session> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_stream(answer: &Response<Incoming>) -> bool {
    has_media_type(answer.headers(), EVENT_STREAM)
}
