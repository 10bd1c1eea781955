//! hyper's side of a client connection: the socket with time limits that hyper does not have.
//!
//! Input that arrives early stays in [`ClientInput`], so hyper never mistakes a closed connection for input to read later, and
//! notices that a client has disconnected.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    io::{self, ErrorKind, IoSlice},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::Bytes;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use jiff::{SignedDuration, Timestamp};
use tokio::net::TcpStream;

use super::{
    client_input::{ClientInput, Phase, Refused},
    request_head::Refusal,
};
use crate::proxy::resource_server::{Deadline, Worker};

/// Idle timeout of a connection. It is longer than that of gateways (nginx and AWS: 60 s), which would otherwise send a request
/// while the connection closes. Also the timeout of a request head from its first byte.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);

/// Maximum bytes of one read, and so of input that is read early.
const MAX_READ: usize = 16 * 1024;

/// How long input is discarded after the last response.
const LINGER: SignedDuration = SignedDuration::from_secs(10);

/// Maximum pause of the client meanwhile.
const LINGER_IDLE: Duration = Duration::from_secs(2);

/// A client's connection, shared by hyper ([`ClientIo`]) and the exchanges.
pub struct ClientConnection {
    worker: Rc<Worker>,
    state: RefCell<State>,
    /// Requests in flight.
    open: Cell<usize>,
    close_delimited: Cell<bool>,
}

struct State {
    stream: TokioIo<TcpStream>,
    input: ClientInput,
    head_deadline: Deadline,
    /// The client reads nothing of a response.
    write_deadline: Deadline,
    draining: bool,
    /// The client has closed its side, or the connection failed.
    gone: bool,
    flush: Flush,
    /// Bytes were written since hyper last flushed.
    is_unflushed: bool,
    /// Woken when there is something to read or to flush.
    reader: Option<Waker>,
}

/// Whether the system has all bytes of a response that hyper was given.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Flush {
    NotAwaited,
    Awaited,
    Done,
}

/// hyper's side of a [`ClientConnection`].
pub struct ClientIo(pub Rc<ClientConnection>);

impl ClientConnection {
    /// With `refused`, the client gets that refusal at once.
    pub fn new(stream: TcpStream, worker: Rc<Worker>, refused: Option<Refused>) -> Self {
        let mut input = ClientInput::default();
        if let Some(refused) = refused {
            input.refuse(refused);
        }
        let state = State {
            stream: TokioIo::new(stream),
            input,
            head_deadline: Deadline::new(worker.deadlines.clone()),
            write_deadline: Deadline::new(worker.deadlines.clone()),
            draining: false,
            gone: false,
            flush: Flush::NotAwaited,
            is_unflushed: false,
            reader: None,
        };
        Self { worker, state: RefCell::new(state), open: Cell::new(0), close_delimited: Cell::new(false) }
    }

    pub fn is_http2(&self) -> bool {
        matches!(self.state.borrow().input.phase, Phase::Http2)
    }

    /// Why the request that hyper has just read is refused.
    pub fn take_refused(&self) -> Option<Refused> {
        self.state.borrow_mut().input.refused.take()
    }

    /// Counts a request as in flight. Returns how many were before.
    pub fn begin(&self) -> usize {
        let mut state = self.state.borrow_mut();
        state.head_deadline.stop();
        state.flush = Flush::NotAwaited;
        self.open.replace(self.open.get() + 1)
    }

    /// Counts a request as done.
    pub fn end(&self) {
        self.open.set(self.open.get().saturating_sub(1));
        let state = &mut *self.state.borrow_mut();
        if self.open.get() > 0 {
            return;
        }
        if !state.input.bytes.is_empty() || state.draining {
            state.wake();
        } else if let Some(reader) = &state.reader {
            // hyper waits for the client already, so it is not woken.
            let _ = state.head_deadline.poll(IDLE_TIMEOUT, &Context::from_waker(reader));
        }
    }

    /// Closes the connection as soon as it is idle.
    pub fn drain(&self) {
        let mut state = self.state.borrow_mut();
        state.draining = true;
        state.wake();
    }

    /// Over HTTP/1: sets what ends a response while the client reads nothing.
    pub fn watch(&self, watch: impl FnOnce(&mut Deadline)) {
        let mut state = self.state.borrow_mut();
        watch(&mut state.write_deadline);
    }

    pub fn has_all_content(&self) -> bool {
        self.state.borrow().input.has_all_content()
    }

    /// The output of `future`; `None` if the client disconnects first. Over HTTP/1 only: HTTP/2 resets the stream.
    pub async fn unless_gone<F: Future + Unpin>(&self, mut future: F) -> Option<F::Output> {
        poll_fn(|cx| match Pin::new(&mut future).poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending => self.poll_gone(cx).map(|()| None),
        })
        .await
    }

    /// Ready when the client has disconnected. A disconnect is not noticed while [`MAX_READ`] bytes wait to be read: content, or
    /// the next request.
    pub fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<()> {
        let state = &mut *self.state.borrow_mut();
        if matches!(state.input.phase, Phase::Http2) { Poll::Pending } else { self.poll_read_early(state, cx) }
    }

    fn poll_read_early(&self, state: &mut State, cx: &mut Context<'_>) -> Poll<()> {
        while !state.gone && state.input.bytes.len() < MAX_READ {
            if ready!(self.poll_fill(state, cx)) && matches!(state.input.phase, Phase::Content(_)) {
                // hyper may be waiting for this content.
                cx.waker().wake_by_ref();
            }
        }
        if state.gone { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Reads from the socket; `false` at the end.
    fn poll_fill(&self, state: &mut State, cx: &mut Context<'_>) -> Poll<bool> {
        let State { stream, input, .. } = state;
        let read = ready!(self.worker.scratch.poll_read(stream.inner_mut(), &mut input.bytes, MAX_READ, cx));
        state.gone = !matches!(read, Ok(1..));
        Poll::Ready(!state.gone)
    }

    fn poll_read(&self, mut buffer: ReadBufCursor<'_>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let state = &mut *self.state.borrow_mut();
        while !state.input.read(&mut buffer) {
            let is_end = match state.input.phase {
                Phase::Http2 => return self.poll_http2(state, buffer, cx),
                Phase::Content(framing) => !state.input.check_content(framing)? && !ready!(self.poll_fill(state, cx)),
                Phase::Start | Phase::Head if self.open.get() == 0 => {
                    let Poll::Ready(is_end) = self.poll_head(state, cx) else {
                        state.set_reader(cx);
                        return Poll::Pending;
                    };
                    is_end
                }
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
            // If the input ended before a response is flushed, hyper would take the client as disconnected.
            if state.gone || is_idle && state.draining && !state.is_unflushed {
                return Poll::Ready(true);
            }
            if self.poll_fill(state, cx).is_pending() {
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

    fn poll_write(
        &self,
        cx: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut TokioIo<TcpStream>>, &mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        let state = &mut *self.state.borrow_mut();
        state.is_unflushed = true;
        let written = write(Pin::new(&mut state.stream), cx);
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

    /// Ready when the system has all bytes that hyper was given. hyper drops its buffer when a response fails.
    pub fn poll_flushed(&self, cx: &Context<'_>) -> Poll<()> {
        let state = &mut *self.state.borrow_mut();
        if state.flush == Flush::Done {
            state.flush = Flush::NotAwaited;
            return Poll::Ready(());
        }
        state.flush = Flush::Awaited;
        state.set_reader(cx);
        Poll::Pending
    }

    /// Closes the connection, but first discards input until the client closes its side. Otherwise the system would send a reset
    /// for that input, and the client's system might discard the response (RFC 9112 §9.6).
    pub async fn close(&self) {
        let until = self.now().checked_add(LINGER).unwrap_or(Timestamp::MAX);
        let mut idle = Deadline::new(self.worker.deadlines.clone());
        poll_fn(|cx| {
            let state = &mut *self.state.borrow_mut();
            while !state.gone && self.now() < until {
                state.input.bytes = Bytes::new();
                match self.poll_fill(state, cx) {
                    Poll::Ready(_) => idle.restart(LINGER_IDLE),
                    Poll::Pending => return idle.poll(LINGER_IDLE, cx),
                }
            }
            Poll::Ready(())
        })
        .await;
    }

    /// Sets whether the response ends with the connection.
    pub fn set_close_delimited(&self, close_delimited: bool) {
        self.close_delimited.set(close_delimited);
    }

    /// Closes the connection after a failed response, with a reset if only that shows the client that it is incomplete.
    pub fn abort(&self) {
        if self.close_delimited.get() {
            // If this fails, the connection closes without a reset.
            let _ = self.state.borrow().stream.inner().set_zero_linger();
        }
    }

    fn now(&self) -> Timestamp {
        self.worker.deadlines.time()
    }
}

impl State {
    fn set_reader(&mut self, cx: &Context<'_>) {
        match &mut self.reader {
            Some(reader) => reader.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
    }

    fn wake(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

impl Read for ClientIo {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        self.0.poll_read(buffer, cx)
    }
}

impl Write for ClientIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.poll_write(cx, |stream, cx| stream.poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.poll_write(cx, |stream, cx| stream.poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// hyper calls this when its buffer is empty.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let state = &mut *self.0.state.borrow_mut();
        let was_unflushed = std::mem::replace(&mut state.is_unflushed, false);
        let is_awaited = state.flush == Flush::Awaited;
        if is_awaited {
            state.flush = Flush::Done;
        }
        if (is_awaited || state.draining && was_unflushed)
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
