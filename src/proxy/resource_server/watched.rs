use std::{
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use thiserror::Error;

use super::deadline::Deadline;
use crate::proxy::sessions::LiveSession;

/// What an answer of the upstream depends on while it is passed on. What is known of it is at most one tick old.
#[derive(Debug)]
pub struct Watched {
    waiting: Deadline,
    session: Arc<LiveSession>,
    until: i64,
    idle: Duration,
}

/// Why an answer may not go on.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum Cut {
    /// Its session is over.
    #[error("the session has ended")]
    Session,
    /// The access token that asked for it has been over for `tokens.streamGrace`.
    #[error("the access token is over")]
    Token,
    /// The upstream has said nothing for too long.
    #[error("the upstream does not go on")]
    Silent,
    /// This process ends.
    #[error("the proxy ends")]
    Leaving,
}

impl Watched {
    /// An answer to a request of `session`, whose token lets it go on `until` so many seconds since 1970. The upstream may
    /// say nothing for `idle`. `waiting` is what the head of the answer was waited for with, and watches the session.
    pub fn new(mut waiting: Deadline, session: Arc<LiveSession>, until: u64, idle: Duration) -> Self {
        let until = i64::try_from(until).unwrap_or(i64::MAX);
        waiting.restart(idle);
        Self { waiting, session, until, idle }
    }

    /// Whether it may not go on.
    pub fn cut(&self) -> Option<Cut> {
        let now = self.waiting.all().time();
        if !self.session.admits(now) {
            Some(Cut::Session)
        } else if now.as_second() >= self.until {
            Some(Cut::Token)
        } else if self.waiting.all().is_closed() {
            Some(Cut::Leaving)
        } else {
            None
        }
    }

    /// Lets another deadline wake the task, too, when the session or the token is over.
    pub fn wake_with(&self, deadline: &mut Deadline) {
        deadline.watch(self.session.clone(), self.until);
    }

    /// The upstream has said something.
    pub fn heard(&mut self) {
        self.waiting.restart(self.idle);
    }

    /// Ready when it may not go on; otherwise the task is woken when that is so.
    pub fn poll_cut(&mut self, cx: &Context<'_>) -> Poll<Cut> {
        if let Some(cut) = self.cut() {
            return Poll::Ready(cut);
        }
        ready!(self.waiting.poll(self.idle, cx));
        Poll::Ready(Cut::Silent)
    }
}

#[cfg(test)]
mod tests {
    use std::{rc::Rc, task::Waker};

    use jiff::Timestamp;

    use super::super::{Deadlines, testing::Wakes};
    use super::*;
    use crate::{
        api::SessionPhase,
        proxy::sessions::{LiveSet, SessionEvent},
        session::{Session, tests::session},
    };

    #[test]
    fn stalled_response_is_woken_when_its_session_ends() {
        let (live, now) = (LiveSet::default(), Timestamp::from_second(1000).unwrap());
        let session = Session { phase: SessionPhase::Active, expires_at: Timestamp::MAX, ..session("a") };
        live.apply(SessionEvent::Is(session.clone()));
        let (all, woken, hour) = (Rc::new(Deadlines::new(now)), Arc::new(Wakes::default()), Duration::from_secs(3600));
        let (waker, mut for_the_client) = (Waker::from(woken.clone()), Deadline::new(all.clone()));
        // As when the head of the answer was there at once, and all of its content since.
        let watched = Watched::new(Deadline::new(all.clone()), live.get(&session.id).unwrap(), 2000, hour);
        assert_eq!(for_the_client.poll(hour, &Context::from_waker(&waker)), Poll::Pending);
        watched.wake_with(&mut for_the_client);
        all.tick(now);
        assert_eq!((woken.count(), watched.cut()), (0, None));
        live.apply(SessionEvent::Ended(session.id));
        all.tick(now);
        assert_eq!((woken.count(), watched.cut()), (1, Some(Cut::Session)));
    }
}
