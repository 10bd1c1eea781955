use std::{future::poll_fn, net::SocketAddr, pin::pin, rc::Rc, sync::Arc};

use axum::Router;
use http::{
    HeaderValue, Method, Request, Response, StatusCode, Version,
    header::{CONNECTION, CONTENT_LENGTH, HOST},
    request::Parts,
};
use http_body::Body as _;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::server::conn::auto::Builder;
use socket2::{SockRef, TcpKeepalive};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::{
    Accepted,
    client_connection::ClientConnection,
    client_input::Refused,
    client_io::ClientIo,
    exchange::{Disconnected, Exchange, ResponseBody, StreamExecutor},
    request_head::MAX_HEAD,
};
use crate::error_chain::error_chain;
use crate::proxy::{
    authorization_server::http::MAX_BODY,
    client_ip::Peer,
    resource_server::{
        Body, IncomingBody, KEEPALIVE_IDLE, KEEPALIVE_INTERVAL, KEEPALIVE_RETRIES, RequestBody, Worker, busy, forward,
        invalid_request, refuse_body, without_host,
    },
};

/// Maximum concurrent requests of an HTTP/2 connection.
const MAX_STREAMS: u32 = 100;

/// Bytes of an HTTP/2 request, and of all requests of a connection, that a client may send before they are read.
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 256 * 1024;

/// Bytes of an HTTP/2 response that are buffered until the client reads them.
const SEND_BUFFER: usize = 64 * 1024;

/// Shared by the connections of a worker.
pub struct Serving {
    pub worker: Rc<Worker>,
    pub router: Router,
    /// Permits for connections, and for further requests of HTTP/2 connections.
    pub permits: Arc<Semaphore>,
    /// Once cancelled, HTTP/2 connections accept no further requests.
    pub leaving: CancellationToken,
    http1: Builder<StreamExecutor>,
    http2: Builder<StreamExecutor>,
    streams: StreamExecutor,
}

impl Serving {
    pub fn new(worker: Rc<Worker>, router: Router, permits: Arc<Semaphore>, leaving: CancellationToken) -> Self {
        let streams = StreamExecutor::default();
        let mut http = Builder::new(streams.clone());
        // `ClientConnection` has its own timeouts and detects clients that disconnect; hyper would need a larger buffer for it.
        // hyper accepts 100 headers, as many as `check_head`. If they were set, it would initialize memory for them.
        http.http1().header_read_timeout(None).max_buf_size(MAX_HEAD + 1024).half_close(true);
        http.http2()
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(MAX_HEAD as u32)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buf_size(SEND_BUFFER);
        let (http1, http2) = (http.clone().http1_only(), http.http2_only());
        Self { worker, router, permits, leaving, http1, http2, streams }
    }
}

pub async fn serve_client(accepted: Accepted, serving: Rc<Serving>) {
    let Accepted { stream, address, is_over_limit, _permit } = accepted;
    let keepalive =
        TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL).with_retries(KEEPALIVE_RETRIES);
    let prepared = stream.set_nodelay(true).and_then(|()| SockRef::from(&stream).set_tcp_keepalive(&keepalive));
    let Ok(stream) = prepared.and_then(|()| tokio::net::TcpStream::from_std(stream)) else { return };
    // Input that has arrived can be read only after the runtime has polled the socket.
    tokio::task::yield_now().await;
    let refused = is_over_limit.then_some(Refused::Busy);
    let connection = Rc::new(ClientConnection::new(stream, serving.worker.clone(), refused));
    let peer = Rc::new(Peer::new(address));
    let service = service_fn(|request: Request<Incoming>| {
        let is_further = connection.begin() > 0;
        let permit = is_further.then(|| serving.permits.clone().try_acquire_owned()).transpose();
        let is_shed = permit.is_err();
        let exchange = Exchange::new(connection.clone(), serving.worker.clone(), permit.ok().flatten());
        if request.version() == Version::HTTP_2 {
            serving.streams.prepare(exchange.clone());
        }
        respond(request, exchange, peer.clone(), serving.clone(), is_shed)
    });
    if poll_fn(|cx| connection.poll_start(cx)).await {
        return connection.close().await;
    }
    // hyper would otherwise read the first bytes apart, into a second buffer.
    let http = if connection.is_http2() { &serving.http2 } else { &serving.http1 };
    let mut served = pin!(http.serve_connection(ClientIo(connection.clone()), service));
    let served = if connection.is_http2() {
        tokio::select! {
            biased;
            served = served.as_mut() => served,
            () = serving.leaving.cancelled() => {
                served.as_mut().graceful_shutdown();
                served.await
            }
        }
    } else {
        // The last response has `Connection: close`, so that no request arrives at a closing connection.
        served.await
    };
    match served {
        Ok(()) => connection.close().await,
        Err(error) => {
            tracing::debug!(error = error_chain(&*error), peer = %address, "connection failed");
            connection.abort();
        }
    }
}

/// Not an `async fn`, which would store the request twice.
fn respond(
    request: Request<Incoming>,
    exchange: Rc<Exchange>,
    peer: Rc<Peer>,
    serving: Rc<Serving>,
    is_shed: bool,
) -> impl Future<Output = Result<Response<ResponseBody>, Disconnected>> {
    let (mut head, body) = request.into_parts();
    let (version, is_head) = (head.version, head.method == Method::HEAD);
    let (body, worker) = (IncomingBody::new(body), serving.worker.clone());
    let request_body = body.clone();
    // Boxed, because hyper keeps the memory of the other future as long as the connection lives.
    let route = Box::pin(async move {
        let worker = &*serving.worker;
        if !has_one_host(&head) {
            without_host()
        } else if worker.forwarder.is_endpoint(head.uri.path()) {
            forward(&mut head, request_body, &peer, worker).await
        } else {
            Box::pin(serve_router(head, request_body, peer.address, &serving)).await
        }
    });
    async move {
        let connection = &exchange.connection;
        let refused = connection.take_refused();
        let mut response = match refused {
            Some(Refused::Busy) => busy(),
            Some(Refused::Head(refusal)) => invalid_request(refusal.status(), &refusal.to_string()),
            None if is_shed => busy(),
            None => connection.unless_gone(route).await.ok_or(Disconnected)?,
        };
        response.headers_mut().remove(CONNECTION);
        if !is_head && !matches!(response.status(), StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
            // hyper writes the length of the body.
            response.headers_mut().remove(CONTENT_LENGTH);
        }
        if version < Version::HTTP_2 {
            // While the upstream responds, it may still get the rest of the request.
            let is_whole = !matches!(response.body(), Body::Upstream(_)) || response.body().is_end_stream();
            let is_unread = is_whole && !body.is_end_stream() && !(connection.has_all_content() && body.drain().await);
            let is_last = version == Version::HTTP_10 || refused.is_some() || is_unread || worker.leaving.get();
            if is_last {
                response.headers_mut().insert(CONNECTION, const { HeaderValue::from_static("close") });
            }
        }
        connection.set_close_delimited(version == Version::HTTP_10 && response.body().size_hint().exact().is_none());
        Ok(response.map(|body| exchange.respond(body)))
    }
}

/// A request has exactly one host; HTTP/1.0 may omit it (RFC 9112 §3.2), HTTP/2 has `:authority`, to which `Host` must be equal
/// (RFC 9113 §8.3.1). The proxy does not use it, but with two hosts a gateway may have used the other one.
fn has_one_host(head: &Parts) -> bool {
    let mut hosts = head.headers.get_all(HOST).iter();
    let authority = head.uri.authority().filter(|_| head.version == Version::HTTP_2);
    match (hosts.next(), authority) {
        (Some(_), None) => hosts.next().is_none(),
        (Some(host), Some(authority)) => host == authority.as_str() && hosts.next().is_none(),
        (None, authority) => head.version == Version::HTTP_10 || authority.is_some(),
    }
}

/// A request to the authorization server. Its body is small and read completely.
async fn serve_router(head: Parts, body: IncomingBody, peer: SocketAddr, serving: &Serving) -> Response<Body> {
    let Serving { worker, router, .. } = serving;
    let timeout = worker.forwarder.client_timeout();
    let body = RequestBody::new(body, MAX_BODY as u64, timeout, worker.deadlines.clone());
    let body = match async { body?.read_all().await }.await {
        Ok(body) => body,
        Err(error) => return refuse_body(&error),
    };
    let mut request = Request::from_parts(head, axum::body::Body::from(body));
    request.extensions_mut().insert(peer);
    match router.clone().oneshot(request).await {
        Ok(response) => response.map(Body::Axum),
        Err(never) => match never {},
    }
}
