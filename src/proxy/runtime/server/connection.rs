use std::{pin::pin, rc::Rc};

use axum::Router;
use http::{Method, Request, Response, Version, header::HOST, request::Parts};
use http_body::Body as _;
use socket2::{SockRef, TcpKeepalive};
use tower::ServiceExt;

use super::{
    Accepted,
    downstream::{Downstream, NoRequest},
    head::Head,
    reply::{Date, Reply, ReplyError, To},
};
use crate::proxy::{
    authorization_server::http::MAX_BODY,
    client_ip::Peer,
    resource_server::{
        Arriving, Body, Deadline, PROBE, PROBES, RequestBody, SILENCE, Worker, busy, forward, invalid_request,
        refuse_body, without_host,
    },
    runtime::drain::{Drain, Watch},
};

/// What the connections of a worker share.
pub struct Serving {
    pub worker: Rc<Worker>,
    pub router: Router,
    pub drain: Rc<Drain>,
    pub date: Date,
}

/// For an answer to something that is no request.
const LAST: To = To { head: false, http_1_1: true, last: true };

/// What comes after an answer.
enum After {
    /// The next request.
    Next,
    /// The end.
    Close,
    /// Nothing: there was no request.
    Over,
}

/// Serves a client until its connection ends.
pub async fn connection(accepted: Accepted, serving: Rc<Serving>) {
    let Accepted { stream, address, is_refused, _permit } = accepted;
    let keepalive = TcpKeepalive::new().with_time(SILENCE).with_interval(PROBE).with_retries(PROBES);
    let prepared = stream.set_nodelay(true).and_then(|()| SockRef::from(&stream).set_tcp_keepalive(&keepalive));
    let stream = prepared.and_then(|()| tokio::net::TcpStream::from_std(stream));
    let Ok(stream) = stream else { return };
    let connection = Rc::new(Downstream::new(stream, serving.worker.scratch.clone()));
    let mut waiting = Deadline::new(serving.worker.deadlines.clone());
    let (peer, mut end) = (Peer::new(address), serving.drain.watch());
    if is_refused {
        let reply = Reply::new(busy(), LAST, &serving.date, serving.worker.deadlines.time());
        let _ = reply.write(&connection, serving.worker.forwarder.client_patience(), &mut waiting).await;
        return connection.close(&mut waiting).await;
    }
    loop {
        match exchange(&connection, &peer, &serving, &mut end, &mut waiting).await {
            Ok(After::Next) => (),
            Ok(After::Close) => return connection.close(&mut waiting).await,
            Ok(After::Over) => return,
            Err(error) => return tracing::debug!(%error, peer = %address, "connection"),
        }
    }
}

/// One request and its answer.
async fn exchange(
    connection: &Rc<Downstream>,
    peer: &Peer,
    serving: &Serving,
    end: &mut Watch,
    waiting: &mut Deadline,
) -> Result<After, ReplyError> {
    let Serving { worker, date, .. } = serving;
    let (to, response) = match connection.next(end, waiting).await {
        Ok(Head { request, keeps_alive, .. }) => {
            let to = To {
                head: request.method == Method::HEAD,
                http_1_1: request.version == Version::HTTP_11,
                last: !keeps_alive,
            };
            let answered = pin!(answer(request, Arriving::new(connection.clone()), peer, serving));
            (to, connection.unless_gone(answered).await.ok_or(ReplyError::Gone)?)
        }
        Err(NoRequest::Over) => return Ok(After::Over),
        Err(NoRequest::Refused(refusal)) => (LAST, invalid_request(refusal.status(), &refusal.to_string())),
    };
    // While the upstream answers it may still get the rest of the request.
    let is_ours = !matches!(response.body(), Body::Upstream(_));
    let is_unread = (is_ours || response.body().is_end_stream()) && !connection.is_read();
    let last = to.last || is_unread || worker.leaving.get();
    let reply = Reply::new(response, To { last, ..to }, date, worker.deadlines.time());
    let is_last = last || reply.is_last();
    let mut stalled = Deadline::new(worker.deadlines.clone());
    reply.write(connection, worker.forwarder.client_patience(), &mut stalled).await?;
    // Of a request that is not read to its end the rest must not be taken for the next one.
    Ok(if is_last || !connection.is_read() { After::Close } else { After::Next })
}

async fn answer(mut head: Parts, body: Arriving, peer: &Peer, serving: &Serving) -> Response<Body> {
    let worker = &*serving.worker;
    if !names_its_host(&head) {
        without_host()
    } else if worker.forwarder.is_endpoint(head.uri.path()) {
        forward(&mut head, body, peer, worker).await
    } else {
        Box::pin(answer_here(head, body, peer, serving)).await
    }
}

/// Whether a request has one `Host`, which HTTP/1.0 may leave out (RFC 9112 §3.2). We believe none, but who stands before us may
/// have believed the other one.
fn names_its_host(head: &Parts) -> bool {
    let mut hosts = head.headers.get_all(HOST).iter();
    match hosts.next() {
        Some(_) => hosts.next().is_none(),
        None => head.version == Version::HTTP_10,
    }
}

/// An answer of the authorization server. Its requests are small and come at once, or not at all.
async fn answer_here(head: Parts, body: Arriving, peer: &Peer, serving: &Serving) -> Response<Body> {
    let Serving { worker, router, .. } = serving;
    let (most, patience) = (MAX_BODY as u64, worker.forwarder.client_patience());
    let body = match RequestBody::new(body, most, patience, worker.deadlines.clone()) {
        Ok(body) => body.whole().await,
        Err(error) => Err(error),
    };
    let body = match body {
        Ok(body) => body,
        Err(error) => return refuse_body(&error),
    };
    let mut request = Request::from_parts(head, axum::body::Body::from(body));
    request.extensions_mut().insert(peer.address);
    match router.clone().oneshot(request).await {
        Ok(response) => response.map(Body::Axum),
        Err(never) => match never {},
    }
}
