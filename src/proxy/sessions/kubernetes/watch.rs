use std::time::{Duration, Instant};

use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use kube::runtime::{WatchStreamExt, utils::Backoff, watcher};

use super::{KubernetesStore, PAGE, read};
use crate::{api::McpOAuthSession, proxy::sessions::SessionEvent, session::Session};

/// How long a watch lasts before it is renewed, in seconds, so that one that was cut without a word is noticed.
const WATCH_SECONDS: u32 = 10;

/// How soon a watch that broke is begun again: soon, because until then ended sessions go on living here.
const WATCH_AGAIN: Duration = Duration::from_secs(1);

/// A watch that breaks is followed by a list, unless the last list is more recent than this: ten thousand sessions are 15 MB.
const LIST_AGAIN: Duration = Duration::from_secs(5);

/// Begins a watch again after the same time, however often it broke.
struct Again;

impl Iterator for Again {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(WATCH_AGAIN)
    }
}

impl Backoff for Again {
    fn reset(&mut self) {}
}

/// What happens to the sessions of a store, for ever.
pub fn watch(store: KubernetesStore) -> BoxStream<'static, SessionEvent> {
    let watch = Watch { objects: objects(&store), listed: Vec::new(), complete: Instant::now(), store };
    stream::unfold(watch, |mut watch| async move {
        loop {
            if let Some(event) = watch.read_next().await? {
                return Some((event, watch));
            }
        }
    })
    .boxed()
}

/// A list and then a watch, whose events come one by one, errors among them.
fn objects(store: &KubernetesStore) -> BoxStream<'static, watcher::Result<watcher::Event<McpOAuthSession>>> {
    let config = watcher::Config::default()
        .fields(&format!("spec.proxy={}", store.owner.name))
        .timeout(WATCH_SECONDS)
        .page_size(PAGE);
    watcher(store.watched.clone(), config).backoff(Again).boxed()
}

struct Watch {
    objects: BoxStream<'static, watcher::Result<watcher::Event<McpOAuthSession>>>,
    /// The sessions of a list that is not complete yet.
    listed: Vec<Session>,
    /// When the last complete list was.
    complete: Instant,
    store: KubernetesStore,
}

impl Watch {
    /// What the next event says, if it says something; `None` at the end, which does not come.
    async fn read_next(&mut self) -> Option<Option<SessionEvent>> {
        let KubernetesStore { keys, owner, .. } = &self.store;
        Some(match self.objects.next().await? {
            Ok(watcher::Event::Init) => {
                self.listed.clear();
                None
            }
            Ok(watcher::Event::InitApply(object)) => {
                self.listed.extend(read(keys, owner, &object).and_then(|(_, session)| session));
                None
            }
            Ok(watcher::Event::InitDone) => {
                self.complete = Instant::now();
                Some(SessionEvent::All(std::mem::take(&mut self.listed)))
            }
            Ok(watcher::Event::Apply(object)) => read(keys, owner, &object)
                .map(|(id, session)| session.map_or(SessionEvent::Ended(id), SessionEvent::Is)),
            Ok(watcher::Event::Delete(object)) => read(keys, owner, &object).map(|(id, _)| SessionEvent::Ended(id)),
            Err(error) => {
                let reason = brief(&error);
                tracing::warn!(error = reason, "the watch of sessions broke off and is begun again");
                // Whatever holds one watch up may hold up the next; a list shows what has ended all the same.
                let lists = matches!(error, watcher::Error::InitialListFailed(_));
                if !lists && self.complete.elapsed() >= LIST_AGAIN {
                    self.objects = objects(&self.store);
                }
                None
            }
        })
    }
}

/// What the API server said; kube prints its whole answer, twice.
fn brief(error: &watcher::Error) -> String {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status))
        | watcher::Error::WatchError(status) => status.message.clone(),
        other => other.to_string(),
    }
}
