use std::{
    cell::RefCell,
    future::poll_fn,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::rt::Executor;
use thiserror::Error;
use tokio::sync::OwnedSemaphorePermit;

use super::client_connection::ClientConnection;
use crate::proxy::resource_server::{Body, BoxError, Deadline, Worker};

/// A request in flight, until its response is written or its client has disconnected.
pub struct Exchange {
    pub connection: Rc<ClientConnection>,
    worker: Rc<Worker>,
    /// For HTTP/2.
    stalled: RefCell<Stalled>,
    /// Over HTTP/2, each further concurrent request of a connection needs one.
    _permit: Option<OwnedSemaphorePermit>,
}

/// Detects a client that reads nothing of its HTTP/2 response.
struct Stalled {
    deadline: Deadline,
    content: Content,
}

/// hyper polls the content of a response when the client reads more.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Content {
    /// There is no response yet.
    Absent,
    /// Not polled since the stream was last polled.
    Idle,
    Polled,
}

#[derive(Debug, Error)]
#[error("the client has disconnected")]
pub struct Disconnected;

impl Exchange {
    pub fn new(connection: Rc<ClientConnection>, worker: Rc<Worker>, permit: Option<OwnedSemaphorePermit>) -> Rc<Self> {
        let stalled = Stalled { deadline: Deadline::new(worker.deadlines.clone()), content: Content::Absent };
        Rc::new(Self { connection, worker, stalled: RefCell::new(stalled), _permit: permit })
    }

    pub fn respond(self: &Rc<Self>, body: Body) -> ResponseBody {
        if self.connection.is_http2() {
            let stalled = &mut *self.stalled.borrow_mut();
            body.watch(&mut stalled.deadline);
            stalled.content = Content::Idle;
        } else {
            self.connection.watch(|stalled| body.watch(stalled));
        }
        ResponseBody { body, failed: None, exchange: self.clone() }
    }

    /// Ready when the client has read nothing of its HTTP/2 response for too long.
    fn poll_stalled(&self, cx: &Context<'_>) -> Poll<()> {
        let stalled = &mut *self.stalled.borrow_mut();
        match stalled.content {
            Content::Absent => Poll::Pending,
            Content::Polled => {
                stalled.content = Content::Idle;
                stalled.deadline.stop();
                Poll::Pending
            }
            Content::Idle if stalled.deadline.end_reason().is_some() => Poll::Ready(()),
            Content::Idle => stalled.deadline.poll(self.worker.forwarder.client_timeout(), cx),
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.connection.end();
    }
}

/// The content of a response, for hyper.
pub struct ResponseBody {
    body: Body,
    failed: Option<BoxError>,
    exchange: Rc<Exchange>,
}

impl HttpBody for ResponseBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        let connection = &this.exchange.connection;
        let is_http2 = connection.is_http2();
        if is_http2 {
            this.exchange.stalled.borrow_mut().content = Content::Polled;
        }
        while this.failed.is_none() {
            match Pin::new(&mut this.body).poll_frame(cx) {
                // Trailers are not forwarded.
                Poll::Ready(Some(Ok(frame))) if !frame.is_data() => (),
                Poll::Ready(Some(Err(error))) => this.failed = Some(error),
                Poll::Ready(frame) => return Poll::Ready(frame),
                Poll::Pending if is_http2 => return Poll::Pending,
                Poll::Pending => {
                    ready!(connection.poll_gone(cx));
                    return Poll::Ready(Some(Err(Disconnected.into())));
                }
            }
        }
        if !is_http2 {
            // The client gets what precedes the error.
            ready!(connection.poll_flushed(cx));
        }
        Poll::Ready(this.failed.take().map(Err))
    }

    fn is_end_stream(&self) -> bool {
        self.failed.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Runs HTTP/2 streams on the worker's thread, each until its response is written or its client reads nothing for too long.
#[derive(Clone, Default)]
pub struct StreamExecutor {
    /// The exchange of the next stream: hyper starts a stream right after it called the service.
    next: Rc<RefCell<Option<Rc<Exchange>>>>,
}

impl StreamExecutor {
    pub fn prepare(&self, exchange: Rc<Exchange>) {
        *self.next.borrow_mut() = Some(exchange);
    }
}

impl<F: Future<Output = ()> + 'static> Executor<F> for StreamExecutor {
    fn execute(&self, stream: F) {
        let exchange = self.next.borrow_mut().take();
        tokio::task::spawn_local(async move {
            let mut stream = pin!(stream);
            poll_fn(|cx| {
                if stream.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(());
                }
                exchange.as_ref().map_or(Poll::Pending, |exchange| exchange.poll_stalled(cx))
            })
            .await;
        });
    }
}
