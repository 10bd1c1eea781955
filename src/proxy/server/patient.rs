use std::{
    io::{self, ErrorKind, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use hyper::rt::{Read, ReadBuf, ReadBufCursor, Write};
use jiff::{SignedDuration, Timestamp};

use crate::proxy::forward::{Deadline, Upload};

/// How long a client that has its answer may go on sending the request.
const LINGER: SignedDuration = SignedDuration::from_secs(10);

/// How long it may pause in that.
const PAUSE: Duration = Duration::from_secs(2);

/// A client's connection that is given up when the client takes nothing of what is sent to it for too long. Until then nothing
/// more is read from the upstream for it either.
pub struct Patient<T> {
    io: T,
    patience: Duration,
    stalled: Deadline,
    upload: Upload,
    /// Since when our side is shut.
    lingering: Option<Timestamp>,
}

impl<T> Patient<T> {
    /// A connection whose client may let us wait for so long.
    pub fn new(io: T, patience: Duration, stalled: Deadline, upload: Upload) -> Self {
        Self { io, patience, stalled, upload, lingering: None }
    }

    fn written(&mut self, cx: &Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.stalled.stop();
            return written;
        }
        ready!(self.stalled.poll(self.patience, cx));
        Poll::Ready(Err(io::Error::new(ErrorKind::TimedOut, "the client takes nothing of its answer")))
    }
}

impl<T: Read + Unpin> Read for Patient<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.io).poll_read(cx, buffer);
        if read.is_ready() {
            // Of a head that hyper refuses nobody else is told.
            self.upload.expect_more();
        }
        read
    }
}

impl<T: Read + Write + Unpin> Write for Patient<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.written(cx, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    /// What the client sends before it has read the answer to a part of its request is thrown away: a closed connection would
    /// answer it with a reset, and with that the client's system may forget the answer (RFC 9112 §9.6).
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let begun = match this.lingering {
            Some(begun) => begun,
            None => {
                ready!(Pin::new(&mut this.io).poll_shutdown(cx))?;
                this.stalled.stop();
                *this.lingering.insert(this.stalled.all().time())
            }
        };
        while this.stalled.all().time().duration_since(begun) < LINGER {
            let mut space = [0; 4096];
            let mut read = ReadBuf::new(&mut space);
            match Pin::new(&mut this.io).poll_read(cx, read.unfilled()) {
                Poll::Ready(Ok(())) if !read.filled().is_empty() => this.stalled.restart(PAUSE),
                Poll::Pending if this.upload.is_unread() => return this.stalled.poll(PAUSE, cx).map(Ok),
                Poll::Ready(_) | Poll::Pending => break,
            }
        }
        Poll::Ready(Ok(()))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, parts);
        self.written(cx, written)
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use futures::poll;
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;
    use crate::proxy::forward::Deadlines;

    type Connection = Patient<TokioIo<DuplexStream>>;

    fn pair(upload: Upload) -> (Rc<Deadlines>, Connection, DuplexStream) {
        let deadlines = Rc::new(Deadlines::new(Timestamp::UNIX_EPOCH));
        let (ours, client) = duplex(1024);
        let patient = Patient::new(TokioIo::new(ours), Duration::ZERO, Deadline::new(deadlines.clone()), upload);
        (deadlines, patient, client)
    }

    async fn shut(connection: &mut Connection) -> io::Result<()> {
        std::future::poll_fn(|cx| Pin::new(&mut *connection).poll_shutdown(cx)).await
    }

    #[tokio::test]
    async fn a_connection_over_which_nothing_is_to_come_is_closed_at_once() {
        let (_, mut connection, _client) = pair(Upload::default());
        assert!(poll!(std::pin::pin!(shut(&mut connection))).is_ready());
    }

    #[tokio::test]
    async fn what_comes_after_the_answer_is_thrown_away_until_the_client_is_done() {
        for is_head in [false, true] {
            let (_, mut connection, mut client) = pair(if is_head { Upload::default() } else { Upload::testing() });
            if is_head {
                client.write_all(b"GET /").await.unwrap();
                let mut space = [0; 5];
                let mut head = ReadBuf::new(&mut space);
                let read = std::future::poll_fn(|cx| Pin::new(&mut connection).poll_read(cx, head.unfilled()));
                read.await.unwrap();
            }
            let mut shutting = std::pin::pin!(shut(&mut connection));
            assert!(poll!(&mut shutting).is_pending());
            assert_eq!(client.read(&mut [0]).await.unwrap(), 0, "the client sees the end of its answer");
            for _ in 0..3 {
                client.write_all(&[0; 1024]).await.unwrap();
                assert!(poll!(&mut shutting).is_pending());
            }
            client.shutdown().await.unwrap();
            assert!(poll!(&mut shutting).is_ready());
        }
    }

    #[tokio::test]
    async fn a_client_that_has_its_answer_may_pause_for_two_seconds_and_send_for_ten() {
        let (deadlines, mut connection, _client) = pair(Upload::testing());
        let mut shutting = std::pin::pin!(shut(&mut connection));
        assert!(poll!(&mut shutting).is_pending());
        (0..4).for_each(|_| deadlines.tick(Timestamp::UNIX_EPOCH));
        assert!(poll!(&mut shutting).is_pending());
        (0..2).for_each(|_| deadlines.tick(Timestamp::UNIX_EPOCH));
        assert!(poll!(&mut shutting).is_ready());

        let (deadlines, mut connection, mut client) = pair(Upload::testing());
        let mut shutting = std::pin::pin!(shut(&mut connection));
        for second in 0..10 {
            deadlines.tick(Timestamp::from_second(second).unwrap());
            assert!(poll!(&mut shutting).is_pending(), "{second}");
            client.write_all(b"a").await.unwrap();
        }
        deadlines.tick(Timestamp::from_second(10).unwrap());
        assert!(poll!(&mut shutting).is_ready());
    }
}
