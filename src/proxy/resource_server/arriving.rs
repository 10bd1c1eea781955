use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

/// The body of a client's request as it arrives. Clones share it: one is read, others tell how far that is.
#[derive(Clone)]
pub struct Arriving(Rc<Shared>);

struct Shared {
    body: RefCell<Incoming>,
    /// More was wanted since this was taken.
    wanted: Cell<bool>,
}

impl Arriving {
    /// Shares a body.
    pub fn new(body: Incoming) -> Self {
        Self(Rc::new(Shared { body: RefCell::new(body), wanted: Cell::new(false) }))
    }

    /// Whether more of it was wanted since this was last called.
    pub fn take_wanted(&self) -> bool {
        self.0.wanted.take()
    }

    /// Reads the rest and throws it away. Whether it came to its end.
    pub async fn drain(mut self) -> bool {
        loop {
            match poll_fn(|cx| Pin::new(&mut self).poll_frame(cx)).await {
                Some(Ok(_)) => (),
                Some(Err(_)) => return false,
                None => return true,
            }
        }
    }
}

impl Body for Arriving {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        self.0.wanted.set(true);
        Pin::new(&mut *self.0.body.borrow_mut()).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.0.body.borrow().is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.body.borrow().size_hint()
    }
}
