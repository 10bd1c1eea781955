use std::{
    cell::RefCell,
    io, mem,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, ReadBuf};

/// How much is read at once at most.
const SIZE: usize = 64 * 1024;

/// Where a worker's connections, to clients and to the upstream, read to, one after the other: so one over which nothing comes holds
/// no buffer.
pub struct Scratch(RefCell<Box<[u8]>>);

impl Default for Scratch {
    fn default() -> Self {
        Self(RefCell::new(vec![0; SIZE].into()))
    }
}

impl Scratch {
    /// Appends what is there, up to `most` bytes, to what was `read` before; none at the end of the stream.
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn poll_read(
        &self,
        stream: &mut (impl AsyncRead + Unpin),
        read: &mut Bytes,
        most: usize,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let scratch = &mut *self.0.borrow_mut();
        let most = most.min(scratch.len());
        let mut buffer = ReadBuf::new(scratch.get_mut(..most).unwrap_or_default());
        ready!(Pin::new(stream).poll_read(cx, &mut buffer))?;
        let new = buffer.filled();
        *read = if read.is_empty() {
            Bytes::copy_from_slice(new)
        } else {
            let mut all = BytesMut::from(mem::take(read));
            all.extend_from_slice(new);
            all.freeze()
        };
        Poll::Ready(Ok(new.len()))
    }
}
