use std::{
    future::poll_fn,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use thiserror::Error;

use super::{
    BoxError,
    deadline::{Deadline, Deadlines},
};

use crate::error_chain::error_chain;

/// A client that waits has to send so many bytes before it may wait for as long again: one byte now and then is no progress.
const PROGRESS: usize = 1024;

/// The body of a client's request on its way to the upstream: it may not be too large, nor stand still for too long.
pub struct RequestBody<B> {
    body: B,
    /// How many bytes may still come.
    left: u64,
    patience: Duration,
    waiting: Deadline,
    /// How many bytes have come since it began to wait.
    since: usize,
}

/// Why a body is not forwarded to its end. The client is at fault.
#[derive(Debug, Error)]
pub enum RequestBodyError {
    /// It has more bytes than are allowed.
    #[error("the request's body is too large")]
    TooLarge,
    /// Nothing has come of it for too long.
    #[error("the request's body does not go on")]
    TooSlow,
    /// The client broke off, or does not keep to HTTP.
    #[error("the request's body breaks off: {}", error_chain(&**.0))]
    Broken(#[source] BoxError),
}

impl RequestBodyError {
    /// The one that an error was caused by.
    pub fn cause_of<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a Self> {
        std::iter::successors(Some(error), |error| error.source()).find_map(|error| error.downcast_ref())
    }
}

impl<B: Body> RequestBody<B> {
    /// A body with `most` bytes, whose sender may pause for `patience`.
    ///
    /// # Errors
    /// When it is too large by what it says of itself.
    pub fn new(body: B, most: u64, patience: Duration, deadlines: Rc<Deadlines>) -> Result<Self, RequestBodyError> {
        if body.size_hint().lower() > most {
            return Err(RequestBodyError::TooLarge);
        }
        Ok(Self { body, left: most, patience, waiting: Deadline::new(deadlines), since: 0 })
    }

    fn count(&mut self, frame: &Frame<Bytes>) -> Result<(), RequestBodyError> {
        let length = frame.data_ref().map_or(0, Bytes::len);
        self.left = self.left.checked_sub(length as u64).ok_or(RequestBodyError::TooLarge)?;
        self.since += length;
        if self.since >= PROGRESS {
            self.since = 0;
            self.waiting.stop();
        }
        Ok(())
    }
}

impl<B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin> RequestBody<B> {
    /// All of it. Copied, for what arrives in small parts would hold much more than that.
    ///
    /// # Errors
    /// When it does not come to its end.
    pub async fn whole(mut self) -> Result<Bytes, RequestBodyError> {
        let mut whole = BytesMut::new();
        while let Some(frame) = poll_fn(|cx| Pin::new(&mut self).poll_frame(cx)).await {
            whole.extend_from_slice(&frame?.into_data().unwrap_or_default());
        }
        Ok(whole.freeze())
    }
}

impl<B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin> Body for RequestBody<B> {
    type Data = Bytes;
    type Error = RequestBodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, RequestBodyError>>> {
        let this = self.get_mut();
        let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(cx) else {
            ready!(this.waiting.poll(this.patience, cx));
            return Poll::Ready(Some(Err(RequestBodyError::TooSlow)));
        };
        Poll::Ready(match frame {
            Some(Ok(frame)) => Some(this.count(&frame).map(|()| frame)),
            Some(Err(error)) => Some(Err(RequestBodyError::Broken(error.into()))),
            None => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
