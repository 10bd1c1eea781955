use std::{
    net::IpAddr,
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll, ready},
    time::Instant,
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::Full;

use super::{
    deadline::Deadline,
    limits::Permit,
    pool::Lease,
    request_body::RequestBodyError,
    watched::{Cut, Watched},
};
use crate::proxy::{
    observability::{audit, metrics::WorkerMetrics},
    sessions::LiveSession,
};
use crate::reasons::{ResponseCut, StreamEnd};

/// What a body may fail with.
pub use crate::http1::BoxError;

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
    /// `None` when it has ended.
    lease: Option<Lease>,
    watched: Watched,
    _permit: Permit,
    /// Only of an event stream.
    stream: Option<Box<OpenStream>>,
}

/// An event stream to a client, from the head of the answer until it is dropped.
#[derive(Debug)]
pub struct OpenStream {
    metrics: Arc<WorkerMetrics>,
    session: Arc<LiveSession>,
    from: IpAddr,
    begun: Instant,
    /// The client's ear for what the server has to say by itself, rather than the answer to a message.
    listens: bool,
    ended: StreamEnd,
}

impl OpenStream {
    /// The answer to a request that began at `begun`.
    pub(super) fn new(
        metrics: Arc<WorkerMetrics>,
        session: Arc<LiveSession>,
        from: IpAddr,
        begun: Instant,
        listens: bool,
    ) -> Self {
        metrics.open_streams.fetch_add(1, Relaxed);
        Self { metrics, session, from, begun, listens, ended: StreamEnd::ClientGone }
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.metrics.open_streams.fetch_sub(1, Relaxed);
        self.metrics.ended_streams.count(self.ended);
        // Not of each answer that came as a stream: that would be a line a request.
        if self.listens || self.ended != StreamEnd::Finished {
            audit::stream_end(self.session.caller(), self.ended, self.begun.elapsed(), self.from);
        }
    }
}

impl UpstreamBody {
    pub(super) fn new(lease: Lease, watched: Watched, permit: Permit, stream: Option<OpenStream>) -> Self {
        let mut body = Self { lease: Some(lease), watched, _permit: permit, stream: stream.map(Box::new) };
        if body.left() == Some(0) {
            body.give_back();
        }
        body
    }

    /// How many bytes are still to come, if that is known.
    fn left(&self) -> Option<u64> {
        self.lease.as_ref().map_or(Some(0), Lease::left)
    }

    /// The upstream has said all.
    fn give_back(&mut self) {
        if let Some(stream) = &mut self.stream {
            stream.ended = StreamEnd::Finished;
        }
        if let Some(lease) = self.lease.take() {
            lease.give_back();
        }
    }

    /// The client gets no more. Without its lease the upstream connection is closed, so the upstream sees that nobody listens any
    /// more.
    fn cut(&mut self, stream_end: StreamEnd, answer_cut: ResponseCut) {
        let lease = self.lease.take();
        match (&mut self.stream, lease) {
            (Some(stream), _) => stream.ended = stream_end,
            (None, Some(lease)) => lease.cut(answer_cut),
            (None, None) => (),
        }
    }

    /// Half of an answer must not look like a whole one; a stream may end anywhere.
    fn end<T>(&mut self, cut: Cut) -> Poll<Option<Result<T, BoxError>>> {
        tracing::debug!(%cut, "response closed");
        match cut {
            Cut::Session => self.cut(StreamEnd::SessionEnded, ResponseCut::SessionEnded),
            Cut::Token => self.cut(StreamEnd::TokenEnded, ResponseCut::TokenEnded),
            Cut::Silent => self.cut(StreamEnd::Silent, ResponseCut::Silent),
            Cut::Leaving => self.cut(StreamEnd::Leaving, ResponseCut::Leaving),
        }
        Poll::Ready(if self.stream.is_some() { None } else { Some(Err(cut.into())) })
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Some(lease) = &mut self.lease else { return Poll::Ready(None) };
        if let Some(cut) = self.watched.cut() {
            return self.end(cut);
        }
        let Poll::Ready(content) = lease.poll_content(cx) else {
            let cut = ready!(self.watched.poll_cut(cx));
            return self.end(cut);
        };
        self.watched.heard();
        match &content {
            Some(Ok(_)) if self.left() != Some(0) => (),
            Some(Ok(_)) | None => self.give_back(),
            Some(Err(error)) if RequestBodyError::cause_of(error).is_some() => {
                tracing::debug!(%error, "response closed with its request");
                self.lease = None;
            }
            Some(Err(error)) => {
                tracing::warn!(%error, "the upstream closed the connection in the middle of a response");
                self.cut(StreamEnd::UpstreamFailed, ResponseCut::UpstreamFailed);
            }
        }
        Poll::Ready(content.map(|content| content.map(Frame::data).map_err(Into::into)))
    }
}

impl Body {
    /// A body of a text of ours.
    pub fn text(text: impl Into<Bytes>) -> Self {
        Self::Full(Full::new(text.into()))
    }
}

impl Body {
    /// Lets `deadline` watch the session and the token that the response depends on.
    pub fn watch(&self, deadline: &mut Deadline) {
        if let Self::Upstream(body) = self {
            body.watched.wake_with(deadline);
        }
    }
}

impl Drop for UpstreamBody {
    /// A client that takes nothing may have kept it from being read when its session ended.
    fn drop(&mut self) {
        if self.lease.is_some()
            && let Some(cut) = self.watched.cut()
        {
            let _ = self.end::<()>(cut);
        }
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
            Self::Upstream(body) => body.left() == Some(0),
            Self::Full(body) => body.is_end_stream(),
            Self::Axum(body) => body.is_end_stream(),
            Self::Empty => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Upstream(body) => body.left().map_or_else(SizeHint::default, SizeHint::with_exact),
            Self::Full(body) => body.size_hint(),
            Self::Axum(body) => body.size_hint(),
            Self::Empty => SizeHint::with_exact(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        proxy::sessions::{LiveSet, SessionEvent},
        session::tests::session,
        telemetry::{LogFormat, testing::Log},
    };

    #[test]
    fn listening_and_cut_streams_are_audited_and_finished_ones_are_not() {
        let (log, _listening) = Log::listen("info", LogFormat::Json);
        let (set, session) = (LiveSet::default(), session("a"));
        set.apply(SessionEvent::Is(session.clone()));
        let live = set.get(&session.id).unwrap();
        for (listens, ended) in [
            (true, StreamEnd::Finished),
            (true, StreamEnd::ClientGone),
            (false, StreamEnd::Finished),
            (false, StreamEnd::SessionEnded),
        ] {
            let from = [198, 51, 100, 7].into();
            let mut stream = OpenStream::new(Arc::default(), live.clone(), from, Instant::now(), listens);
            stream.ended = ended;
        }
        let lines = log.lines();
        let reasons: Vec<_> = lines.iter().map(|line| line["reason"].as_str().unwrap()).collect();
        assert_eq!(reasons, ["finished", "client_gone", "session_ended"]);
        assert_eq!((&lines[0]["event"], &lines[0]["user"]), (&"stream_end".into(), &"ada@example.com".into()));
        assert_eq!((&lines[0]["from"], &lines[0]["session"]), (&"198.51.100.7".into(), &live.id.to_string().into()));
        assert!(lines[0]["seconds"].is_number() && lines[0]["client"].is_string());
    }
}
