//! hyper's side of a client connection: the socket with time limits that hyper does not have.

use std::{
    io::{self, ErrorKind},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use hyper::rt::{Read, ReadBufCursor, Write};

use super::{
    client_connection::{ClientConnection, Flush, IDLE_TIMEOUT, State},
    client_input::{Phase, Refused},
    request_head::Refusal,
};

/// hyper's side of a [`ClientConnection`].
pub struct ClientIo(pub Rc<ClientConnection>);

impl ClientConnection {
    /// Ready when the first bytes tell HTTP/1 from HTTP/2; `true` if the connection ends. Until then, hyper allocates nothing.
    pub fn poll_start(&self, cx: &mut Context<'_>) -> Poll<bool> {
        let state = &mut *self.state.borrow_mut();
        if matches!(state.input.phase, Phase::Start) { self.poll_head(state, cx) } else { Poll::Ready(false) }
    }

    fn poll_read(&self, mut buffer: ReadBufCursor<'_>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let state = &mut *self.state.borrow_mut();
        while !state.input.read(&mut buffer) {
            let is_end = match state.input.phase {
                Phase::Http2 => return self.poll_http2(state, buffer, cx),
                Phase::Content(_) => !state.input.check_content()? && !ready!(self.poll_fill(state, cx)),
                Phase::Start | Phase::Head if self.open.get() == 0 => ready!(self.poll_head(state, cx)),
                // The next head has to wait; hyper only checks whether the client is still connected.
                Phase::Start | Phase::Head | Phase::Refused => {
                    if self.poll_read_early(state, cx).is_pending() {
                        state.set_reader(cx);
                        return Poll::Pending;
                    }
                    true
                }
            };
            if is_end {
                break;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Checks the next head; `true` if the connection ends instead.
    fn poll_head(&self, state: &mut State, cx: &mut Context<'_>) -> Poll<bool> {
        loop {
            let is_idle = state.input.skip_empty_lines();
            if !is_idle && state.input.scanned == 0 {
                // The timeout of a head starts with its first byte.
                state.head_deadline.stop();
            }
            if !is_idle && state.input.check_head() {
                state.head_deadline.stop();
                return Poll::Ready(false);
            }
            if state.gone {
                return Poll::Ready(true);
            }
            if self.poll_fill(state, cx).is_pending() {
                // If the input ended before a response is flushed, hyper would take the client as disconnected.
                if is_idle && self.worker.draining.get() && !state.is_unflushed {
                    return Poll::Ready(true);
                }
                state.set_reader(cx);
                ready!(state.head_deadline.poll(IDLE_TIMEOUT, cx));
                if !is_idle {
                    state.input.refuse(Refused::Head(Refusal::TooSlow));
                }
                return Poll::Ready(is_idle);
            }
        }
    }

    fn poll_http2(&self, state: &mut State, buffer: ReadBufCursor<'_>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut state.stream).poll_read(cx, buffer);
        if read.is_pending() && self.open.get() == 0 && state.head_deadline.poll(IDLE_TIMEOUT, cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        state.set_reader(cx);
        read
    }

    fn poll_write(&self, bytes: &[u8], cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let state = &mut *self.state.borrow_mut();
        state.is_unflushed = true;
        let written = Pin::new(&mut state.stream).poll_write(cx, bytes);
        if written.is_ready() {
            state.write_deadline.stop();
            return written;
        }
        let timed_out = |message: &str| Poll::Ready(Err(io::Error::new(ErrorKind::TimedOut, message)));
        if state.write_deadline.end_reason().is_some() {
            return timed_out("the session or token of the response has ended, or this process shuts down");
        }
        ready!(state.write_deadline.poll(self.worker.forwarder.client_timeout(), cx));
        timed_out("the client reads nothing of the response")
    }
}

impl Read for ClientIo {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        self.0.poll_read(buffer, cx)
    }
}

// Without vectored writes, hyper copies head and content into one buffer, which costs less CPU than `writev`.
impl Write for ClientIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.poll_write(bytes, cx)
    }

    /// hyper calls this when its buffer is empty.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let state = &mut *self.0.state.borrow_mut();
        let was_unflushed = std::mem::replace(&mut state.is_unflushed, false);
        let is_awaited = state.flush == Flush::Awaited;
        if is_awaited {
            state.flush = Flush::Done;
        }
        if (is_awaited || self.0.worker.draining.get() && was_unflushed)
            && let Some(reader) = &state.reader
        {
            reader.wake_by_ref();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.state.borrow_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
