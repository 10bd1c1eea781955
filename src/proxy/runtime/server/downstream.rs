use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    io::{self, ErrorKind},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use jiff::SignedDuration;
use tokio::{io::AsyncWrite, net::TcpStream};

use super::head::{Head, MAX_HEAD, Refusal, read_head};
use crate::{
    http1::{Framing, Scratch, WireError, skip},
    proxy::{
        resource_server::{Deadline, Upload},
        runtime::drain::Watch,
    },
};

/// How long an idle connection is kept: longer than the gateways before us keep theirs (nginx and AWS: 60 s), or they would send a
/// request into a connection that we are closing. And how long a head may take from its first byte on.
const HEADER_TIMEOUT: Duration = Duration::from_secs(75);

/// How much is read of a client at once: with a head that is not whole, a connection holds no more than that and this.
const READ: usize = 16 * 1024;

/// How long a client may go on sending when it has its last answer.
const LINGER: SignedDuration = SignedDuration::from_secs(10);

/// How long it may pause in that.
const PAUSE: Duration = Duration::from_secs(2);

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// A client's connection: HTTP/1.1 as a server speaks it (RFC 9112), one request after the other. Its own task reads a head, waits
/// for the answer and writes it; whoever answers reads the content meanwhile.
pub struct Downstream {
    state: RefCell<State>,
    scratch: Rc<Scratch>,
    /// Somebody has asked for content since this was looked at.
    wanted: Cell<bool>,
}

struct State {
    stream: TcpStream,
    /// What was read and is not yet taken.
    read: Bytes,
    /// How much of that was looked at for a head: of one that comes byte by byte not each byte is reason for a look at all of it.
    looked_at: usize,
    /// Of the request's content.
    framing: Framing,
    /// The client waits for [`CONTINUE`] before it sends any of it; what is left of that to be sent.
    unsaid: &'static [u8],
    /// The content makes no sense, so that nothing that follows does.
    broken: bool,
}

/// Why there is no next request.
#[derive(Debug)]
pub enum NoRequest {
    /// The client has gone, or sent nothing for too long, or we are about to go.
    Over,
    /// Something else came.
    Refused(Refusal),
}

impl Downstream {
    /// A connection over which nothing has come yet.
    pub fn new(stream: TcpStream, scratch: Rc<Scratch>) -> Self {
        let (read, framing) = (Bytes::new(), Framing::Length(0));
        let state = State { stream, read, looked_at: 0, framing, unsaid: &[], broken: false };
        Self { state: RefCell::new(state), scratch, wanted: Cell::new(false) }
    }

    /// The next request; its content is read by [`Upload`]. `waiting` must not be running.
    ///
    /// # Errors
    /// See [`NoRequest`].
    pub async fn next(&self, end: &mut Watch, waiting: &mut Deadline) -> Result<Head, NoRequest> {
        let next = poll_fn(|cx| self.poll_next(end, waiting, cx)).await;
        waiting.stop();
        next
    }

    fn poll_next(
        &self,
        end: &mut Watch,
        waiting: &mut Deadline,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Head, NoRequest>> {
        let state = &mut *self.state.borrow_mut();
        loop {
            let is_idle = state.skip_empty_lines();
            if !is_idle && state.looked_at == 0 {
                // A head's time begins with its first byte.
                waiting.stop();
            }
            if !is_idle && state.is_worth_a_look() {
                if let Some(head) = read_head(&mut state.read).map_err(NoRequest::Refused)? {
                    (state.framing, state.looked_at) = (head.framing, 0);
                    state.unsaid = if head.expects && !head.framing.is_over() { CONTINUE } else { &[] };
                    return Poll::Ready(Ok(head));
                }
                state.looked_at = state.read.len();
            }
            if is_idle && end.poll_begun(cx).is_ready() {
                return Poll::Ready(Err(NoRequest::Over));
            }
            match self.scratch.poll_read(&mut state.stream, &mut state.read, READ, cx) {
                Poll::Ready(Ok(1..)) => (),
                Poll::Ready(_) => return Poll::Ready(Err(NoRequest::Over)),
                Poll::Pending => {
                    ready!(waiting.poll(HEADER_TIMEOUT, cx));
                    let why = if is_idle { NoRequest::Over } else { NoRequest::Refused(Refusal::TooSlow) };
                    return Poll::Ready(Err(why));
                }
            }
        }
    }

    /// What `answer` gives; `None` if the client goes before.
    pub async fn unless_gone<F: Future + Unpin>(&self, mut answer: F) -> Option<F::Output> {
        poll_fn(|cx| {
            if let Poll::Ready(answer) = Pin::new(&mut answer).poll(cx) {
                return Poll::Ready(Some(answer));
            }
            self.poll_gone(cx).map(|()| None)
        })
        .await
    }

    /// Ready when the client has gone. Otherwise the task is woken when that may be so, unless more is there than is read ahead: what
    /// nobody wants yet of the request, or what may be the next one.
    pub fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<()> {
        let state = &mut *self.state.borrow_mut();
        while state.read.len() < READ {
            match ready!(self.scratch.poll_read(&mut state.stream, &mut state.read, READ, cx)) {
                // Somebody may wait for that who was asked before it came.
                Ok(1..) if !state.framing.is_over() => cx.waker().wake_by_ref(),
                Ok(1..) => (),
                Ok(0) | Err(_) => return Poll::Ready(()),
            }
        }
        Poll::Pending
    }

    /// Writes of `bytes` what the client takes. It may let us wait for `patience`.
    ///
    /// # Errors
    /// When it has gone, or takes nothing for too long.
    pub fn poll_write(
        &self,
        bytes: &[u8],
        patience: Duration,
        stalled: &mut Deadline,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let state = &mut *self.state.borrow_mut();
        if state.unsaid.len() == CONTINUE.len() {
            // It is too late for that.
            state.unsaid = &[];
        }
        let written = match state.poll_say(cx) {
            Poll::Ready(Ok(())) => Pin::new(&mut state.stream).poll_write(cx, bytes),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        };
        if written.is_ready() {
            stalled.stop();
            return written;
        }
        ready!(stalled.poll(patience, cx));
        Poll::Ready(Err(io::Error::new(ErrorKind::TimedOut, "the client takes nothing of its answer")))
    }

    /// Whether all of the request has been read. Of content that nobody wants, what is there is thrown away; for the rest of it
    /// nobody waits.
    pub fn is_read(&self) -> bool {
        let state = &mut *self.state.borrow_mut();
        while let Some(data) = state.framing.next(&mut state.read).transpose() {
            state.broken |= data.is_err();
            if state.broken {
                return false;
            }
        }
        state.framing.is_over() && !state.broken
    }

    /// Ends the connection. What the client still sends is thrown away until it has closed its side, too, or says nothing for
    /// [`PAUSE`]: a closed connection would answer it with a reset, and with that the client's system may forget the answer (RFC 9112
    /// §9.6).
    pub async fn close(&self, waiting: &mut Deadline) {
        if poll_fn(|cx| Pin::new(&mut self.state.borrow_mut().stream).poll_shutdown(cx)).await.is_err() {
            return;
        }
        let until = waiting.all().time().checked_add(LINGER).unwrap_or(jiff::Timestamp::MAX);
        poll_fn(|cx| {
            let state = &mut *self.state.borrow_mut();
            while waiting.all().time() < until {
                state.read = Bytes::new();
                match self.scratch.poll_read(&mut state.stream, &mut state.read, usize::MAX, cx) {
                    Poll::Ready(Ok(1..)) => waiting.restart(PAUSE),
                    Poll::Ready(_) => break,
                    Poll::Pending => return waiting.poll(PAUSE, cx),
                }
            }
            Poll::Ready(())
        })
        .await;
    }

    /// Breaks the connection off, so that nobody takes what was sent for a whole answer.
    pub fn reset(&self) {
        // If that cannot be said, it is closed.
        let _ = self.state.borrow().stream.set_zero_linger();
    }
}

impl State {
    /// Takes the empty lines that some clients send behind a request's content (RFC 9112 §2.2). Whether nothing else is there.
    fn skip_empty_lines(&mut self) -> bool {
        while self.read.starts_with(b"\r\n") {
            skip(&mut self.read, 2);
        }
        matches!(self.read[..], [] | [b'\r'])
    }

    /// Whether a head may be there to its end, or is refused.
    fn is_worth_a_look(&self) -> bool {
        let new = self.read.get(self.looked_at..).unwrap_or_default();
        self.looked_at == 0 || new.contains(&b'\n') || self.read.len() >= MAX_HEAD
    }

    fn poll_say(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.unsaid.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, self.unsaid))?;
            self.unsaid = self.unsaid.get(written..).unwrap_or_default();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_data(&mut self, scratch: &Scratch, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, WireError>> {
        loop {
            let data = self.framing.next(&mut self.read)?;
            if data.is_some() || self.framing.is_over() {
                return Poll::Ready(Ok(data));
            }
            ready!(self.poll_say(cx))?;
            if ready!(scratch.poll_read(&mut self.stream, &mut self.read, READ, cx))? == 0 {
                return Poll::Ready(Err(WireError::Incomplete));
            }
        }
    }
}

impl Upload for Downstream {
    fn poll_data(&self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, WireError>> {
        self.wanted.set(true);
        let state = &mut *self.state.borrow_mut();
        if state.broken {
            return Poll::Ready(Err(WireError::Incomplete));
        }
        let data = ready!(state.poll_data(&self.scratch, cx));
        state.broken = data.is_err();
        Poll::Ready(data)
    }

    fn left(&self) -> Option<u64> {
        self.state.borrow().framing.left()
    }

    fn take_wanted(&self) -> bool {
        self.wanted.take()
    }
}

#[cfg(test)]
mod tests;
