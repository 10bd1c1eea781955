use std::{
    cell::RefCell,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker, ready},
};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use thiserror::Error;

use super::BoxError;

/// The most bytes that are kept of a body to be sent again. MCP's first messages are far smaller.
const MAX_KEPT: usize = 64 * 1024;

/// A request's body on its way to the upstream, which may be one that can be sent again.
pub struct Replay<B>(Inner<B>);

enum Inner<B> {
    Once(B),
    Kept { kept: Rc<RefCell<Kept<B>>>, turn: u32, next: usize },
}

struct Kept<B> {
    body: B,
    /// A copy: what arrives in small parts would hold much more than that.
    read: BytesMut,
    /// Only the newest of the bodies reads on.
    turn: u32,
    /// It was too large to be kept.
    lost: bool,
    waiting: Option<Waker>,
}

/// The right to send a body again, from its beginning.
pub struct Again<B>(Rc<RefCell<Kept<B>>>);

/// A body was begun anew on another connection, so this one is of no use any more.
#[derive(Debug, Error)]
#[error("the request is sent to another path")]
struct SentAgain;

impl<B> Replay<B> {
    /// One that costs nothing.
    pub fn once(body: B) -> Self {
        Self(Inner::Once(body))
    }

    /// One that can be sent again, if it is not large.
    pub fn kept(body: B) -> (Self, Again<B>) {
        let kept = Kept { body, read: BytesMut::new(), turn: 0, lost: false, waiting: None };
        let kept = Rc::new(RefCell::new(kept));
        (Self(Inner::Kept { kept: kept.clone(), turn: 0, next: 0 }), Again(kept))
    }
}

impl<B> Again<B> {
    /// The body from its beginning: what has been read of it, then what has not yet arrived. `None` if it was too large.
    pub fn body(self) -> Option<Replay<B>> {
        let mut kept = self.0.borrow_mut();
        if kept.lost {
            return None;
        }
        kept.turn += 1;
        // Or it would wait for a part that the new one gets, and keep its connection open.
        if let Some(before) = kept.waiting.take() {
            before.wake();
        }
        let turn = kept.turn;
        drop(kept);
        Some(Replay(Inner::Kept { kept: self.0, turn, next: 0 }))
    }
}

impl<B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin> Body for Replay<B> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let (kept, turn, next) = match &mut self.get_mut().0 {
            Inner::Once(body) => return Pin::new(body).poll_frame(cx).map_err(Into::into),
            Inner::Kept { kept, turn, next } => (kept, *turn, next),
        };
        let kept = &mut *kept.borrow_mut();
        if kept.turn != turn {
            return Poll::Ready(Some(Err(SentAgain.into())));
        }
        if let Some(before @ [_, ..]) = kept.read.get(*next..) {
            *next += before.len();
            return Poll::Ready(Some(Ok(Frame::data(Bytes::copy_from_slice(before)))));
        }
        kept.waiting = Some(cx.waker().clone());
        let frame = ready!(Pin::new(&mut kept.body).poll_frame(cx));
        // Nothing is sent a third time.
        if let (Some(data), 0) = (frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref()), turn) {
            kept.lost |= kept.read.len() + data.len() > MAX_KEPT;
            if kept.lost {
                (kept.read, *next) = (BytesMut::new(), 0);
            } else {
                kept.read.extend_from_slice(data);
                *next += data.len();
            }
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Inner::Once(body) => body.is_end_stream(),
            Inner::Kept { kept, next, .. } => {
                let kept = kept.borrow();
                *next >= kept.read.len() && kept.body.is_end_stream()
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        let (kept, next) = match &self.0 {
            Inner::Once(body) => return body.size_hint(),
            Inner::Kept { kept, next, .. } => (kept.borrow(), *next),
        };
        let before = kept.read.len().saturating_sub(next) as u64;
        let mut hint = kept.body.size_hint();
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper + before);
        }
        hint.set_lower(hint.lower() + before);
        hint
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

    #[tokio::test]
    async fn replayed_body_starts_at_the_beginning() {
        let (first, again) = Replay::kept(frames(vec![b"one ".to_vec(), b"two".to_vec()]));
        assert_eq!(text(first).await.unwrap(), "one two");
        let second = again.body().unwrap();
        assert_eq!(text(second).await.unwrap(), "one two");
    }

    #[tokio::test]
    async fn replayed_body_has_the_same_length() {
        let (mut first, again) = Replay::kept(Full::new(Bytes::from("{}")));
        assert_eq!(first.size_hint().exact(), Some(2));
        first.frame().await.unwrap().unwrap();
        assert_eq!((first.size_hint().exact(), first.is_end_stream()), (Some(0), true));
        let second = again.body().unwrap();
        assert_eq!((second.size_hint().exact(), second.is_end_stream()), (Some(2), false));
    }

    #[tokio::test]
    async fn rest_of_a_replayed_body_goes_to_the_second_reader() {
        let (sender, receiver) = mpsc::unbounded::<Result<Frame<Bytes>, Infallible>>();
        let send = |text: &'static str| sender.unbounded_send(Ok(Frame::data(Bytes::from(text)))).unwrap();
        let (mut first, again) = Replay::kept(StreamBody::new(receiver));
        send("one ");
        first.frame().await.unwrap().unwrap();
        let local = tokio::task::LocalSet::new();
        let first = local.spawn_local(async move { first.frame().await });
        local.run_until(tokio::task::yield_now()).await;
        let second = again.body().unwrap();
        // Nothing else wakes it.
        local.run_until(tokio::task::yield_now()).await;
        assert!(first.is_finished());
        assert!(local.run_until(first).await.unwrap().unwrap().is_err());
        send("two");
        drop(sender);
        assert_eq!(text(second).await.unwrap(), "one two");
    }

    #[tokio::test]
    async fn large_body_passes_without_being_kept() {
        let (first, again) = Replay::kept(frames(vec![vec![b'a'; MAX_KEPT], vec![b'b'; 1], vec![b'c'; 1]]));
        assert_eq!(text(first).await.unwrap().len(), MAX_KEPT + 2);
        assert!(again.body().is_none());
    }
}
