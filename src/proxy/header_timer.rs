//! The time that clients have for the head of a request, counted without a timer a request.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use hyper::rt::{Sleep, Timer};

/// The timer of one connection. hyper begins a sleep whenever it waits for a request, and gives it up when that comes, which
/// is nearly always at once. Here all of them share one timer of the runtime, which runs on until it is due and is only then
/// set to what is being waited for.
#[derive(Clone, Debug, Default)]
pub struct HeaderTimer(Arc<Mutex<Option<Pin<Box<tokio::time::Sleep>>>>>);

/// One wait for a request.
struct Wait {
    timer: HeaderTimer,
    deadline: Instant,
}

impl Timer for HeaderTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(self.now() + duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        Box::pin(Wait { timer: self.clone(), deadline })
    }

    fn reset(&self, sleep: &mut Pin<Box<dyn Sleep>>, deadline: Instant) {
        *sleep = self.sleep_until(deadline);
    }

    fn now(&self) -> Instant {
        tokio::time::Instant::now().into_std()
    }
}

impl Sleep for Wait {}

impl Future for Wait {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut shared = self.timer.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Never later than ours: each wait of a connection begins after the one before.
        let sleep = shared.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(self.deadline.into())));
        loop {
            ready!(sleep.as_mut().poll(cx));
            if sleep.deadline() >= self.deadline.into() {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(self.deadline.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::poll;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn due(timer: &HeaderTimer) -> Instant {
        timer.0.lock().unwrap().as_ref().unwrap().deadline().into_std()
    }

    #[tokio::test]
    async fn a_wait_is_over_at_its_own_time_though_it_shares_the_timer_of_those_before() {
        let timer = HeaderTimer::default();
        let begun = timer.now();
        assert!(poll!(timer.sleep_until(begun - Duration::from_secs(1))).is_ready());
        // That one is over, and this one not.
        assert!(poll!(timer.sleep_until(begun + HOUR)).is_pending());
        assert_eq!(due(&timer), begun + HOUR);
        // Later ones leave the timer alone, until it is due.
        assert!(poll!(timer.sleep_until(begun + 2 * HOUR)).is_pending());
        assert_eq!(due(&timer), begun + HOUR);
    }
}
