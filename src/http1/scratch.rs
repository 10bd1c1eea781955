use std::{
    cell::RefCell,
    io, mem,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, ReadBuf};

/// Maximum bytes per read.
const SIZE: usize = 64 * 1024;

/// Read buffer shared by all client and upstream connections of a worker. An idle connection holds no buffer.
pub struct Scratch(RefCell<Box<[u8]>>);

impl Default for Scratch {
    fn default() -> Self {
        Self(RefCell::new(vec![0; SIZE].into()))
    }
}

impl Scratch {
    /// Appends up to `max` available bytes to `read` and returns their number; 0 at the end of the stream.
    pub fn poll_read(
        &self,
        stream: &mut (impl AsyncRead + Unpin),
        read: &mut Bytes,
        max: usize,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let scratch = &mut *self.0.borrow_mut();
        let max = max.min(scratch.len());
        let mut buffer = ReadBuf::new(scratch.get_mut(..max).unwrap_or_default());
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
