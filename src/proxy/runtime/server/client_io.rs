//! What hyper reads from and writes to: a client's socket behind the checks and the time limits that hyper does not have.
//!
//! Over HTTP/1 hyper is given one request head at a time, after [`check_head`], and then its content. Of a refused head hyper is
//! given [`REFUSED`] instead, so that the refusal is answered in its turn. What a client sends ahead of time stays here; so hyper
//! never takes the end of a connection for something to be read later, and notices that a client is gone.
//! Over HTTP/2 bytes pass unchanged.

use std::{
    cell::{Cell, RefCell},
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

use super::request_head::{MAX_HEAD, Refusal, check_head};
use crate::{
    http1::{Framing, skip},
    proxy::resource_server::{Deadline, Worker},
};

/// How long a connection without requests is kept: longer than gateways keep theirs (nginx and AWS: 60 s), or they would send a
/// request into a connection that is being closed. Also how long a head may take from its first byte.
const IDLE: Duration = Duration::from_secs(75);

/// Maximum bytes of one read, and so of what is read ahead of time.
const READ: usize = 16 * 1024;

/// How long a client may go on sending after its last response.
const LINGER: SignedDuration = SignedDuration::from_secs(10);

/// How long it may pause while it does.
const PAUSE: Duration = Duration::from_secs(2);

/// What an HTTP/2 connection starts with (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What hyper reads in place of a refused head. The service answers it with the refusal.
const REFUSED: &[u8] = b"GET / HTTP/1.1\r\nhost: refused\r\nconnection: close\r\n\r\n";

/// Why hyper was given [`REFUSED`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Refused {
    /// The head was refused.
    Head(Refusal),
    /// Too many connections are open.
    Busy,
}

/// What comes next from the client.
#[derive(Clone, Copy, Debug)]
enum Phase {
    /// The first bytes, which tell HTTP/1 from HTTP/2.
    Start,
    /// A request head.
    Head,
    /// The content of a request.
    Content(Framing),
    /// HTTP/2 frames.
    Http2,
    /// Nothing that is read: the connection ends with a refusal.
    Refused,
}

/// A client's connection, shared by hyper ([`ClientIo`]) and by those who answer its requests.
pub struct ClientConnection {
    worker: Rc<Worker>,
    state: RefCell<State>,
    /// Requests that are being answered.
    open: Cell<usize>,
    end_delimits: Cell<bool>,
}

struct State {
    stream: TokioIo<TcpStream>,
    phase: Phase,
    /// What was read and hyper does not have yet.
    ahead: Bytes,
    /// How many bytes of it hyper may have.
    checked: usize,
    /// How many bytes of it were looked at for a head: a head that arrives byte by byte is not parsed anew with each.
    looked_at: usize,
    refused: Option<Refused>,
    /// For a head.
    waiting: Deadline,
    /// For the client to take what is written.
    stalled: Deadline,
    draining: bool,
    /// The client has closed its side, or the connection broke.
    gone: bool,
    flush: Flush,
    /// Something was written since hyper last said that it holds nothing back.
    is_unflushed: bool,
    /// Whom to wake when there is something to read or to flush.
    reader: Option<Waker>,
}

/// Whether all that hyper was given for a response is with the system.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Flush {
    /// Nobody asks.
    Unasked,
    Asked,
    Done,
}

/// hyper's side of a [`ClientConnection`].
pub struct ClientIo(pub Rc<ClientConnection>);

impl ClientConnection {
    /// A new connection; with `refused` its client is told so at once.
    pub fn new(stream: TcpStream, worker: Rc<Worker>, refused: Option<Refused>) -> Self {
        let deadline = || Deadline::new(worker.deadlines.clone());
        let mut state = State {
            stream: TokioIo::new(stream),
            phase: Phase::Start,
            ahead: Bytes::new(),
            checked: 0,
            looked_at: 0,
            refused: None,
            waiting: deadline(),
            stalled: deadline(),
            draining: false,
            gone: false,
            flush: Flush::Unasked,
            is_unflushed: false,
            reader: None,
        };
        if let Some(refused) = refused {
            state.refuse(refused);
        }
        Self { worker, state: RefCell::new(state), open: Cell::new(0), end_delimits: Cell::new(false) }
    }

    /// Whether it speaks HTTP/2.
    pub fn is_http2(&self) -> bool {
        matches!(self.state.borrow().phase, Phase::Http2)
    }

    /// Why the request that hyper has just read is refused, if it is.
    pub fn take_refused(&self) -> Option<Refused> {
        self.state.borrow_mut().refused.take()
    }

    /// Counts a request that is being answered, and returns how many there were before.
    pub fn begin(&self) -> usize {
        let mut state = self.state.borrow_mut();
        state.waiting.stop();
        state.flush = Flush::Unasked;
        self.open.replace(self.open.get() + 1)
    }

    /// Counts it as answered.
    pub fn end(&self) {
        self.open.set(self.open.get().saturating_sub(1));
        let mut state = self.state.borrow_mut();
        if self.open.get() > 0 {
            return;
        }
        let Some(reader) = state.reader.take() else { return };
        if state.ahead.is_empty() && !state.draining {
            // hyper need not look again: it waits for the client already.
            let _ = state.waiting.poll(IDLE, &Context::from_waker(&reader));
            state.reader = Some(reader);
        } else {
            reader.wake();
        }
    }

    /// From now on the connection ends when it is idle.
    pub fn drain(&self) {
        let mut state = self.state.borrow_mut();
        state.draining = true;
        if let Some(reader) = state.reader.take() {
            reader.wake();
        }
    }

    /// Over HTTP/1: sets when a response may not go on although the client takes nothing of it.
    pub fn watch(&self, watch: impl FnOnce(&mut Deadline)) {
        let mut state = self.state.borrow_mut();
        watch(&mut state.stalled);
    }

    /// Whether all content of the request has arrived. It may not have been read.
    pub fn has_all_content(&self) -> bool {
        let state = self.state.borrow();
        let Phase::Content(mut framing) = state.phase else { return true };
        let mut rest = state.ahead.slice(state.checked..);
        while let Ok(Some(_)) = framing.next(&mut rest) {}
        framing.is_complete()
    }

    /// The output of `answer`; `None` if the client goes away before it is there. For HTTP/1 alone: HTTP/2 resets the stream.
    pub async fn unless_gone<F: Future + Unpin>(&self, mut answer: F) -> Option<F::Output> {
        std::future::poll_fn(|cx| {
            if let Poll::Ready(answer) = Pin::new(&mut answer).poll(cx) {
                return Poll::Ready(Some(answer));
            }
            self.poll_gone(cx).map(|()| None)
        })
        .await
    }

    /// Ready when the client has gone. Otherwise the task is woken when that may be so, unless as much is there as is read ahead:
    /// content that nobody wants yet, or the next request.
    pub fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<()> {
        let state = &mut *self.state.borrow_mut();
        if matches!(state.phase, Phase::Http2) { Poll::Pending } else { self.poll_ahead(state, cx) }
    }

    fn poll_ahead(&self, state: &mut State, cx: &mut Context<'_>) -> Poll<()> {
        while !state.gone && state.ahead.len() < READ {
            if ready!(self.poll_fill(state, cx)) && matches!(state.phase, Phase::Content(_)) {
                // hyper may wait for it, and was not woken by it.
                cx.waker().wake_by_ref();
            }
        }
        if state.gone { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Reads more; `false` at the end.
    fn poll_fill(&self, state: &mut State, cx: &mut Context<'_>) -> Poll<bool> {
        let read = ready!(self.worker.scratch.poll_read(state.stream.inner_mut(), &mut state.ahead, READ, cx));
        state.gone = !matches!(read, Ok(1..));
        Poll::Ready(!state.gone)
    }

    fn poll_read(&self, mut buffer: ReadBufCursor<'_>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let state = &mut *self.state.borrow_mut();
        loop {
            if state.checked > 0 {
                let length = state.checked.min(buffer.remaining());
                buffer.put_slice(state.ahead.get(..length).unwrap_or_default());
                skip(&mut state.ahead, length);
                state.checked -= length;
                return Poll::Ready(Ok(()));
            }
            let is_over = match state.phase {
                Phase::Http2 => return self.poll_http2(state, buffer, cx),
                Phase::Content(framing) => {
                    state.pass_content(framing)?;
                    state.checked == 0 && !ready!(self.poll_fill(state, cx))
                }
                Phase::Start | Phase::Head if self.open.get() == 0 => {
                    let Poll::Ready(is_over) = self.poll_head(state, cx) else {
                        state.keep(cx);
                        return Poll::Pending;
                    };
                    is_over
                }
                // The next head has to wait; hyper only wants to know whether the client is still there.
                Phase::Start | Phase::Head | Phase::Refused => {
                    if self.poll_ahead(state, cx).is_pending() {
                        state.keep(cx);
                        return Poll::Pending;
                    }
                    true
                }
            };
            if is_over {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Checks the next head; `true` if the connection ends instead.
    fn poll_head(&self, state: &mut State, cx: &mut Context<'_>) -> Poll<bool> {
        loop {
            let is_idle = state.skip_empty_lines();
            if !is_idle && state.looked_at == 0 {
                // The time of a head begins with its first byte.
                state.waiting.stop();
            }
            if !is_idle && state.check_ahead() {
                state.waiting.stop();
                return Poll::Ready(false);
            }
            // To hyper an end before its response is written is a client that has gone.
            if state.gone || is_idle && state.draining && !state.is_unflushed {
                return Poll::Ready(true);
            }
            if self.poll_fill(state, cx).is_pending() {
                ready!(state.waiting.poll(IDLE, cx));
                if is_idle {
                    return Poll::Ready(true);
                }
                state.refuse(Refused::Head(Refusal::TooSlow));
                return Poll::Ready(false);
            }
        }
    }

    fn poll_http2(&self, state: &mut State, buffer: ReadBufCursor<'_>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut state.stream).poll_read(cx, buffer);
        if read.is_pending() && self.open.get() == 0 && state.waiting.poll(IDLE, cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        state.keep(cx);
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
            state.stalled.stop();
            return written;
        }
        if state.stalled.end_reason().is_some() {
            return Poll::Ready(Err(io::Error::new(ErrorKind::TimedOut, "the response may not go on")));
        }
        ready!(state.stalled.poll(self.worker.forwarder.client_timeout(), cx));
        Poll::Ready(Err(io::Error::new(ErrorKind::TimedOut, "the client takes nothing of its response")))
    }

    /// Ready when all that hyper was given is with the system. hyper drops what it still holds when a response fails.
    pub fn poll_flushed(&self, cx: &Context<'_>) -> Poll<()> {
        let state = &mut *self.state.borrow_mut();
        if state.flush == Flush::Done {
            state.flush = Flush::Unasked;
            return Poll::Ready(());
        }
        state.flush = Flush::Asked;
        state.keep(cx);
        Poll::Pending
    }

    /// Ends the connection. What the client still sends is thrown away until it closes its side, too, or pauses for [`PAUSE`]:
    /// otherwise the system would answer it with a reset, and the client's system may then drop the response (RFC 9112 §9.6).
    pub async fn close(&self) {
        let until = self.now().checked_add(LINGER).unwrap_or(Timestamp::MAX);
        let mut waiting = Deadline::new(self.worker.deadlines.clone());
        std::future::poll_fn(|cx| {
            let state = &mut *self.state.borrow_mut();
            while !state.gone && self.now() < until {
                state.ahead = Bytes::new();
                match self.poll_fill(state, cx) {
                    Poll::Ready(_) => waiting.restart(PAUSE),
                    Poll::Pending => return waiting.poll(PAUSE, cx),
                }
            }
            Poll::Ready(())
        })
        .await;
    }

    /// Sets whether the end of the connection is the end of the response.
    pub fn end_delimits(&self, delimits: bool) {
        self.end_delimits.set(delimits);
    }

    /// Ends the connection after a response that failed, with a reset where nothing else tells the client that it is not whole.
    pub fn abort(&self) {
        if self.end_delimits.get() {
            // If that fails, the connection is closed.
            let _ = self.state.borrow().stream.inner().set_zero_linger();
        }
    }

    fn now(&self) -> Timestamp {
        self.worker.deadlines.time()
    }
}

impl State {
    /// Skips empty lines, which some clients send behind a request's content (RFC 9112 §2.2). Whether nothing else is there.
    fn skip_empty_lines(&mut self) -> bool {
        while self.ahead.starts_with(b"\r\n") {
            skip(&mut self.ahead, 2);
        }
        matches!(self.ahead[..], [] | [b'\r'])
    }

    /// Whether hyper may have something of what was read.
    fn check_ahead(&mut self) -> bool {
        if matches!(self.phase, Phase::Start) {
            if self.ahead.starts_with(PREFACE) {
                (self.phase, self.checked) = (Phase::Http2, self.ahead.len());
                return true;
            }
            self.looked_at = self.ahead.len();
            if PREFACE.starts_with(&self.ahead) {
                return false;
            }
            (self.phase, self.looked_at) = (Phase::Head, 0);
        }
        let new = self.ahead.get(self.looked_at..).unwrap_or_default();
        if self.looked_at > 0 && !new.contains(&b'\n') && self.ahead.len() < MAX_HEAD {
            return false;
        }
        match check_head(&self.ahead) {
            Ok(None) => {
                self.looked_at = self.ahead.len();
                false
            }
            Ok(Some(head)) => {
                (self.checked, self.looked_at) = (head.length, 0);
                self.phase = if head.framing.is_complete() { Phase::Head } else { Phase::Content(head.framing) };
                true
            }
            Err(refusal) => {
                self.refuse(Refused::Head(refusal));
                true
            }
        }
    }

    fn pass_content(&mut self, mut framing: Framing) -> io::Result<()> {
        let mut rest = self.ahead.clone();
        loop {
            match framing.next(&mut rest) {
                Ok(Some(_)) => (),
                Ok(None) => break,
                Err(error) => return Err(io::Error::new(ErrorKind::InvalidData, error)),
            }
        }
        self.checked = self.ahead.len() - rest.len();
        self.phase = if framing.is_complete() { Phase::Head } else { Phase::Content(framing) };
        Ok(())
    }

    fn refuse(&mut self, why: Refused) {
        (self.phase, self.refused) = (Phase::Refused, Some(why));
        (self.ahead, self.checked) = (Bytes::from_static(REFUSED), REFUSED.len());
    }

    fn keep(&mut self, cx: &Context<'_>) {
        match &mut self.reader {
            Some(reader) => reader.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
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

    /// hyper calls this when it holds nothing back.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let state = &mut *self.0.state.borrow_mut();
        let was_unflushed = std::mem::replace(&mut state.is_unflushed, false);
        let is_awaited = state.flush == Flush::Asked || state.draining && was_unflushed;
        if state.flush == Flush::Asked {
            state.flush = Flush::Done;
        }
        if is_awaited && let Some(reader) = &state.reader {
            reader.wake_by_ref();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.state.borrow_mut().stream).poll_shutdown(cx)
    }
}
