use std::{
    cell::Cell,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

/// Whether more of a request's body may come over a client's connection.
#[derive(Clone, Debug, Default)]
pub struct Unread(Rc<Cell<bool>>);

impl Unread {
    /// Whether it may.
    pub fn is_there(&self) -> bool {
        self.0.get()
    }

    /// Nobody waits for it.
    pub fn forget(&self) {
        self.0.set(false);
    }
}

#[cfg(test)]
impl Unread {
    /// Some of a request is.
    pub fn testing() -> Self {
        Self(Rc::new(Cell::new(true)))
    }
}

/// The body of a client's request as it arrives, of which is known whether it was read to its end.
#[derive(Debug)]
pub struct Arriving {
    body: Incoming,
    unread: Unread,
}

impl Arriving {
    /// The body of a connection's next request.
    pub fn new(body: Incoming, unread: &Unread) -> Self {
        unread.0.set(!body.is_end_stream());
        Self { body, unread: unread.clone() }
    }
}

impl Body for Arriving {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if self.body.is_end_stream() || !matches!(frame, Some(Ok(_))) {
            self.unread.forget();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http::{Request, Response};
    use http_body_util::{BodyExt, Empty};
    use hyper::{server::conn::http1, service::service_fn};
    use hyper_util::rt::TokioIo;
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test]
    async fn a_body_is_unread_until_the_last_of_it() {
        for (rest, parts) in [
            ("\r\n", 0),
            ("content-length: 2\r\n\r\n{}", 1),
            ("transfer-encoding: chunked\r\n\r\n1\r\n{\r\n1\r\n}\r\n0\r\n\r\n", 3),
        ] {
            let (mut client, server) = tokio::io::duplex(1024);
            let head = "POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n";
            client.write_all(format!("{head}{rest}").as_bytes()).await.unwrap();
            let service = service_fn(|request: Request<Incoming>| async move {
                let unread = Unread::default();
                let mut body = Arriving::new(request.into_body(), &unread);
                for _ in 0..parts {
                    assert!(unread.is_there());
                    let _ = body.frame().await;
                }
                assert!(!unread.is_there(), "{rest:?}");
                Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
            });
            http1::Builder::new().serve_connection(TokioIo::new(server), service).await.unwrap();
        }
    }
}
