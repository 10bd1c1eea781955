use std::{
    io::{self, ErrorKind, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use hyper::rt::{Read, ReadBuf, ReadBufCursor, Write};

use crate::proxy::forward::{Deadline, Unread};

/// How long a client that has its answer may go on sending the request.
const LINGER: Duration = Duration::from_secs(10);

/// A client's connection that is given up when the client takes nothing of what is sent to it for too long. Until then nothing
/// more is read from the upstream for it either.
pub struct Patient<T> {
    io: T,
    patience: Duration,
    stalled: Deadline,
    unread: Unread,
    is_shut: bool,
}

impl<T> Patient<T> {
    /// A connection whose client may let us wait for so long.
    pub fn new(io: T, patience: Duration, stalled: Deadline, unread: Unread) -> Self {
        Self { io, patience, stalled, unread, is_shut: false }
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
        Pin::new(&mut self.io).poll_read(cx, buffer)
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
    /// answer it with a reset, and with that the client's system forgets the answer (RFC 9112 §9.6).
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.is_shut {
            ready!(Pin::new(&mut this.io).poll_shutdown(cx))?;
            this.is_shut = true;
            this.stalled.stop();
        }
        while this.unread.is_there() {
            let mut space = [0; 4096];
            let mut read = ReadBuf::new(&mut space);
            match Pin::new(&mut this.io).poll_read(cx, read.unfilled()) {
                Poll::Ready(Ok(())) if !read.filled().is_empty() => (),
                Poll::Ready(_) => break,
                Poll::Pending => return this.stalled.poll(LINGER, cx).map(Ok),
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
    use jiff::Timestamp;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;
    use crate::proxy::forward::Deadlines;

    fn pair(unread: Unread) -> (Rc<Deadlines>, Patient<TokioIo<DuplexStream>>, DuplexStream) {
        let deadlines = Rc::new(Deadlines::new(Timestamp::UNIX_EPOCH));
        let (ours, client) = duplex(1024);
        let patient = Patient::new(TokioIo::new(ours), Duration::ZERO, Deadline::new(deadlines.clone()), unread);
        (deadlines, patient, client)
    }

    async fn shut(patient: &mut Patient<TokioIo<DuplexStream>>) -> io::Result<()> {
        std::future::poll_fn(|cx| Pin::new(&mut *patient).poll_shutdown(cx)).await
    }

    #[tokio::test]
    async fn a_connection_without_an_unread_request_is_shut_at_once() {
        let (_, mut patient, _client) = pair(Unread::default());
        assert!(poll!(std::pin::pin!(shut(&mut patient))).is_ready());
    }

    #[tokio::test]
    async fn the_rest_of_a_request_is_thrown_away_until_the_client_is_done_or_for_ten_seconds() {
        for is_done in [true, false] {
            let (deadlines, mut patient, mut client) = pair(Unread::testing());
            let mut shutting = std::pin::pin!(shut(&mut patient));
            assert!(poll!(&mut shutting).is_pending());
            assert_eq!(client.read(&mut [0]).await.unwrap(), 0, "the client sees the end of its answer");
            for _ in 0..3 {
                client.write_all(&[0; 1024]).await.unwrap();
                assert!(poll!(&mut shutting).is_pending());
            }
            if is_done {
                client.shutdown().await.unwrap();
            } else {
                (0..22).for_each(|_| deadlines.tick(Timestamp::UNIX_EPOCH));
            }
            assert!(poll!(&mut shutting).is_ready());
        }
    }
}
