use std::{
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::http1::WireError;

/// A client's connection, as far as it is about the content of the request that is being answered.
pub trait Upload {
    /// The next of it; `None` at its end.
    ///
    /// # Errors
    /// When the client has gone, or what comes is no content.
    fn poll_data(&self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, WireError>>;

    /// How many bytes are still to come, if that is known.
    fn left(&self) -> Option<u64>;

    /// Whether more was wanted since this was asked.
    fn take_wanted(&self) -> bool;
}

/// The body of a client's request as it arrives.
#[derive(Clone)]
pub struct Arriving(Rc<dyn Upload>);

impl Arriving {
    /// What comes over this connection.
    pub fn new(upload: Rc<dyn Upload>) -> Self {
        Self(upload)
    }

    /// Whether more of it was wanted since this was asked.
    pub fn take_wanted(&self) -> bool {
        self.0.take_wanted()
    }
}

impl Body for Arriving {
    type Data = Bytes;
    type Error = WireError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, WireError>>> {
        self.0.poll_data(cx).map(|data| data.transpose().map(|data| data.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.0.left() == Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        self.0.left().map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
