//! A client connection as the exchanges see it: the requests in flight, a client that disconnects, and the close.
//! [`client_io`](super::client_io) is hyper's side.
//!
//! Input that arrives early stays in [`ClientInput`], so hyper never mistakes a closed connection for input to read later, and
//! notices that a client has disconnected.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::Bytes;
use hyper::rt::Write as _;
use hyper_util::rt::TokioIo;
use jiff::{SignedDuration, Timestamp};
use tokio::net::TcpStream;

use super::client_input::{ClientInput, Phase, Refused};
use crate::proxy::resource_server::{Deadline, Worker};

/// Idle timeout of a connection. It is longer than that of gateways (nginx and AWS: 60 s), which would otherwise send a request
/// while the connection closes. Also the timeout of a request head from its first byte.
pub(super) const IDLE_TIMEOUT: Duration = Duration::from_secs(75);

/// Maximum bytes of one read, and so of input that is read early.
pub(super) const MAX_READ: usize = 16 * 1024;

/// How long input is discarded after the last response.
const LINGER: SignedDuration = SignedDuration::from_secs(10);

/// Maximum pause of the client meanwhile.
const LINGER_IDLE: Duration = Duration::from_secs(2);

/// A client's connection, shared by hyper ([`ClientIo`](super::client_io::ClientIo)) and the exchanges.
pub struct ClientConnection {
    pub(super) worker: Rc<Worker>,
    pub(super) state: RefCell<State>,
    /// Requests in flight.
    pub(super) open: Cell<usize>,
    close_delimited: Cell<bool>,
}

pub(super) struct State {
    pub stream: TokioIo<TcpStream>,
    pub input: ClientInput,
    pub head_deadline: Deadline,
    /// The client reads nothing of a response.
    pub write_deadline: Deadline,
    /// The client has closed its side, or the connection failed.
    pub gone: bool,
    pub flush: Flush,
    /// Bytes were written since hyper last flushed.
    pub is_unflushed: bool,
    /// Woken when there is something to read or to flush.
    pub reader: Option<Waker>,
}

/// Whether the system has all bytes of a response that hyper was given.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Flush {
    NotAwaited,
    Awaited,
    Done,
}

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
        if !state.input.bytes.is_empty() || self.worker.draining.get() {
            state.wake();
        } else if let Some(reader) = &state.reader {
            // hyper waits for the client already, so it is not woken.
            let _ = state.head_deadline.poll(IDLE_TIMEOUT, &Context::from_waker(reader));
        }
    }

    /// Over HTTP/1: sets what ends a response while the client reads nothing.
    pub fn watch(&self, watch: impl FnOnce(&mut Deadline)) {
        let mut state = self.state.borrow_mut();
        watch(&mut state.write_deadline);
    }

    pub fn has_all_content(&self) -> bool {
        self.state.borrow_mut().input.has_all_content()
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

    pub(super) fn poll_read_early(&self, state: &mut State, cx: &mut Context<'_>) -> Poll<()> {
        while !state.gone && state.input.bytes.len() < MAX_READ {
            if ready!(self.poll_fill(state, cx)) && matches!(state.input.phase, Phase::Content(_)) {
                // hyper may be waiting for this content.
                cx.waker().wake_by_ref();
            }
        }
        if state.gone { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Reads from the socket; `false` at the end.
    pub(super) fn poll_fill(&self, state: &mut State, cx: &mut Context<'_>) -> Poll<bool> {
        let State { stream, input, .. } = state;
        let read = ready!(self.worker.scratch.poll_read(stream.inner_mut(), &mut input.bytes, MAX_READ, cx));
        state.gone = !matches!(read, Ok(1..));
        Poll::Ready(!state.gone)
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
        // hyper does not close its side if the client has offered an upgrade.
        let _ = poll_fn(|cx| Pin::new(&mut self.state.borrow_mut().stream).poll_shutdown(cx)).await;
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
    pub fn set_reader(&mut self, cx: &Context<'_>) {
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
