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
use crate::proxy::{
    drain::Watch,
    forward::{
        Deadline, Upload,
        wire::{Framing, Scratch, WireError, skip},
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
                // Should somebody wait for that who was asked before it came.
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
mod tests {
    use std::future::pending;

    use futures::poll;
    use jiff::Timestamp;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;
    use crate::proxy::{
        drain::Drain,
        forward::{Deadlines, TICK},
    };

    struct Bed {
        deadlines: Rc<Deadlines>,
        connection: Downstream,
        drain: Rc<Drain>,
        end: Watch,
        waiting: Deadline,
        client: TcpStream,
    }

    impl Bed {
        async fn new() -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (stream, _) = listener.accept().await.unwrap();
            let deadlines = Rc::new(Deadlines::new(Timestamp::UNIX_EPOCH));
            let (connection, waiting) = (Downstream::new(stream, Rc::default()), Deadline::new(deadlines.clone()));
            let drain = Rc::new(Drain::default());
            Self { deadlines, connection, end: drain.watch(), drain, waiting, client }
        }

        async fn next(&mut self) -> Result<Head, NoRequest> {
            self.connection.next(&mut self.end, &mut self.waiting).await
        }

        async fn data(&self) -> Result<Option<Bytes>, WireError> {
            poll_fn(|cx| self.connection.poll_data(cx)).await
        }
    }

    /// What is sent arrives at once or a moment later.
    async fn arrived(connection: &Downstream) {
        poll_fn(|cx| connection.state.borrow().stream.poll_read_ready(cx)).await.unwrap();
    }

    #[tokio::test]
    async fn requests_and_their_content_follow_each_other() {
        let mut bed = Bed::new().await;
        let first = "POST /a HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\n{}";
        let second = "POST /b HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n2\r\n[]\r\n0\r\n\r\n";
        bed.client.write_all(format!("{first}{second}GET /c HTTP/1.1\r\n\r\n").as_bytes()).await.unwrap();
        for (path, content) in [("/a", Some("{}")), ("/b", Some("[]")), ("/c", None)] {
            let head = bed.next().await.unwrap();
            assert_eq!((head.request.uri.path(), bed.connection.left() == Some(0)), (path, content.is_none()));
            if let Some(content) = content {
                bed.connection.take_wanted();
                assert_eq!(bed.data().await.unwrap().unwrap(), content);
                assert!(bed.connection.take_wanted() && !bed.connection.take_wanted());
            }
            assert_eq!(bed.data().await.unwrap(), None);
            assert!(bed.connection.is_read());
        }
        assert!(poll!(std::pin::pin!(bed.next())).is_pending());
        bed.client.shutdown().await.unwrap();
        assert!(matches!(bed.next().await, Err(NoRequest::Over)));
    }

    #[tokio::test]
    async fn a_head_that_comes_byte_by_byte_is_looked_at_when_a_line_ends() {
        let mut bed = Bed::new().await;
        let head = "GET /a HTTP/1.1\r\nhost: a\r\n\r\n";
        let mut looks = 0;
        for (index, byte) in head.bytes().enumerate() {
            bed.client.write_all(&[byte]).await.unwrap();
            arrived(&bed.connection).await;
            let before = bed.connection.state.borrow().looked_at;
            let next = poll!(std::pin::pin!(bed.connection.next(&mut bed.end, &mut bed.waiting)));
            assert_eq!(next.is_ready(), index == head.len() - 1);
            looks += usize::from(bed.connection.state.borrow().looked_at != before);
        }
        // At the first byte, and then a line each; the last look finds it.
        assert_eq!(looks, 4);
        assert!(bed.connection.state.borrow().read.is_empty());
    }

    #[tokio::test]
    async fn who_waits_for_a_word_before_the_content_gets_it_when_the_content_is_wanted() {
        let mut bed = Bed::new().await;
        let head = b"POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n";
        bed.client.write_all(head).await.unwrap();
        bed.next().await.unwrap();
        assert!(!bed.connection.is_read());
        assert!(bed.client.try_read(&mut [0]).is_err());
        assert!(poll!(std::pin::pin!(bed.data())).is_pending());
        assert!(poll!(std::pin::pin!(bed.data())).is_pending());
        let mut word = [0; CONTINUE.len()];
        bed.client.read_exact(&mut word).await.unwrap();
        assert_eq!(word, CONTINUE);
        bed.client.write_all(b"{}").await.unwrap();
        assert_eq!(bed.data().await.unwrap().unwrap(), "{}");
        assert!(bed.client.try_read(&mut [0]).is_err());

        let mut bed = Bed::new().await;
        bed.client.write_all(head).await.unwrap();
        bed.next().await.unwrap();
        let write = poll_fn(|cx| bed.connection.poll_write(b"HTTP/1.1 4", PAUSE, &mut bed.waiting, cx));
        assert_eq!(write.await.unwrap(), 10);
        assert!(poll!(std::pin::pin!(bed.data())).is_pending());
        let mut answer = [0; 20];
        assert_eq!(bed.client.read(&mut answer).await.unwrap(), 10, "nobody is asked to go on after the answer");
    }

    #[tokio::test]
    async fn what_makes_no_sense_ends_the_connection() {
        let mut bed = Bed::new().await;
        bed.client.write_all(b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nx\r\n").await.unwrap();
        bed.next().await.unwrap();
        assert!(bed.data().await.is_err() && bed.data().await.is_err());
        assert!(!bed.connection.is_read());

        let mut bed = Bed::new().await;
        bed.client.write_all(b"nonsense\r\n\r\n").await.unwrap();
        assert!(matches!(bed.next().await, Err(NoRequest::Refused(Refusal::Malformed(_)))));

        let mut bed = Bed::new().await;
        bed.client.write_all(b"POST / HTTP/1.1\r\ncontent-length: 2\r\n\r\n{").await.unwrap();
        bed.next().await.unwrap();
        bed.data().await.unwrap();
        drop(bed.client);
        let mut broken = poll_fn(|cx| bed.connection.poll_data(cx));
        assert!(matches!((&mut broken).await, Err(WireError::Incomplete)));
    }

    #[tokio::test]
    async fn a_head_has_75_seconds_and_so_has_an_idle_connection() {
        let mut bed = Bed::new().await;
        let (deadlines, ticks) = (bed.deadlines.clone(), HEADER_TIMEOUT.as_millis() / TICK.as_millis());
        let tick = |ticks| (0..ticks).for_each(|_| deadlines.tick(Timestamp::UNIX_EPOCH));
        {
            let mut next = std::pin::pin!(bed.next());
            assert!(poll!(&mut next).is_pending());
            tick(ticks);
            assert!(poll!(&mut next).is_pending());
            tick(2);
            assert!(matches!(next.await, Err(NoRequest::Over)));
        }
        assert!(poll!(std::pin::pin!(bed.next())).is_pending());
        tick(ticks);
        // An empty line is nothing, and a head's time begins with its first byte.
        bed.client.write_all(b"\r\n").await.unwrap();
        arrived(&bed.connection).await;
        assert!(poll!(std::pin::pin!(bed.connection.next(&mut bed.end, &mut bed.waiting))).is_pending());
        bed.client.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        arrived(&bed.connection).await;
        let mut next = std::pin::pin!(bed.connection.next(&mut bed.end, &mut bed.waiting));
        assert!(poll!(&mut next).is_pending());
        for _ in 0..ticks {
            tick(1);
            assert!(poll!(&mut next).is_pending());
            bed.client.write_all(b"a").await.unwrap();
        }
        tick(2);
        assert!(matches!(next.await, Err(NoRequest::Refused(Refusal::TooSlow))));
    }

    #[tokio::test]
    async fn when_the_worker_ends_an_idle_connection_is_over_and_a_request_that_has_begun_is_not() {
        for sent in ["", "\r\n", "\r\n\r"] {
            let mut bed = Bed::new().await;
            bed.client.write_all(sent.as_bytes()).await.unwrap();
            if !sent.is_empty() {
                arrived(&bed.connection).await;
                assert!(poll!(std::pin::pin!(bed.next())).is_pending());
            }
            bed.drain.begin();
            assert!(matches!(bed.next().await, Err(NoRequest::Over)), "{sent:?}");
        }

        let mut bed = Bed::new().await;
        bed.client.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        arrived(&bed.connection).await;
        assert!(poll!(std::pin::pin!(bed.next())).is_pending());
        bed.drain.begin();
        bed.client.write_all(b"\r\n").await.unwrap();
        assert!(bed.next().await.is_ok());
        assert!(matches!(bed.next().await, Err(NoRequest::Over)));
    }

    #[tokio::test]
    async fn that_the_client_has_gone_is_noticed_unless_it_has_said_more() {
        let mut bed = Bed::new().await;
        assert_eq!(bed.connection.unless_gone(std::future::ready(1)).await, Some(1));
        assert!(poll!(poll_fn(|cx| bed.connection.poll_gone(cx))).is_pending());
        bed.client.shutdown().await.unwrap();
        assert_eq!(bed.connection.unless_gone(pending::<()>()).await, None);

        // What is there of this request or of the next one does not hide it, and is not lost.
        for (sent, left) in
            [("GET /a HTTP/1.1\r\ncontent-length: 2\r\n\r\n{", "{"), ("GET /a HTTP/1.1\r\n\r\nGET /next", "GET /next")]
        {
            let mut bed = Bed::new().await;
            bed.client.write_all(sent.as_bytes()).await.unwrap();
            bed.next().await.unwrap();
            for _ in 0..3 {
                assert!(poll!(poll_fn(|cx| bed.connection.poll_gone(cx))).is_pending());
            }
            assert_eq!(bed.connection.state.borrow().read, left);
            bed.client.shutdown().await.unwrap();
            poll_fn(|cx| bed.connection.poll_gone(cx)).await;
        }
    }

    #[tokio::test]
    async fn whoever_waits_for_content_hears_of_what_was_read_ahead() {
        let mut bed = Bed::new().await;
        bed.client.write_all(b"POST / HTTP/1.1\r\ncontent-length: 2\r\n\r\n").await.unwrap();
        bed.next().await.unwrap();
        let connection = bed.connection;
        let content = poll_fn(|cx| connection.poll_data(cx));
        let read = connection.unless_gone(content);
        let (read, ()) = futures::join!(read, async { bed.client.write_all(b"{}").await.unwrap() });
        assert_eq!(read.unwrap().unwrap().unwrap(), "{}");
    }

    #[tokio::test]
    async fn no_more_is_read_ahead_than_a_little() {
        let mut bed = half_read().await;
        bed.client.write_all(&[0; 4 * READ]).await.unwrap();
        for _ in 0..3 {
            arrived(&bed.connection).await;
            assert!(poll!(poll_fn(|cx| bed.connection.poll_gone(cx))).is_pending());
        }
        assert!(bed.connection.state.borrow().read.len() < 2 * READ);
    }

    /// A connection whose client has sent a part of its request.
    async fn half_read() -> Bed {
        let mut bed = Bed::new().await;
        bed.client.write_all(b"POST / HTTP/1.1\r\ncontent-length: 1000000\r\n\r\n").await.unwrap();
        bed.next().await.unwrap();
        bed
    }

    #[tokio::test]
    async fn what_comes_after_the_answer_is_thrown_away_until_the_client_is_done() {
        let Bed { connection, mut waiting, mut client, .. } = Bed::new().await;
        let mut closing = std::pin::pin!(connection.close(&mut waiting));
        assert!(poll!(&mut closing).is_pending());
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0, "the client sees the end of its answer");
        for _ in 0..3 {
            client.write_all(&[0; 1024]).await.unwrap();
            assert!(poll!(&mut closing).is_pending());
        }
        client.shutdown().await.unwrap();
        closing.await;
    }

    #[tokio::test]
    async fn a_client_that_has_its_answer_may_pause_for_two_seconds_and_send_for_ten() {
        let Bed { deadlines, connection, mut waiting, client: _client, .. } = Bed::new().await;
        let mut closing = std::pin::pin!(connection.close(&mut waiting));
        assert!(poll!(&mut closing).is_pending());
        (0..4).for_each(|_| deadlines.tick(Timestamp::UNIX_EPOCH));
        assert!(poll!(&mut closing).is_pending());
        (0..2).for_each(|_| deadlines.tick(Timestamp::UNIX_EPOCH));
        assert!(poll!(&mut closing).is_ready());

        let Bed { deadlines, connection, mut waiting, mut client, .. } = Bed::new().await;
        let mut closing = std::pin::pin!(connection.close(&mut waiting));
        for second in 0..10 {
            deadlines.tick(Timestamp::from_second(second).unwrap());
            assert!(poll!(&mut closing).is_pending(), "{second}");
            client.write_all(b"a").await.unwrap();
            arrived(&connection).await;
        }
        deadlines.tick(Timestamp::from_second(10).unwrap());
        assert!(poll!(&mut closing).is_ready());
    }
}
