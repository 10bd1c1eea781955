//! `login --bridge`: the MCP server behind the login as one on standard input and output, for programs that can only start
//! servers. Messages are passed on as they are, whatever version of MCP they speak.

mod events;
mod message;
mod output;
#[cfg(test)]
mod tests;
mod upstream;

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use http::StatusCode;
use thiserror::Error;
use tokio::{
    sync::mpsc,
    task::{AbortHandle, JoinSet},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    LoginError,
    account::{Account, Otherwise},
    http::HttpError,
    input,
};
use message::Message;
use output::Output;
use upstream::Upstream;

/// The largest message that is passed on, in bytes.
const MAX_MESSAGE: usize = 64 * 1024 * 1024;

/// How long requests may take to their end when the input has ended.
const DRAIN: Duration = Duration::from_secs(30);

/// Why a message was not delivered; for requests this is the answer.
#[derive(Debug, Error)]
enum BridgeError {
    #[error(transparent)]
    Login(#[from] LoginError),
    #[error(transparent)]
    Http(#[from] HttpError),
    #[error("the request cannot be made: {0}")]
    Request(#[from] http::Error),
    #[error("the server refuses a token that was just renewed: run `mcp-oauth-operator login` and see what it says")]
    TokenRefused,
    #[error("{url} answered {status}{}{words}", if .words.is_empty() { "" } else { ": " })]
    Status { url: String, status: StatusCode, words: String, body: Bytes },
    #[error("the server has lost the session, and does not begin a new one: connect again")]
    Lost,
    #[error("the server's answer broke off: try again")]
    BrokenOff,
    #[error("the server took the request, but did not answer it")]
    NoAnswer,
    #[error("the server's answer is not a JSON-RPC message: is this the URL of an MCP endpoint?")]
    NotJsonRpc,
    #[error("the server's answer is larger than {} MiB", MAX_MESSAGE / 1024 / 1024)]
    TooLarge,
}

/// Passes messages on until the input ends, nobody reads the output, or `shutdown` comes.
pub async fn run(account: Account, otherwise: Otherwise, shutdown: CancellationToken) {
    let (sender, output) = Output::start();
    serve(account, otherwise, input::lines(), sender, shutdown).await;
    output.finish().await;
}

async fn serve(
    account: Account,
    otherwise: Otherwise,
    mut lines: mpsc::Receiver<String>,
    output: mpsc::Sender<String>,
    shutdown: CancellationToken,
) {
    let upstream = Arc::new(Upstream::new(account, otherwise, output.clone()));
    let mut waiting = VecDeque::new();
    let mut under_way = JoinSet::new();
    let mut listening: Option<AbortHandle> = None;
    // What begins a session goes alone: a server may refuse what comes before it is over.
    let mut alone = false;
    let mut end: Option<Instant> = None;
    loop {
        while !alone && let Some(message) = waiting.pop_front() {
            alone = Message::initializes(&message) || message.is_initialized();
            let (upstream, was_alone) = (upstream.clone(), alone);
            under_way.spawn(async move {
                upstream.deliver(&message).await;
                (was_alone, message.is_initialized())
            });
        }
        if end.is_some() && under_way.is_empty() {
            break;
        }
        tokio::select! {
            line = lines.recv(), if end.is_none() => match line.map(Message::read) {
                Some(Some(message)) => waiting.push_back(message),
                Some(None) => {
                    let _ = output.send(message::parse_error()).await;
                }
                None => end = Some(Instant::now() + DRAIN),
            },
            Some(done) = under_way.join_next() => {
                // Nothing ends without a result but what has panicked.
                let (was_alone, initialized) = done.unwrap_or((true, false));
                alone &= !was_alone;
                if initialized && listening.is_none() {
                    let upstream = upstream.clone();
                    listening = Some(tokio::spawn(async move { upstream.listen().await }).abort_handle());
                }
            }
            () = sleep_until(end.unwrap_or_else(Instant::now)), if end.is_some() => break,
            () = output.closed() => break,
            () = shutdown.cancelled() => break,
        }
    }
    under_way.shutdown().await;
    if let Some(listening) = listening {
        listening.abort();
    }
    upstream.end().await;
}
