use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use thiserror::Error;

use super::{
    BoxError,
    deadline::{Deadline, Deadlines},
};
use crate::error_chain::error_chain;

/// How many bytes restart the timeout of a slow client. Single bytes now and then do not.
const PROGRESS: usize = 1024;

/// A request body as it arrives. Its clones share it: one is read, another observes the progress.
#[derive(Clone)]
pub struct IncomingBody(Rc<Shared>);

struct Shared {
    body: RefCell<Incoming>,
    was_polled: Cell<bool>,
    has_failed: Cell<bool>,
}

impl IncomingBody {
    pub fn new(body: Incoming) -> Self {
        let (body, was_polled, has_failed) = (RefCell::new(body), Cell::new(false), Cell::new(false));
        Self(Rc::new(Shared { body, was_polled, has_failed }))
    }

    /// Whether the body has been polled since the last call.
    pub fn take_polled(&self) -> bool {
        self.0.was_polled.take()
    }

    /// Reads and discards the rest. Returns whether the body is complete.
    pub async fn drain(mut self) -> bool {
        loop {
            match poll_fn(|cx| Pin::new(&mut self).poll_frame(cx)).await {
                Some(Ok(_)) => (),
                Some(Err(_)) => return false,
                // hyper also ends a body after an error.
                None => return !self.0.has_failed.get(),
            }
        }
    }
}

impl Body for IncomingBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        self.0.was_polled.set(true);
        let frame = ready!(Pin::new(&mut *self.0.body.borrow_mut()).poll_frame(cx));
        if let Some(Err(_)) = frame {
            self.0.has_failed.set(true);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.0.body.borrow().is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.body.borrow().size_hint()
    }
}

/// A request body with a maximum size and a timeout.
pub struct RequestBody<B> {
    body: B,
    /// How many more bytes are allowed.
    allowed: u64,
    timeout: Duration,
    deadline: Deadline,
    /// Bytes received since the deadline started.
    progress: usize,
}

/// A client error in a request body.
#[derive(Debug, Error)]
pub enum RequestBodyError {
    #[error("the request body is too large")]
    TooLarge,
    #[error("the request body stalled")]
    TooSlow,
    #[error("the request body is incomplete: {}", error_chain(&**.0))]
    Broken(#[source] BoxError),
}

impl RequestBodyError {
    /// Finds a request body error among the sources of `error`.
    pub fn cause_of<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a Self> {
        std::iter::successors(Some(error), |error| error.source()).find_map(|error| error.downcast_ref())
    }
}

impl<B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin> RequestBody<B> {
    /// Fails if the declared length exceeds `max` bytes.
    pub fn new(body: B, max: u64, timeout: Duration, deadlines: Rc<Deadlines>) -> Result<Self, RequestBodyError> {
        if body.size_hint().lower() > max {
            return Err(RequestBodyError::TooLarge);
        }
        Ok(Self { body, allowed: max, timeout, deadline: Deadline::new(deadlines), progress: 0 })
    }

    /// Reads the whole body. It is copied, because slices of many short reads would hold larger buffers.
    pub async fn read_all(mut self) -> Result<Bytes, RequestBodyError> {
        let mut all = BytesMut::new();
        while let Some(frame) = poll_fn(|cx| Pin::new(&mut self).poll_frame(cx)).await {
            all.extend_from_slice(&frame?.into_data().unwrap_or_default());
        }
        Ok(all.freeze())
    }

    fn count(&mut self, frame: Frame<Bytes>) -> Result<Frame<Bytes>, RequestBodyError> {
        let length = frame.data_ref().map_or(0, Bytes::len);
        self.allowed = self.allowed.checked_sub(length as u64).ok_or(RequestBodyError::TooLarge)?;
        self.progress += length;
        if self.progress >= PROGRESS {
            self.progress = 0;
            self.deadline.stop();
        }
        Ok(frame)
    }
}

impl<B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin> Body for RequestBody<B> {
    type Data = Bytes;
    type Error = RequestBodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, RequestBodyError>>> {
        let this = self.get_mut();
        let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(cx) else {
            ready!(this.deadline.poll(this.timeout, cx));
            return Poll::Ready(Some(Err(RequestBodyError::TooSlow)));
        };
        let frame = frame.map(|frame| frame.map_err(|error| RequestBodyError::Broken(error.into())));
        Poll::Ready(frame.map(|frame| this.count(frame?)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
