//! The end of a worker's connections.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
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

    /// One connection's wait for that.
    pub fn watch(self: &Rc<Self>) -> Watch {
        Watch { drain: self.clone(), number: None }
    }
}

/// One connection's wait for the end.
#[derive(Debug)]
pub struct Watch {
    drain: Rc<Drain>,
    /// Under which its task is to be woken. A task has one waker for good.
    number: Option<usize>,
}

impl Watch {
    /// Ready when it is to end.
    pub fn poll_begun(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.drain.begun.get() {
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
    use std::future::poll_fn;

    use futures::poll;

    use super::*;

    #[tokio::test]
    async fn drain_wakes_waiting_connections_and_forgets_dropped_ones() {
        let drain = Rc::new(Drain::default());
        let (mut waits, mut gone) = (drain.watch(), drain.watch());
        assert!(poll!(poll_fn(|cx| gone.poll_begun(cx))).is_pending());
        drop(gone);
        let local = tokio::task::LocalSet::new();
        let task = local.spawn_local(async move { poll_fn(|cx| waits.poll_begun(cx)).await });
        local.run_until(tokio::task::yield_now()).await;
        assert_eq!(drain.connections.borrow().len(), 1);
        drain.begin();
        local.run_until(task).await.unwrap();
        assert!(drain.connections.borrow().is_empty());
        assert!(poll!(poll_fn(|cx| drain.watch().poll_begun(cx))).is_ready());
    }
}
