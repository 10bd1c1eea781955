//! `login --bridge`: the MCP server on standard input and output, for clients that can only start local servers. Messages
//! are sent unchanged in every version of MCP.

mod events;
mod message;
mod output;
mod server;
#[cfg(test)]
mod tests;
mod upstream;

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use http::StatusCode;
use serde_json::Value;
use thiserror::Error;
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{
    LoginError,
    account::{Account, Prompt},
    http::HttpError,
    input,
};
use message::{Message, PARSE_ERROR};
use server::McpServer;
use upstream::Upstream;

/// Size limit of a message, in bytes.
const MAX_MESSAGE: usize = 64 * 1024 * 1024;

/// Deadline of the requests in flight after the input has closed.
const DRAIN: Duration = Duration::from_secs(30);

/// Deadline for writing the last lines.
const FLUSH: Duration = Duration::from_secs(2);

type Result<T> = std::result::Result<T, BridgeError>;

/// Becomes the JSON-RPC error of the requests in the message.
#[derive(Debug, Error)]
enum BridgeError {
    #[error(transparent)]
    Login(#[from] LoginError),
    #[error(transparent)]
    Http(#[from] HttpError),
    #[error("the server rejects a token that was just issued: run `mcp-oauth-operator login` for details")]
    TokenRejected,
    #[error("{url} responded {status}{}{text}", if .text.is_empty() { "" } else { ": " })]
    Status { url: String, status: StatusCode, text: String, body: Bytes },
    #[error("the server has lost the session and does not start a new one: connect again")]
    SessionLost,
    #[error("the server's response is incomplete: try again")]
    Incomplete,
    #[error("the server accepted the request but sent no response")]
    NoResponse,
    #[error("the server's response is not a JSON-RPC message: is this the URL of an MCP endpoint?")]
    NotJsonRpc,
    #[error("the server's response is larger than {} MiB", MAX_MESSAGE / 1024 / 1024)]
    TooLarge,
}

/// Runs until the input or output closes, or `shutdown` is cancelled.
pub async fn run(account: Account, prompt: Prompt, shutdown: CancellationToken) {
    let (sender, finished) = output::start();
    serve(account, prompt, input::lines(), sender, shutdown).await;
    let _ = timeout(FLUSH, finished).await;
}

async fn serve(
    account: Account,
    prompt: Prompt,
    mut lines: mpsc::Receiver<String>,
    output: mpsc::Sender<String>,
    shutdown: CancellationToken,
) {
    let upstream = Arc::new(Upstream::new(McpServer::new(account, prompt), output.clone()));
    let (mut queue, mut in_flight) = (VecDeque::<Message>::new(), JoinSet::new());
    let mut event_stream = None;
    // Handshake messages are sent alone: a server may reject requests before the session is initialized.
    let mut in_handshake = false;
    let mut deadline = None;
    loop {
        while !in_handshake && let Some(message) = queue.pop_front() {
            let is_handshake = message.is_initialize() || message.is_initialized();
            in_handshake = is_handshake;
            let upstream = upstream.clone();
            in_flight.spawn(async move {
                upstream.deliver(&message).await;
                (is_handshake, message.is_initialized())
            });
        }
        if deadline.is_some() && in_flight.is_empty() {
            break;
        }
        tokio::select! {
            line = lines.recv(), if deadline.is_none() => match line.map(Message::parse) {
                Some(Some(message)) => queue.push_back(message),
                Some(None) => {
                    let error = message::error(&Value::Null, PARSE_ERROR, "this line is not a JSON-RPC message");
                    let _ = output.send(error).await;
                }
                None => deadline = Some(Instant::now() + DRAIN),
            },
            Some(done) = in_flight.join_next() => {
                // A task fails only by a panic.
                let (is_handshake, is_initialized) = done.unwrap_or((true, false));
                in_handshake &= !is_handshake;
                if is_initialized && event_stream.is_none() {
                    let upstream = upstream.clone();
                    event_stream = Some(AbortOnDropHandle::new(tokio::spawn(async move { upstream.listen().await })));
                }
            }
            () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => break,
            () = output.closed() => break,
            () = shutdown.cancelled() => break,
        }
    }
    in_flight.shutdown().await;
    drop(event_stream);
    upstream.delete_session().await;
}
