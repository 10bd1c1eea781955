use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use bytes::Bytes;
use futures::task::AtomicWaker;
use http::{Request, Response};
use http_body::{Body, Frame};
use hyper::{
    body::Incoming,
    client::conn::{
        TrySendError,
        http1::{self, SendRequest},
    },
    rt::{Read, Write},
};

use super::BoxError;

/// How often one poll goes on with what it has brought about itself, before others have their turn.
const ROUNDS: usize = 8;

/// An upstream connection without a task of its own: whoever waits for something of it, an answer or a part of one, moves it on
/// meanwhile. So a request and its answer stay in one task; a second one would cost them two wake-ups and a message each way.
///
/// Nobody moves it on while it is idle. That the upstream has closed it shows when it is next looked at.
pub struct Connection<S: Read + Write, B: Body + 'static> {
    sender: SendRequest<B>,
    /// `None` once it is over.
    io: Option<http1::Connection<S, B>>,
    wakes: Arc<Wakes>,
    /// Wakes `wakes`. One for good, so that whoever keeps it never has to take another.
    waker: Waker,
}

/// Wakes whoever waits for something of a connection, except out of its own poll: then the poll goes on.
#[derive(Default)]
struct Wakes {
    user: AtomicWaker,
    polled: AtomicBool,
    woken: AtomicBool,
}

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    // One of two threads sees what the other has written first, so no wake-up is lost between `poll` and here.
    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Ordering::SeqCst);
        if !self.polled.load(Ordering::SeqCst) {
            self.user.wake();
        }
    }
}

impl<S, B> Connection<S, B>
where
    S: Read + Write + Unpin,
    B: Body<Data = Bytes, Error: Into<BoxError>> + 'static,
{
    /// A connection over a stream that is open.
    ///
    /// # Errors
    /// None that is known of.
    pub async fn open(stream: S) -> hyper::Result<Self> {
        // One buffer is quicker to write than several, and most messages are short.
        let (sender, io) = http1::Builder::new().writev(false).handshake(stream).await?;
        let wakes = Arc::new(Wakes { woken: AtomicBool::new(true), ..Wakes::default() });
        Ok(Self { sender, io: Some(io), waker: wakes.clone().into(), wakes })
    }

    /// Sends a request and waits for the head of its answer.
    ///
    /// # Errors
    /// When none came; with the request, if nothing of it was sent.
    pub async fn send(&mut self, request: Request<B>) -> Result<Response<Incoming>, TrySendError<Request<B>>> {
        let mut response = pin!(self.sender.try_send_request(request));
        poll_fn(|cx| self.poll(cx, |cx| response.as_mut().poll(cx))).await
    }

    /// The next part of the answer that [`Self::send`] gave.
    pub fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
        answer: &mut Incoming,
    ) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        self.poll(cx, |cx| Pin::new(&mut *answer).poll_frame(cx))
    }

    /// Whether a request can be sent: the last exchange is over, and the upstream has not closed the connection since.
    pub fn is_ready(&mut self) -> bool {
        self.wakes.user.take();
        // If it is woken again at once, then for its end, which is seen in the next round.
        self.move_on();
        self.io.is_some() && self.sender.is_ready()
    }

    /// Polls what the connection brings about, and the connection itself whenever something was done to it. Nothing else makes
    /// `brought` ready, so it needs no waker.
    fn poll<T>(&mut self, cx: &mut Context<'_>, mut brought: impl FnMut(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
        self.wakes.user.register(cx.waker());
        let mut unheard = Context::from_waker(Waker::noop());
        for _ in 0..ROUNDS {
            self.wakes.polled.store(true, Ordering::SeqCst);
            let ready = brought(&mut unheard);
            self.wakes.polled.store(false, Ordering::SeqCst);
            if ready.is_ready() || !self.move_on() {
                return ready;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Lets the connection read and write, if it was woken. Says whether it was.
    fn move_on(&mut self) -> bool {
        if !self.wakes.woken.swap(false, Ordering::SeqCst) {
            return false;
        }
        if let Some(io) = &mut self.io {
            self.wakes.polled.store(true, Ordering::SeqCst);
            let over = Pin::new(io).poll(&mut Context::from_waker(&self.waker));
            self.wakes.polled.store(false, Ordering::SeqCst);
            if let Poll::Ready(over) = over {
                if let Err(error) = over {
                    tracing::debug!(%error, "upstream connection");
                }
                // Also tells who waits for an answer that none will come.
                self.io = None;
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use futures::channel::mpsc;
    use http_body_util::{Full, StreamBody};
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    const REQUEST: &str = "POST / HTTP/1.1\r\ncontent-length: 2\r\n\r\n{}";

    async fn pair<B: Body<Data = Bytes, Error: Into<BoxError>> + 'static>()
    -> (Connection<TokioIo<DuplexStream>, B>, DuplexStream) {
        let (ours, upstream) = duplex(1024);
        (Connection::open(TokioIo::new(ours)).await.unwrap(), upstream)
    }

    fn request() -> Request<Full<Bytes>> {
        Request::post("/").body(Full::new(Bytes::from("{}"))).unwrap()
    }

    async fn read(upstream: &mut DuplexStream, text: &str) {
        let mut read = vec![0; text.len()];
        upstream.read_exact(&mut read).await.unwrap();
        assert_eq!(String::from_utf8(read).unwrap(), text);
    }

    /// Counts how often whoever waits is woken.
    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[tokio::test]
    async fn an_exchange_needs_nobody_else_and_is_followed_by_another() {
        let (mut connection, mut upstream) = pair().await;
        for number in 0..3 {
            let text = format!("answer {number}");
            let answer = async {
                let mut answer = connection.send(request()).await.unwrap().into_body();
                let mut read = Vec::new();
                while let Some(frame) = poll_fn(|cx| connection.poll_frame(cx, &mut answer)).await {
                    read.extend_from_slice(frame.unwrap().data_ref().unwrap());
                }
                String::from_utf8(read).unwrap()
            };
            let answering = async {
                read(&mut upstream, REQUEST).await;
                let (first, second) = text.split_at(3);
                upstream
                    .write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", text.len()).as_bytes())
                    .await
                    .unwrap();
                for part in [first, second] {
                    tokio::task::yield_now().await;
                    upstream.write_all(part.as_bytes()).await.unwrap();
                }
            };
            let (answer, ()) = futures::join!(answer, answering);
            assert_eq!(answer, text);
            assert!(connection.is_ready(), "after answer {number}");
        }
    }

    #[tokio::test]
    async fn whoever_waits_is_woken_by_what_arrives_alone() {
        let (mut connection, mut upstream) = pair().await;
        let count = Arc::new(Count::default());
        let (waker, mut answer) = (count.clone().into(), None);
        let mut cx = Context::from_waker(&waker);
        {
            let mut sent = pin!(connection.send(request()));
            assert!(sent.as_mut().poll(&mut cx).is_pending());
            assert_eq!(count.0.load(Ordering::SeqCst), 0, "by its own request");
            read(&mut upstream, REQUEST).await;
            upstream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{").await.unwrap();
            assert_eq!(count.0.load(Ordering::SeqCst), 1);
            if let Poll::Ready(response) = sent.as_mut().poll(&mut cx) {
                answer = Some(response.unwrap().into_body());
            }
        }
        let mut answer = answer.unwrap();
        assert!(matches!(connection.poll_frame(&mut cx, &mut answer), Poll::Ready(Some(Ok(_)))));
        assert!(connection.poll_frame(&mut cx, &mut answer).is_pending());
        assert_eq!(count.0.load(Ordering::SeqCst), 1, "by its own reading");
        upstream.write_all(b"}").await.unwrap();
        assert_eq!(count.0.load(Ordering::SeqCst), 2);
        assert!(matches!(connection.poll_frame(&mut cx, &mut answer), Poll::Ready(Some(Ok(_)))));
        assert!(connection.is_ready());
        // Who had it before is not woken by what befalls it now.
        drop(upstream);
        assert_eq!(count.0.load(Ordering::SeqCst), 2);
        assert!(!connection.is_ready());
    }

    #[tokio::test]
    async fn what_was_sent_into_a_closed_connection_comes_back() {
        let (mut connection, mut upstream) = pair().await;
        let exchange = async {
            let answer = connection.send(request()).await.unwrap().into_body();
            assert_eq!(answer.size_hint().exact(), Some(0));
        };
        let answering = async {
            read(&mut upstream, REQUEST).await;
            upstream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        };
        futures::join!(exchange, answering);
        assert!(connection.is_ready());
        drop(upstream);
        let mut error = connection.send(request()).await.unwrap_err();
        assert!(error.take_message().is_some());
        assert!(!connection.is_ready());
    }

    #[tokio::test]
    async fn an_answer_before_the_whole_request_leaves_a_connection_that_is_not_ready() {
        let (mut connection, mut upstream) = pair().await;
        let (_more, parts) = mpsc::unbounded::<Result<Frame<Bytes>, BoxError>>();
        let exchange = async {
            let answer = connection.send(Request::post("/").body(StreamBody::new(parts)).unwrap()).await.unwrap();
            assert_eq!(answer.status(), 413);
        };
        let answering = async {
            read(&mut upstream, "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n").await;
            upstream.write_all(b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        };
        futures::join!(exchange, answering);
        assert!(!connection.is_ready());
    }

    #[tokio::test]
    async fn a_connection_that_breaks_in_an_answer_breaks_the_answer() {
        let (mut connection, mut upstream) = pair().await;
        let exchange = async {
            let mut answer = connection.send(request()).await.unwrap().into_body();
            let mut frame = async || poll_fn(|cx| connection.poll_frame(cx, &mut answer)).await;
            assert!(frame().await.unwrap().is_ok());
            frame().await.unwrap().is_err()
        };
        let answering = async {
            read(&mut upstream, REQUEST).await;
            upstream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf").await.unwrap();
            drop(upstream);
        };
        assert!(futures::join!(exchange, answering).0);
    }
}
