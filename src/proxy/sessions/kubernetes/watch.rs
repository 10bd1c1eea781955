use std::time::{Duration, Instant};

use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use kube::{
    ResourceExt,
    runtime::{WatchStreamExt, utils::Backoff, watcher},
};

use super::{KubernetesStore, PAGE};
use crate::{api::McpOAuthSession, proxy::sessions::SessionEvent, session::Session};

/// Seconds until a watch is renewed, so that a silently dropped connection is noticed.
const WATCH_SECONDS: u32 = 10;

/// Delay before a failed watch is restarted. Short, because ended sessions stay live here until then.
const WATCH_RETRY_DELAY: Duration = Duration::from_secs(1);

/// Minimum interval between lists after failed watches: a list of 10,000 sessions is 15 MB.
const MIN_RELIST_INTERVAL: Duration = Duration::from_secs(5);

/// Restarts a watch after the same delay each time.
struct ConstantBackoff;

impl Iterator for ConstantBackoff {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(WATCH_RETRY_DELAY)
    }
}

impl Backoff for ConstantBackoff {
    fn reset(&mut self) {}
}

pub fn watch(store: KubernetesStore) -> BoxStream<'static, SessionEvent> {
    let watch = Watch { objects: objects(&store), listed: Vec::new(), last_list: Instant::now(), store };
    stream::unfold(watch, |mut watch| async move { watch.next().await.map(|event| (event, watch)) }).boxed()
}

/// The events of a list and of the watch that follows it, including errors.
fn objects(store: &KubernetesStore) -> BoxStream<'static, watcher::Result<watcher::Event<McpOAuthSession>>> {
    let config = watcher::Config::default()
        .fields(&format!("spec.proxy={}", store.owner.name_any()))
        .timeout(WATCH_SECONDS)
        .page_size(PAGE);
    watcher(store.watched.clone(), config).backoff(ConstantBackoff).boxed()
}

struct Watch {
    objects: BoxStream<'static, watcher::Result<watcher::Event<McpOAuthSession>>>,
    /// Sessions of the incomplete list.
    listed: Vec<Session>,
    /// Time of the last complete list.
    last_list: Instant,
    store: KubernetesStore,
}

impl Watch {
    /// The next event. `None` would be the end of the stream, which does not end.
    async fn next(&mut self) -> Option<SessionEvent> {
        loop {
            match self.objects.next().await? {
                Ok(watcher::Event::Init) => self.listed.clear(),
                Ok(watcher::Event::InitApply(object)) => {
                    self.listed.extend(self.store.decode(&object).and_then(|(_, session)| session));
                }
                Ok(watcher::Event::InitDone) => {
                    self.last_list = Instant::now();
                    return Some(SessionEvent::All(std::mem::take(&mut self.listed)));
                }
                Ok(watcher::Event::Apply(object)) => {
                    if let Some((id, session)) = self.store.decode(&object) {
                        return Some(session.map_or(SessionEvent::Ended(id), SessionEvent::Is));
                    }
                }
                Ok(watcher::Event::Delete(object)) => {
                    if let Some((id, _)) = self.store.decode(&object) {
                        return Some(SessionEvent::Ended(id));
                    }
                }
                Err(error) => {
                    tracing::warn!(error = brief(&error), "session watch failed, retrying");
                    // The next watch may stall as well; a list shows ended sessions in any case.
                    let lists = matches!(error, watcher::Error::InitialListFailed(_));
                    if !lists && self.last_list.elapsed() >= MIN_RELIST_INTERVAL {
                        self.objects = objects(&self.store);
                    }
                }
            }
        }
    }
}

/// The API server's message alone: kube prints the whole response, twice.
fn brief(error: &watcher::Error) -> String {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status))
        | watcher::Error::WatchError(status) => status.message.clone(),
        other => other.to_string(),
    }
}
