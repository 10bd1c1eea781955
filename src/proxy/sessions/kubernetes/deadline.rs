use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use hyper::body::{Body, Bytes, Frame, SizeHint};
use kube::client::DynBody;
use tokio::time::{Sleep, sleep};

/// A body that fails if it is not complete by a deadline, even if data keeps arriving.
pub struct DeadlineBody {
    body: Box<DynBody>,
    deadline: Pin<Box<Sleep>>,
    limit: Duration,
}

impl DeadlineBody {
    pub fn new(body: Box<DynBody>, limit: Duration) -> Self {
        Self { body, deadline: Box::pin(sleep(limit)), limit }
    }
}

impl Body for DeadlineBody {
    type Data = Bytes;
    type Error = tower::BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.deadline.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Some(Err(format!("response not complete after {} s", self.limit.as_secs()).into())));
        }
        Pin::new(&mut *self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
