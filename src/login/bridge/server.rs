//! The MCP server (Streamable HTTP): requests with the account's token.

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, Method, Request, Response, StatusCode,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE},
    request::Builder,
};
use hyper::body::Incoming;
use openidconnect::AccessToken;

use super::{BridgeError, MAX_MESSAGE, Result, events::Events, message::Message};
use crate::login::{
    account::{Account, Prompt},
    http::{bearer, read_body},
    tokens::printable,
};
use crate::media_type::has_media_type;

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
const EVENT_STREAM: &str = "text/event-stream";

/// The `headers` of its methods are those of the session.
pub struct McpServer {
    account: Account,
    prompt: Prompt,
}

impl McpServer {
    pub fn new(account: Account, prompt: Prompt) -> Self {
        Self { account, prompt }
    }

    /// Returns when the response head has arrived. After 401, refreshes the token once, then logs in again once.
    pub async fn post(&self, message: &Message, headers: &HeaderMap) -> Result<Response<Incoming>> {
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
                .request(Method::POST, headers, &tokens.access_token)?
                .header(CONTENT_TYPE, "application/json")
                .header(ACCEPT, "application/json, text/event-stream");
            if let Some(added) = request.headers_mut() {
                added.extend(message.headers.clone());
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
    pub async fn events(
        &self,
        headers: &HeaderMap,
        id: Option<&str>,
        rejected: &mut Option<AccessToken>,
    ) -> Result<Events> {
        let tokens = self.account.tokens(rejected.as_ref(), Prompt::Never).await?;
        let mut request = self.request(Method::GET, headers, &tokens.access_token)?.header(ACCEPT, EVENT_STREAM);
        if let Some(id) = id {
            request = request.header(LAST_EVENT_ID, id);
        }
        let response = self.account.http.open(request, "").await?;
        match response.status() {
            StatusCode::OK if is_event_stream(&response) => Ok(Events::new(response.into_body())),
            StatusCode::OK => Err(self.status_error(StatusCode::METHOD_NOT_ALLOWED, Bytes::new())),
            StatusCode::UNAUTHORIZED => {
                *rejected = Some(tokens.access_token);
                Err(BridgeError::TokenRejected)
            }
            status => Err(self.status_error(status, Bytes::new())),
        }
    }

    /// Deletes the session, unless that needs a refresh of the token, which could take long.
    pub async fn delete(&self, headers: &HeaderMap) -> Result<Option<StatusCode>> {
        let Some(tokens) = self.account.fresh_tokens(None)? else { return Ok(None) };
        let request = self.request(Method::DELETE, headers, &tokens.access_token)?;
        Ok(Some(self.account.http.open(request, "").await?.status()))
    }

    /// Reads a response. Fails unless its status is a success.
    pub async fn read(&self, response: Response<Incoming>) -> Result<Bytes> {
        let (status, host) = (response.status(), self.account.url.host_str().unwrap_or_default());
        let body = read_body(response.into_body(), host, MAX_MESSAGE).await?;
        if status.is_success() { Ok(body) } else { Err(self.status_error(status, body)) }
    }

    fn request(&self, method: Method, headers: &HeaderMap, token: &AccessToken) -> Result<Builder> {
        let mut request =
            Request::builder().method(method).uri(self.account.url.as_str()).header(AUTHORIZATION, bearer(token)?);
        if let Some(added) = request.headers_mut() {
            added.extend(headers.clone());
        }
        Ok(request)
    }

    fn status_error(&self, status: StatusCode, body: Bytes) -> BridgeError {
        let text = printable(&String::from_utf8_lossy(&body));
        BridgeError::Status { url: self.account.url.to_string(), status, text, body }
    }
}

pub fn is_event_stream(response: &Response<Incoming>) -> bool {
    has_media_type(response.headers(), EVENT_STREAM)
}
