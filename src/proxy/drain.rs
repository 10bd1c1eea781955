//! The end of a worker's connections.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};

/// Tells all connections of a worker to end. A look costs them next to nothing, where a `CancellationToken` takes locks
/// whenever a connection has something to do.
#[derive(Debug, Default)]
pub struct Drain {
    begun: Cell<bool>,
    connections: RefCell<HashMap<usize, Waker>>,
    next: Cell<usize>,
}

impl Drain {
    /// Ends them.
    pub fn begin(&self) {
        self.begun.set(true);
        self.connections.borrow_mut().drain().for_each(|(_, waker)| waker.wake());
    }

    /// `connection`, which is told once by `end` when it is to come to its end.
    pub async fn until<C: Future>(self: &Rc<Self>, connection: C, end: impl Fn(Pin<&mut C>)) -> C::Output {
        let mut watch = Watch { drain: self.clone(), number: None, is_told: false };
        let mut connection = std::pin::pin!(connection);
        std::future::poll_fn(|cx| {
            // A request that is there already is answered.
            let polled = connection.as_mut().poll(cx);
            if polled.is_pending() && watch.poll_begun(cx).is_ready() {
                end(connection.as_mut());
                return connection.as_mut().poll(cx);
            }
            polled
        })
        .await
    }
}

/// One connection's wait for the end.
struct Watch {
    drain: Rc<Drain>,
    /// Under which its task is to be woken. A task has one waker for good.
    number: Option<usize>,
    is_told: bool,
}

impl Watch {
    /// Ready once.
    fn poll_begun(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_told {
            return Poll::Pending;
        }
        if self.drain.begun.get() {
            self.is_told = true;
            return Poll::Ready(());
        }
        if self.number.is_none() {
            let number = self.drain.next.get();
            self.drain.next.set(number.wrapping_add(1));
            self.drain.connections.borrow_mut().insert(number, cx.waker().clone());
            self.number = Some(number);
        }
        Poll::Pending
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.drain.connections.borrow_mut().remove(&number);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use futures::poll;

    use super::*;

    #[tokio::test]
    async fn connections_that_are_open_and_later_ones_are_told_once() {
        let (drain, told) = (Rc::new(Drain::default()), Cell::new(0));
        let count = |_: Pin<&mut std::future::Pending<()>>| told.set(told.get() + 1);
        let mut open = std::pin::pin!(drain.until(pending(), count));
        assert!(poll!(&mut open).is_pending());
        drop(drain.until(pending(), count));
        assert_eq!((drain.connections.borrow().len(), told.get()), (1, 0));
        drain.begin();
        for _ in 0..2 {
            assert!(poll!(&mut open).is_pending());
        }
        assert_eq!(told.get(), 1);
        assert!(poll!(std::pin::pin!(drain.until(pending(), count))).is_pending());
        assert_eq!(told.get(), 2);
    }

    #[tokio::test]
    async fn whoever_waits_is_woken_and_whoever_has_gone_is_forgotten() {
        let drain = Rc::new(Drain::default());
        let local = tokio::task::LocalSet::new();
        let ended = Rc::new(Cell::new(false));
        let (waits, of) = (drain.clone(), ended.clone());
        let task = local.spawn_local(async move {
            let until = std::future::poll_fn(|_| if of.get() { Poll::Ready(()) } else { Poll::Pending });
            waits.until(until, |_| of.set(true)).await;
        });
        local.run_until(tokio::task::yield_now()).await;
        drain.begin();
        local.run_until(task).await.unwrap();
        assert!(drain.connections.borrow().is_empty());
    }
}
