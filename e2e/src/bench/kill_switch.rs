//! P8: the time from the deletion of a session object to the first 401 and to the end of an open stream. S1: the cost
//! of ten thousand sessions.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures::{StreamExt, TryStreamExt, stream};
use kube::{
    Api,
    api::{DeleteParams, ListParams},
};
use mcp_oauth_operator::api::McpOAuthSession;
use reqwest::StatusCode;
use tokio::time::{sleep, timeout};

use super::{
    login::{self, Tokens},
    logins::USERS,
    measure::Latency,
};

/// The number of live sessions, which is a proxy's maximum.
pub const SESSIONS: usize = 10_000;

/// The number of sessions that are deleted, one after the other.
const DELETIONS: usize = 100;

/// The e-mail suffix of users whose sessions are deleted.
const EMAIL: &str = "deleted@example.com";

pub struct EndLatencies {
    pub rejected: Latency,
    pub closed: Latency,
}

/// Logs users in until there are [`SESSIONS`], including the `present` ones.
pub async fn create_sessions(proxy: &str, present: usize) -> Result<()> {
    let missing = SESSIONS.saturating_sub(present + DELETIONS);
    stream::iter(0..missing)
        .map(|number| async move { login::log_in(&login::client()?, proxy, &format!("live-{number}@example.com")).await })
        .buffer_unordered(USERS)
        .try_for_each(|_| async { Ok(()) })
        .await
}

/// Deletes sessions one by one while each has an open stream at `proxy`, whose upstream must respond with streams.
pub async fn measure_ends(proxy: &str, objects: &Api<McpOAuthSession>) -> Result<EndLatencies> {
    let (mut rejected, mut closed) = (Vec::new(), Vec::new());
    let client = &login::client()?;
    for number in 0..DELETIONS {
        let tokens = login::log_in(&login::client()?, proxy, &format!("{number}-{EMAIL}")).await?;
        let name = session_of(objects, &format!("{number}-{EMAIL}")).await?;
        let mut open = get(client, proxy, &tokens).await?;
        if open.status() != StatusCode::OK {
            bail!("opening a stream failed: {}", open.status());
        }
        open.chunk().await?.context("an empty stream")?;
        objects.delete(&name, &DeleteParams::default()).await?;
        let deleted = Instant::now();
        let end_of_stream = async {
            while let Ok(Some(_)) = open.chunk().await {}
            deleted.elapsed()
        };
        let first_refusal = async {
            while get(client, proxy, &tokens).await?.status() != StatusCode::UNAUTHORIZED {
                sleep(Duration::from_millis(1)).await;
            }
            anyhow::Ok(deleted.elapsed())
        };
        let both = timeout(Duration::from_secs(60), async { tokio::join!(end_of_stream, first_refusal) }).await;
        let (end, refusal) = both.context("a deleted session is still accepted after a minute")?;
        closed.push(end.as_secs_f64() * 1000.0);
        rejected.push(refusal?.as_secs_f64() * 1000.0);
    }
    Ok(EndLatencies { rejected: Latency::from_samples(rejected), closed: Latency::from_samples(closed) })
}

async fn session_of(objects: &Api<McpOAuthSession>, email: &str) -> Result<String> {
    let of_person = ListParams::default().fields(&format!("spec.user.email={email}"));
    let found = objects.list(&of_person).await?.items.into_iter().next().context("no session")?;
    found.metadata.name.context("a session without a name")
}

async fn get(client: &reqwest::Client, proxy: &str, tokens: &Tokens) -> Result<reqwest::Response> {
    let request = client.get(format!("{proxy}/mcp?idle")).header("accept", "text/event-stream");
    Ok(request.bearer_auth(&tokens.access).send().await?)
}
