use std::{
    net::IpAddr,
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::Full;

use super::{deadline::Deadline, limits::Permit, pool::Lease, request_body::RequestBodyError};
use crate::end_reasons::{ResponseCutReason, StreamEndReason};
pub use crate::http1::BoxError;
use crate::proxy::{
    observability::{audit, metrics::WorkerMetrics},
    sessions::LiveSession,
};

/// The body of every response. One concrete type, so that forwarding boxes nothing.
pub enum Body {
    Upstream(UpstreamBody),
    Full(Full<Bytes>),
    /// A response of the authorization server.
    Axum(axum::body::Body),
    Empty,
}

/// The body of an upstream response. It ends with its session, and returns the connection to the pool at its end.
pub struct UpstreamBody {
    /// `None` after the end.
    lease: Option<Lease>,
    /// Limits pauses of the upstream, and watches the session and the access token.
    deadline: Deadline,
    idle_timeout: Duration,
    _permit: Permit,
    /// `None` if the response is no event stream.
    stream: Option<Box<OpenStream>>,
}

/// Counts and audits an event stream to a client, from the response head until it is dropped.
#[derive(Debug)]
pub struct OpenStream {
    metrics: Arc<WorkerMetrics>,
    session: Arc<LiveSession>,
    client: IpAddr,
    start: Instant,
    /// Whether this is the standalone GET event stream.
    is_standalone: bool,
    end: StreamEndReason,
}

impl OpenStream {
    /// `start` is when the request arrived.
    pub(super) fn new(
        metrics: Arc<WorkerMetrics>,
        session: Arc<LiveSession>,
        client: IpAddr,
        start: Instant,
        is_standalone: bool,
    ) -> Self {
        metrics.open_streams.fetch_add(1, Relaxed);
        Self { metrics, session, client, start, is_standalone, end: StreamEndReason::ClientGone }
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.metrics.open_streams.fetch_sub(1, Relaxed);
        self.metrics.ended_streams.count(self.end);
        // Complete responses to messages are not audited: that would be a line for each request.
        if self.is_standalone || self.end != StreamEndReason::Finished {
            audit::stream_end(self.session.caller(), self.end, self.start.elapsed(), self.client);
        }
    }
}

impl UpstreamBody {
    pub(super) fn new(
        lease: Lease,
        mut deadline: Deadline,
        idle_timeout: Duration,
        permit: Permit,
        stream: Option<OpenStream>,
    ) -> Self {
        deadline.restart(idle_timeout);
        let stream = stream.map(Box::new);
        let mut body = Self { lease: Some(lease), deadline, idle_timeout, _permit: permit, stream };
        if body.remaining() == Some(0) {
            body.finish();
        }
        body
    }

    /// The remaining bytes, if known.
    fn remaining(&self) -> Option<u64> {
        self.lease.as_ref().map_or(Some(0), Lease::remaining)
    }

    /// Returns the connection to the pool after the whole response.
    fn finish(&mut self) {
        if let Some(stream) = &mut self.stream {
            stream.end = StreamEndReason::Finished;
        }
        if let Some(lease) = self.lease.take() {
            lease.return_to_pool();
        }
    }

    /// Ends the response early and closes the upstream connection, so that the upstream stops sending.
    fn cut(&mut self, reason: ResponseCutReason) {
        tracing::debug!(reason = reason.as_str(), "response cut");
        let lease = self.lease.take();
        if let Some(stream) = &mut self.stream {
            stream.end = match reason {
                ResponseCutReason::UpstreamFailed => StreamEndReason::UpstreamFailed,
                ResponseCutReason::SessionEnded => StreamEndReason::SessionEnded,
                ResponseCutReason::TokenEnded => StreamEndReason::TokenEnded,
                ResponseCutReason::Silent => StreamEndReason::Silent,
                ResponseCutReason::Leaving => StreamEndReason::Leaving,
            };
        } else if let Some(lease) = lease {
            lease.cut(reason);
        }
    }

    /// An incomplete response must not look complete; an event stream may end anywhere.
    fn end<T>(&mut self, reason: ResponseCutReason) -> Poll<Option<Result<T, BoxError>>> {
        self.cut(reason);
        let error = || Err(format!("response cut: {}", reason.as_str()).into());
        Poll::Ready(self.stream.is_none().then(error))
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Some(lease) = &mut self.lease else { return Poll::Ready(None) };
        if let Some(reason) = self.deadline.end_reason() {
            return self.end(reason);
        }
        let Poll::Ready(content) = lease.poll_content(cx) else {
            ready!(self.deadline.poll(self.idle_timeout, cx));
            return self.end(ResponseCutReason::Silent);
        };
        self.deadline.restart(self.idle_timeout);
        match &content {
            Some(Ok(_)) if self.remaining() != Some(0) => (),
            Some(Ok(_)) | None => self.finish(),
            Some(Err(error)) if RequestBodyError::cause_of(error).is_some() => {
                tracing::debug!(%error, "response cut because its request failed");
                self.lease = None;
            }
            Some(Err(error)) => {
                tracing::warn!(%error, "the upstream connection failed in the middle of a response");
                self.cut(ResponseCutReason::UpstreamFailed);
            }
        }
        Poll::Ready(content.map(|content| content.map(Frame::data).map_err(Into::into)))
    }
}

impl Drop for UpstreamBody {
    /// Records why the response ended if its client read nothing since.
    fn drop(&mut self) {
        if self.lease.is_some()
            && let Some(reason) = self.deadline.end_reason()
        {
            self.cut(reason);
        }
    }
}

impl Body {
    pub fn text(text: impl Into<Bytes>) -> Self {
        Self::Full(Full::new(text.into()))
    }

    /// Lets `deadline` watch the session and the token that the response depends on.
    pub fn watch(&self, deadline: &mut Deadline) {
        deadline.watch(match self {
            Self::Upstream(body) => body.deadline.credentials().cloned(),
            _ => None,
        });
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
            Self::Upstream(body) => body.remaining() == Some(0),
            Self::Full(body) => body.is_end_stream(),
            Self::Axum(body) => body.is_end_stream(),
            Self::Empty => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Upstream(body) => body.remaining().map_or_else(SizeHint::default, SizeHint::with_exact),
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
        testing::{Log, session},
    };

    #[test]
    fn standalone_and_cut_streams_are_audited_and_finished_ones_are_not() {
        let (log, _listening) = Log::listen("info");
        let (set, session) = (LiveSet::default(), session("a"));
        set.apply(SessionEvent::Is(session.clone()));
        let live = set.get(&session.id).unwrap();
        for (is_standalone, end) in [
            (true, StreamEndReason::Finished),
            (true, StreamEndReason::ClientGone),
            (false, StreamEndReason::Finished),
            (false, StreamEndReason::SessionEnded),
        ] {
            let client = [198, 51, 100, 7].into();
            let mut stream = OpenStream::new(Arc::default(), live.clone(), client, Instant::now(), is_standalone);
            stream.end = end;
        }
        let lines = log.lines();
        let reasons: Vec<_> = lines.iter().map(|line| line["reason"].as_str().unwrap()).collect();
        assert_eq!(reasons, ["finished", "client_gone", "session_ended"]);
        assert_eq!((&lines[0]["event"], &lines[0]["user"]), (&"stream_end".into(), &"ada@example.com".into()));
        assert_eq!((&lines[0]["from"], &lines[0]["session"]), (&"198.51.100.7".into(), &live.id.to_string().into()));
        assert!(lines[0]["seconds"].is_number() && lines[0]["client"].is_string());
    }
}
