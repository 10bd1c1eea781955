use std::{future::poll_fn, pin::pin, task::Poll, time::Instant};

use http::StatusCode;

use super::{
    Body, Worker,
    admission::{Admitted, Answered},
    answers,
    bearer::Refusal,
    body::{OpenStream, UpstreamBody},
    deadline::Deadline,
    headers, mcp_session,
    pool::UpstreamError,
    redirect::{self, SendError},
    request_body::RequestBodyError,
    watched::Watched,
};
use crate::{crypto::now_seconds, proxy::observability::metrics::Outcome};

/// Why the upstream's answer is not waited for any longer.
enum Unanswered {
    /// It did not begin in time.
    TimedOut,
    /// The session or the token ended before the client had sent all of its request.
    Over,
}

/// Sends a request that began at `begun` to the upstream, and makes of what comes the client's answer. `path` is as the client
/// spelled it.
pub async fn exchange(admitted: Admitted<'_>, worker: &Worker, begun: Instant, path: &str) -> Answered {
    let Admitted { caller, keyring, client, permit, listens, spelling, target, head, body, upload } = admitted;
    let pace = &worker.forwarder.pace;
    let mut sent = pin!(redirect::send(&worker.pool, &worker.forwarder.places, spelling, target, head, body));
    let until = caller.expires.saturating_add(pace.stream_grace);
    let mut waiting = Deadline::new(worker.deadlines.clone());
    waiting.watch(caller.session.clone(), i64::try_from(until).unwrap_or(i64::MAX));
    let answered = poll_fn(|cx| {
        if let Poll::Ready(answered) = sent.as_mut().poll(cx) {
            return Poll::Ready(Ok(answered));
        }
        if upload.take_wanted() {
            // Half of a request has done nothing yet; a whole one is not taken back.
            let now = worker.deadlines.time();
            if !caller.session.admits(now) || now_seconds(now) >= until {
                return Poll::Ready(Err(Unanswered::Over));
            }
            // The upstream's time begins anew with all that it takes; how long the client takes is the body's business.
            waiting.stop();
        }
        waiting.poll(pace.response, cx).map(|()| Err(Unanswered::TimedOut))
    });
    let answered = match answered.await {
        Ok(answered) => answered,
        Err(Unanswered::TimedOut) => {
            tracing::warn!("the upstream did not start its response in time");
            return (Outcome::TimedOut, answers::gateway_timeout());
        }
        Err(Unanswered::Over) => {
            let refusal = Refusal::InvalidToken("the session or the access token has ended: log in again");
            return (refusal.outcome(), refusal.response(&worker.forwarder.server, path));
        }
    };
    let (mut response, lease) = match answered {
        Ok(answered) => answered,
        Err(error @ SendError::Changed) => {
            tracing::warn!(%error, "a request was not sent again");
            return (Outcome::Unavailable, answers::upstream_changed());
        }
        Err(error @ SendError::Elsewhere(_)) => {
            tracing::warn!(%error, "a redirect is not followed");
            return (Outcome::BadGateway, answers::bad_gateway("the upstream redirects elsewhere"));
        }
        Err(SendError::Upstream(UpstreamError::Broken(broken))) => {
            tracing::debug!(error = %broken, "a request was not forwarded");
            return (Outcome::Broken, answers::broken(broken));
        }
        Err(SendError::Upstream(error)) => {
            if let Some(error) = RequestBodyError::cause_of(&error) {
                tracing::debug!(%error, "a request was not forwarded to its end");
                return (Outcome::Refused, answers::refuse_body(error));
            }
            tracing::warn!(%error, "the upstream sent no response");
            return (Outcome::BadGateway, answers::bad_gateway("the upstream cannot be reached or broke off"));
        }
    };
    if response.status() == StatusCode::UNAUTHORIZED || response.status() == StatusCode::SWITCHING_PROTOCOLS {
        // A 401 would send the client into a login that cannot help: it is we whom the upstream does not accept.
        tracing::warn!(status = %response.status(), "the upstream does not accept the proxy's requests");
        return (Outcome::BadGateway, answers::bad_gateway("the upstream does not accept the proxy's requests"));
    }
    headers::allow_any_origin(response.headers_mut());
    mcp_session::bind(&keyring, &caller.session.user, response.headers_mut());
    let is_stream = headers::is_event_stream(response.headers());
    let idle = if is_stream { pace.stream } else { pace.response };
    let stream =
        is_stream.then(|| OpenStream::new(worker.metrics.clone(), caller.session.clone(), client, begun, listens));
    let watched = Watched::new(waiting, caller.session, until, idle);
    (Outcome::Forwarded, response.map(|()| Body::Upstream(UpstreamBody::new(lease, watched, permit, stream))))
}
