use std::{
    future::poll_fn,
    task::{Poll, ready},
    time::Instant,
};

use http::StatusCode;

use super::{
    Body, Forwarder, Worker,
    admission::Admitted,
    bearer::BearerError,
    body::{OpenStream, UpstreamBody},
    deadline::{Deadline, ResponseCredentials},
    headers, mcp_session,
    pool::UpstreamError,
    redirect::{self, SendError},
    request_body::RequestBodyError,
    responses::{self, CountedResponse, bad_gateway},
};
use crate::{end_reasons::ResponseCutReason, proxy::observability::metrics::Outcome};

/// Sends a request that arrived at `start` to the upstream, and makes the client's response. `path` is as the client spelled it.
pub async fn exchange(admitted: Admitted, worker: &Worker, start: Instant, path: &str) -> CountedResponse {
    let Admitted { caller, keyring, client, permit, is_standalone, target, head, body, upload } = admitted;
    let Forwarder { server, timeouts, stream_grace, .. } = &*worker.forwarder;
    let until = i64::try_from(caller.expires.saturating_add(*stream_grace)).unwrap_or(i64::MAX);
    let mut deadline = Deadline::new(worker.deadlines.clone());
    deadline.watch(Some(ResponseCredentials { session: caller.session.clone(), until }));
    // Boxed, because the C library allocates slowly above 1032 bytes, which the state of a request would exceed.
    let mut sending = Box::pin(redirect::send(worker, path, target, head, body));
    let sent = poll_fn(|cx| {
        if let Poll::Ready(sent) = sending.as_mut().poll(cx) {
            return Poll::Ready(sent.map_err(|error| send_failed(&error)));
        }
        if upload.take_polled() {
            // An incomplete request has had no effect yet; a complete one is not taken back.
            if let Some(ResponseCutReason::SessionEnded | ResponseCutReason::TokenEnded) = deadline.end_reason() {
                let error = BearerError::InvalidToken("the session or the access token has ended: log in again");
                return Poll::Ready(Err(error.response(server, path)));
            }
            // The upstream's time starts after the upload; the request body has its own timeout.
            deadline.stop();
        }
        ready!(deadline.poll(timeouts.response_head.get(), cx));
        tracing::warn!("the upstream did not start its response in time");
        Poll::Ready(Err((Outcome::TimedOut, responses::gateway_timeout())))
    });
    let (mut response, lease) = match sent.await {
        Ok(sent) => sent,
        Err(response) => return response,
    };
    if matches!(response.status(), StatusCode::UNAUTHORIZED | StatusCode::SWITCHING_PROTOCOLS) {
        // A 401 would start a login, which cannot help: the upstream rejects the proxy, not the user.
        tracing::warn!(status = %response.status(), "the upstream does not accept the proxy's requests");
        return bad_gateway("the upstream does not accept the proxy's requests");
    }
    headers::allow_any_origin(response.headers_mut());
    mcp_session::bind(&keyring, &caller.session.user, response.headers_mut());
    let is_stream = headers::is_event_stream(response.headers());
    let idle_timeout = if is_stream { timeouts.stream_idle.get() } else { timeouts.response_head.get() };
    let stream =
        is_stream.then(|| OpenStream::new(worker.metrics.clone(), caller.session, client, start, is_standalone));
    let body = UpstreamBody::new(lease, deadline, idle_timeout, permit, stream);
    (Outcome::Forwarded, response.map(|()| Body::Upstream(body)))
}

/// Logs why there is no response of the upstream, and maps it to the client's response.
fn send_failed(error: &SendError) -> CountedResponse {
    let cause = RequestBodyError::cause_of(error);
    match (error, cause) {
        (SendError::BodyTooLarge, _) => {
            tracing::warn!(%error, "cannot replay the request after an upstream redirect");
            (Outcome::Unavailable, responses::unavailable("the upstream has changed: try again", 1))
        }
        (SendError::Elsewhere(_), _) => {
            tracing::warn!(%error, "redirect not followed");
            bad_gateway("the upstream redirects to another URL")
        }
        (SendError::Upstream(UpstreamError::BreakerOpen(open)), _) => {
            tracing::debug!(%error, "request not forwarded");
            let seconds = (open.wait.as_secs_f64().ceil() as u64).max(1);
            (Outcome::Broken, responses::unavailable("the upstream cannot be reached: try again", seconds))
        }
        (SendError::Upstream(_), Some(cause)) => {
            tracing::debug!(error = %cause, "request body failed");
            (Outcome::Refused, responses::refuse_body(cause))
        }
        (SendError::Upstream(_), None) => {
            tracing::warn!(%error, "the upstream sent no response");
            bad_gateway("the upstream cannot be reached, or the connection failed")
        }
    }
}
