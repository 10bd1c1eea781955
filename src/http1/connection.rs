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
    BoxError, HeaderFilter, WireError, framing::Framing, request::Outgoing, response::read_head, scratch::Scratch,
};

/// An upstream connection. It has no task of its own: the task that polls for the response also sends the request, which saves
/// two wake-ups and a message each way. An idle connection is not polled, so [`Self::is_ready`] detects that it was closed.
pub struct Connection<S, B> {
    stream: S,
    scratch: Rc<Scratch>,
    keep: HeaderFilter,
    outgoing: Outgoing<B>,
    /// The error that stopped sending the request. The upstream may have sent a response before.
    send_error: Option<io::Error>,
    is_head_request: bool,
    read: Bytes,
    /// Of the response.
    framing: Framing,
    keeps_alive: bool,
}

impl<S, B> Connection<S, B>
where
    S: AsyncRead + AsyncWrite + Unpin,
    B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin,
{
    pub fn new(stream: S, scratch: Rc<Scratch>, keep: HeaderFilter) -> Self {
        let (outgoing, framing) = (Outgoing::none(), Framing::Length(0));
        let (send_error, is_head_request, read) = (None, false, Bytes::new());
        Self { stream, scratch, keep, outgoing, send_error, is_head_request, read, framing, keeps_alive: true }
    }

    /// Sends a request and waits for the response head. The connection must be ready.
    pub fn send(&mut self, request: Outgoing<B>) -> impl Future<Output = Result<Response<()>, WireError>> {
        (self.is_head_request, self.outgoing) = (request.is_head(), request);
        poll_fn(|cx| self.poll_head(cx))
    }

    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response<()>, WireError>> {
        self.poll_send(cx)?;
        loop {
            if let Some(head) = read_head(&mut self.read, self.is_head_request, self.keep)? {
                self.framing = head.framing;
                self.keeps_alive &= head.keeps_alive;
                return Poll::Ready(Ok(head.response));
            }
            if ready!(self.poll_read(cx))? == 0 {
                return Poll::Ready(Err(self.send_error.take().map_or(WireError::NoResponse, WireError::Io)));
            }
        }
    }

    /// The request of a failed [`Self::send`], if the upstream cannot have received any of it.
    pub fn take_unsent(&mut self) -> Option<Outgoing<B>> {
        let request = mem::replace(&mut self.outgoing, Outgoing::none());
        request.is_unsent().then_some(request)
    }

    /// The next content of the response; `None` at its end.
    pub fn poll_content(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, WireError>>> {
        let content = ready!(self.poll_next(cx));
        if content.is_err() {
            (self.framing, self.keeps_alive) = (Framing::Length(0), false);
        }
        Poll::Ready(content.transpose())
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, WireError>> {
        self.poll_send(cx)?;
        loop {
            let content = self.framing.next(&mut self.read)?;
            if content.is_some() || self.framing.is_complete() {
                return Poll::Ready(Ok(content));
            }
            if ready!(self.poll_read(cx))? == 0 {
                self.framing.close()?;
            }
        }
    }

    /// The remaining bytes of the response content, if known.
    pub fn remaining(&self) -> Option<u64> {
        self.framing.remaining()
    }

    /// Whether a request can be sent: the last exchange is complete, and the upstream has not closed the connection.
    pub fn is_ready(&mut self) -> bool {
        self.keeps_alive
            && self.framing.is_complete()
            && self.outgoing.is_complete()
            && self.read.is_empty()
            // Without budget, tokio reports "pending" without reading.
            && coop::has_budget_remaining()
            // Also releases the last task's waker.
            && self.poll_read(&mut Context::from_waker(Waker::noop())).is_pending()
    }

    /// Sends more of the request. A write error after the first byte is kept for later, since the upstream may have sent a
    /// response before it stopped reading.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Result<(), WireError> {
        let Poll::Ready(Err(error)) = self.outgoing.poll(&mut self.stream, cx) else { return Ok(()) };
        self.keeps_alive = false;
        if matches!(error, WireError::Io(_)) && self.outgoing.is_unsent() {
            return Err(error);
        }
        self.outgoing = Outgoing::none();
        let WireError::Io(error) = error else { return Err(error) };
        self.send_error = Some(error);
        Ok(())
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.scratch.poll_read(&mut self.stream, &mut self.read, usize::MAX, cx)
    }
}

#[cfg(test)]
mod tests;
