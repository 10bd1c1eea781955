use std::{
    cell::RefCell,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};

use super::BoxError;

/// Maximum bytes kept of a body. Most messages of MCP are far smaller.
const MAX_KEPT: usize = 64 * 1024;

/// A request body that can be sent again from its beginning.
pub struct Replay<B> {
    source: Rc<RefCell<Source<B>>>,
    /// How much of the kept data has been read.
    position: usize,
}

struct Source<B> {
    body: B,
    /// A copy of what was read, because slices of many short reads would hold larger buffers. `None` if the body is too large.
    kept: Option<BytesMut>,
}

impl<B> Replay<B> {
    pub fn new(body: B) -> Self {
        let source = Source { body, kept: Some(BytesMut::new()) };
        Self { source: Rc::new(RefCell::new(source)), position: 0 }
    }

    /// Another reader of the same body. It starts at the beginning only if it [`Self::is_complete`].
    pub fn reader(&self) -> Self {
        Self { source: self.source.clone(), position: 0 }
    }

    /// Whether everything that was read is kept.
    pub fn is_complete(&self) -> bool {
        self.source.borrow().kept.is_some()
    }
}

impl<B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin> Body for Replay<B> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Self { source, position } = &mut *self;
        let Source { body, kept } = &mut *source.borrow_mut();
        if let Some(unread @ [_, ..]) = kept.as_ref().and_then(|kept| kept.get(*position..)) {
            *position += unread.len();
            return Poll::Ready(Some(Ok(Frame::data(Bytes::copy_from_slice(unread)))));
        }
        let frame = ready!(Pin::new(body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let (Some(data), Some(copy)) = (frame.data_ref(), &mut *kept)
        {
            if copy.len() + data.len() > MAX_KEPT {
                *kept = None;
            } else {
                copy.extend_from_slice(data);
                *position = copy.len();
            }
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.unread() == 0 && self.source.borrow().body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (unread, mut hint) = (self.unread(), self.source.borrow().body.size_hint());
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper + unread);
        }
        hint.set_lower(hint.lower() + unread);
        hint
    }
}

impl<B> Replay<B> {
    /// Bytes of the kept data that this reader has not returned.
    fn unread(&self) -> u64 {
        let kept = self.source.borrow().kept.as_ref().map_or(0, BytesMut::len);
        kept.saturating_sub(self.position) as u64
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures::{StreamExt, channel::mpsc, stream};
    use http_body_util::{BodyExt, Full, StreamBody};

    use super::*;

    async fn text<B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin>(body: Replay<B>) -> Result<String, BoxError> {
        Ok(String::from_utf8(body.collect().await?.to_bytes().to_vec())?)
    }

    fn frames(parts: Vec<Vec<u8>>) -> impl Body<Data = Bytes, Error = Infallible> + Unpin {
        StreamBody::new(stream::iter(parts).map(|part| Ok(Frame::data(Bytes::from(part)))))
    }

    /// A body, and a second reader of it.
    fn replay<B>(body: B) -> (Replay<B>, Replay<B>) {
        let first = Replay::new(body);
        let second = first.reader();
        (first, second)
    }

    #[tokio::test]
    async fn replayed_body_starts_at_the_beginning() {
        let (first, second) = replay(frames(vec![b"one ".to_vec(), b"two".to_vec()]));
        assert_eq!(text(first).await.unwrap(), "one two");
        assert!(second.is_complete());
        assert_eq!(text(second).await.unwrap(), "one two");
    }

    #[tokio::test]
    async fn replayed_body_has_the_same_length() {
        let (mut first, second) = replay(Full::new(Bytes::from("{}")));
        assert_eq!(first.size_hint().exact(), Some(2));
        first.frame().await.unwrap().unwrap();
        assert_eq!((first.size_hint().exact(), first.is_end_stream()), (Some(0), true));
        assert_eq!((second.size_hint().exact(), second.is_end_stream()), (Some(2), false));
    }

    #[tokio::test]
    async fn rest_of_a_replayed_body_goes_to_the_second_reader() {
        let (sender, receiver) = mpsc::unbounded::<Result<Frame<Bytes>, Infallible>>();
        let send = |text: &'static str| sender.unbounded_send(Ok(Frame::data(Bytes::from(text)))).unwrap();
        let (mut first, second) = replay(StreamBody::new(receiver));
        send("one ");
        first.frame().await.unwrap().unwrap();
        drop(first);
        send("two");
        drop(sender);
        assert!(second.is_complete());
        assert_eq!(text(second).await.unwrap(), "one two");
    }

    #[tokio::test]
    async fn large_body_passes_without_being_kept() {
        let (first, second) = replay(frames(vec![vec![b'a'; MAX_KEPT], vec![b'b'; 1], vec![b'c'; 1]]));
        assert_eq!(text(first).await.unwrap().len(), MAX_KEPT + 2);
        assert!(!second.is_complete());
    }
}
