use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;

use super::{
    limits::Permit,
    pool::Lease,
    watched::{Cut, Watched},
};

/// What a body may fail with.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The body of every response: one concrete type, so that forwarding boxes nothing.
pub enum Body {
    /// The upstream's answer, as it comes.
    Upstream(UpstreamBody),
    /// An answer of ours.
    Full(Full<Bytes>),
    /// An answer of the axum router.
    Axum(axum::body::Body),
    /// None.
    Empty,
}

/// The upstream's answer: ends when its session ends, and gives the connection back when it was read to its end.
pub struct UpstreamBody {
    incoming: Incoming,
    lease: Option<Lease>,
    watched: Watched,
    _permit: Permit,
    is_stream: bool,
    ended: bool,
}

impl UpstreamBody {
    pub(super) fn new(incoming: Incoming, lease: Lease, watched: Watched, permit: Permit, is_stream: bool) -> Self {
        let mut body = Self { incoming, lease: Some(lease), watched, _permit: permit, is_stream, ended: false };
        if body.incoming.is_end_stream() {
            body.give_back();
        }
        body
    }

    fn give_back(&mut self) {
        if let Some(lease) = self.lease.take() {
            lease.give_back();
        }
    }

    /// Without its lease the upstream connection is closed, so the upstream sees that nobody listens any more. Half of an answer
    /// must not look like a whole one; a stream may end anywhere.
    fn end<T>(&mut self, cut: Cut) -> Poll<Option<Result<T, BoxError>>> {
        tracing::debug!(%cut, "an answer is ended");
        self.ended = true;
        self.lease = None;
        Poll::Ready(if self.is_stream { None } else { Some(Err(cut.into())) })
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        if let Some(cut) = self.watched.cut() {
            return self.end(cut);
        }
        let frame = match &mut self.lease {
            Some(lease) => lease.poll_frame(cx, &mut self.incoming),
            None => Pin::new(&mut self.incoming).poll_frame(cx),
        };
        let Poll::Ready(frame) = frame else {
            let cut = ready!(self.watched.poll_cut(cx));
            return self.end(cut);
        };
        self.watched.heard();
        match &frame {
            Some(Ok(_)) if self.incoming.is_end_stream() => self.give_back(),
            None => self.give_back(),
            Some(_) => (),
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }
}

impl Body {
    /// A body of a text of ours.
    pub fn text(text: impl Into<Bytes>) -> Self {
        Self::Full(Full::new(text.into()))
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        match self.get_mut() {
            Self::Upstream(body) => body.poll(cx),
            Self::Full(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
            Self::Axum(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
            Self::Empty => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Upstream(body) => body.ended || body.incoming.is_end_stream(),
            Self::Full(body) => body.is_end_stream(),
            Self::Axum(body) => body.is_end_stream(),
            Self::Empty => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Upstream(body) => body.incoming.size_hint(),
            Self::Full(body) => body.size_hint(),
            Self::Axum(body) => body.size_hint(),
            Self::Empty => SizeHint::with_exact(0),
        }
    }
}
