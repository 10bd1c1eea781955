use std::{
    future::poll_fn,
    io, mem,
    rc::Rc,
    task::{Context, Poll, Waker, ready},
};

use bytes::Bytes;
use http::Response;
use http_body::Body;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::coop,
};

use super::{
    BoxError, HeaderFilter, WireError, answer::read_head, framing::Framing, request::Outgoing, scratch::Scratch,
};

/// A connection to the upstream. It has no task of its own: whoever waits for something of it, an answer or a part of one, moves
/// it on meanwhile. So a request and its answer stay in one task; a second one would cost them two wake-ups and a message each way.
///
/// Nobody moves it on while it is idle. That the upstream has closed it shows when it is next looked at.
pub struct Connection<S, B> {
    stream: S,
    scratch: Rc<Scratch>,
    keep: HeaderFilter,
    outgoing: Outgoing<B>,
    /// Why the rest of the request was not sent. The upstream may have answered all the same.
    failed: Option<io::Error>,
    /// The request was a HEAD.
    is_head: bool,
    /// What was read and is not yet taken.
    read: Bytes,
    /// Of the answer.
    framing: Framing,
    /// Whether another request may follow.
    keeps_alive: bool,
}

impl<S, B> Connection<S, B>
where
    S: AsyncRead + AsyncWrite + Unpin,
    B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin,
{
    /// A connection over a stream that is open.
    pub fn new(stream: S, scratch: Rc<Scratch>, keep: HeaderFilter) -> Self {
        let (outgoing, read, framing) = (Outgoing::none(), Bytes::new(), Framing::Length(0));
        Self { stream, scratch, keep, outgoing, failed: None, is_head: false, read, framing, keeps_alive: true }
    }

    /// Sends a request and waits for the head of its answer. The connection must be ready for it.
    ///
    /// # Errors
    /// When none came.
    pub fn send(&mut self, request: Outgoing<B>) -> impl Future<Output = Result<Response<()>, WireError>> {
        (self.is_head, self.outgoing) = (request.is_head(), request);
        poll_fn(|cx| self.poll_head(cx))
    }

    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response<()>, WireError>> {
        self.send_on(cx)?;
        loop {
            if let Some(head) = read_head(&mut self.read, self.is_head, self.keep)? {
                self.framing = head.framing;
                self.keeps_alive &= head.keeps_alive;
                return Poll::Ready(Ok(head.response));
            }
            if ready!(self.poll_read(cx))? == 0 {
                return Poll::Ready(Err(self.failed.take().map_or(WireError::Unanswered, WireError::Io)));
            }
        }
    }

    /// The request that [`Self::send`] failed with, if the upstream has got nothing of it: the connection was over before.
    pub fn take_unsent(&mut self) -> Option<Outgoing<B>> {
        let request = mem::replace(&mut self.outgoing, Outgoing::none());
        request.is_untouched().then_some(request)
    }

    /// The next content of the answer; `None` at its end.
    pub fn poll_content(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, WireError>>> {
        let content = ready!(self.poll_next(cx));
        if content.is_err() {
            (self.framing, self.keeps_alive) = (Framing::Length(0), false);
        }
        Poll::Ready(content.transpose())
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, WireError>> {
        self.send_on(cx)?;
        loop {
            let content = self.framing.next(&mut self.read)?;
            if content.is_some() || self.framing.is_over() {
                return Poll::Ready(Ok(content));
            }
            if ready!(self.poll_read(cx))? == 0 {
                self.framing.close()?;
            }
        }
    }

    /// How many bytes of the answer's content are still to come, if that is known.
    pub fn left(&self) -> Option<u64> {
        self.framing.left()
    }

    /// Whether a request can be sent: the last exchange is over, and the upstream has not closed the connection since.
    pub fn is_ready(&mut self) -> bool {
        let is_idle = self.keeps_alive && self.framing.is_over() && self.outgoing.is_over() && self.read.is_empty();
        // Without budget tokio would say that there is nothing, without a look.
        let is_idle = is_idle && coop::has_budget_remaining();
        // Also lets go of the waker of whoever used it last.
        is_idle && self.poll_read(&mut Context::from_waker(Waker::noop())).is_pending()
    }

    /// Sends on what is not yet sent of the request. That the upstream takes no more of it is no error: it may have said why. Unless
    /// it has taken nothing: then that was no answer. A body that has failed is not gone on with.
    fn send_on(&mut self, cx: &mut Context<'_>) -> Result<(), WireError> {
        match self.outgoing.poll(&mut self.stream, cx) {
            Poll::Ready(Err(WireError::Io(error))) if !self.outgoing.is_untouched() => {
                (self.outgoing, self.failed, self.keeps_alive) = (Outgoing::none(), Some(error), false);
                Ok(())
            }
            Poll::Ready(Err(error)) => {
                if !matches!(error, WireError::Io(_)) {
                    self.outgoing = Outgoing::none();
                }
                self.keeps_alive = false;
                Err(error)
            }
            Poll::Ready(Ok(())) | Poll::Pending => Ok(()),
        }
    }

    /// Reads what is there; no bytes at the end of the stream.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.scratch.poll_read(&mut self.stream, &mut self.read, usize::MAX, cx)
    }
}

#[cfg(test)]
mod tests;
