use std::{
    cell::Cell,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

/// How far the request is that a client is sending over its connection.
#[derive(Clone, Debug, Default)]
pub struct Upload(Rc<State>);

#[derive(Debug, Default)]
struct State {
    unread: Cell<bool>,
    wanted: Cell<bool>,
}

impl Upload {
    /// Whether more of the request may come.
    pub fn is_unread(&self) -> bool {
        self.0.unread.get()
    }

    /// It may.
    pub fn expect_more(&self) {
        self.0.unread.set(true);
    }

    /// Nobody waits for what may come.
    pub fn forget(&self) {
        self.0.unread.set(false);
    }

    /// Whether more of the body was wanted since this was asked.
    pub fn take_wanted(&self) -> bool {
        self.0.wanted.take()
    }
}

#[cfg(test)]
impl Upload {
    /// One of which some may come.
    pub fn testing() -> Self {
        let upload = Self::default();
        upload.expect_more();
        upload
    }
}

/// The body of a client's request as it arrives.
#[derive(Debug)]
pub struct Arriving {
    body: Incoming,
    upload: Upload,
}

impl Arriving {
    /// The body of a connection's next request.
    pub fn new(body: Incoming, upload: &Upload) -> Self {
        upload.0.unread.set(!body.is_end_stream());
        Self { body, upload: upload.clone() }
    }

    /// How far it is.
    pub fn upload(&self) -> &Upload {
        &self.upload
    }
}

impl Body for Arriving {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        self.upload.0.wanted.set(true);
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if self.body.is_end_stream() || !matches!(frame, Some(Ok(_))) {
            self.upload.forget();
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
                let upload = Upload::default();
                let mut body = Arriving::new(request.into_body(), &upload);
                for _ in 0..parts {
                    assert!(upload.is_unread());
                    let _ = body.frame().await;
                }
                assert!(!upload.is_unread(), "{rest:?}");
                Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
            });
            http1::Builder::new().serve_connection(TokioIo::new(server), service).await.unwrap();
        }
    }
}
