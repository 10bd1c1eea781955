//! Compares the connection with hyper's client. Called by a property test and by the fuzz target `differential`.

use std::{future::poll_fn, rc::Rc};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Request, StatusCode, Uri,
    header::{CONTENT_LENGTH, HOST},
};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use crate::http1::{Connection, Outgoing, RequestHead, is_hop_by_hop, nominated};

/// Status, end-to-end headers and content of a complete response.
type Accepted = (StatusCode, HeaderMap, Vec<u8>);

/// Asserts that a response which both accept means the same to both, and that hyper accepts what this connection accepts.
///
/// # Panics
/// They differ.
pub fn compare_with_hyper(method: &Method, response: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let Ok(runtime) = runtime else { return };
    runtime.block_on(async {
        let Some(ours) = exchange(response, |client| ours(method, client)).await else { return };
        let hypers = exchange(response, |client| hypers(method, client)).await;
        assert_eq!(Some(ours), hypers, "{:?}", String::from_utf8_lossy(response));
    });
}

/// Runs a client against an upstream that sends `response` after the request and then closes the connection.
async fn exchange<F>(response: &[u8], client: impl FnOnce(DuplexStream) -> F) -> Option<Accepted>
where
    F: Future<Output = Option<Accepted>>,
{
    let (stream, mut upstream) = duplex(response.len() + 1024);
    let serve = async {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") && upstream.read_buf(&mut request).await.is_ok_and(|length| length > 0) {}
        let _ = upstream.write_all(response).await;
        let _ = upstream.shutdown().await;
        upstream
    };
    // The upstream stays open for reading: a client may still send.
    let (accepted, _upstream) = futures::join!(client(stream), serve);
    accepted
}

async fn ours(method: &Method, client: DuplexStream) -> Option<Accepted> {
    let mut connection = Connection::new(client, Rc::default(), |_| true);
    let request = RequestHead::new(method.clone(), &Uri::from_static("/"));
    let response = connection.send(Outgoing::new(request, Empty::<Bytes>::new())).await.ok()?;
    let mut content = Vec::new();
    while let Some(part) = poll_fn(|cx| connection.poll_content(cx)).await {
        content.extend_from_slice(&part.ok()?);
    }
    let mut headers = response.headers().clone();
    // Implied by the content.
    headers.remove(CONTENT_LENGTH);
    Some((response.status(), headers, content))
}

async fn hypers(method: &Method, client: DuplexStream) -> Option<Accepted> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(client)).await.ok()?;
    let request = Request::builder().method(method).uri("/").header(HOST, "upstream").body(Empty::<Bytes>::new());
    let exchange = async {
        let (head, body) = sender.send_request(request.ok()?).await.ok()?.into_parts();
        Some((head, body.collect().await.ok()?.to_bytes()))
    };
    // The connection also fails on bytes after the response, which do not belong to it.
    let (exchange, _) = futures::join!(exchange, connection);
    let (mut head, content) = exchange?;
    let connection: Vec<_> = head.headers.get_all("connection").iter().cloned().collect();
    let dropped = nominated(connection.iter().map(HeaderValue::as_bytes));
    for name in dropped {
        head.headers.remove(name);
    }
    let hop_by_hop: Vec<_> = head.headers.keys().filter(|name| is_hop_by_hop(name)).cloned().collect();
    for name in hop_by_hop {
        head.headers.remove(name);
    }
    Some((head.status, head.headers, content.to_vec()))
}

#[cfg(test)]
mod tests {
    use proptest::{prelude::*, sample::select};

    use super::*;

    fn heads() -> impl Strategy<Value = String> {
        let status = select(vec![
            "HTTP/1.1 200 OK",
            "HTTP/1.0 200 OK",
            "HTTP/1.1 204 No Content",
            "HTTP/1.1 304 Not Modified",
            "HTTP/1.1 100 Continue",
            "HTTP/1.1 103 Early Hints",
            "HTTP/1.1 101 Switching Protocols",
            "HTTP/1.1 500",
            "HTTP/1.1 200",
            "HTTP/1.1  200 OK",
            "http/1.1 200 OK",
            "HTTP/2.0 200 OK",
            "HTTP/1.1 99 X",
            "HTTP/1.1 999 X",
        ]);
        let field = select(vec![
            "content-length: 5",
            "Content-Length: 5",
            "content-length: 3",
            "content-length: +5",
            "content-length: 5, 5",
            "content-length: 0x5",
            "content-length:",
            "transfer-encoding: chunked",
            "Transfer-Encoding: Chunked",
            "transfer-encoding: gzip, chunked",
            "transfer-encoding: identity",
            "transfer-encoding: chunked, chunked",
            "connection: close",
            "connection: keep-alive, x-hop",
            "connection: content-length",
            "x-hop: 1",
            "x-other: a",
            "x-other: b",
            "x-other : a",
            " folded",
            "x-empty:",
            "keep-alive: timeout=5",
            "upgrade: h2c",
            "trailer: x",
            "set-cookie: a=b",
        ]);
        let line_end = prop_oneof![9 => Just("\r\n"), 1 => Just("\n")];
        (status, proptest::collection::vec((field, line_end.clone()), 0..5), line_end).prop_map(
            |(status, fields, end)| {
                let fields: String = fields.into_iter().flat_map(|(field, end)| [field, end]).collect();
                format!("{status}\r\n{fields}{end}")
            },
        )
    }

    fn contents() -> impl Strategy<Value = String> {
        let part = select(vec![
            "hello",
            "5\r\nhello\r\n",
            "0\r\n\r\n",
            "5;x=y\r\nhello\r\n",
            "05\r\nhello\r\n",
            "5 \r\nhello\r\n",
            "5\nhello\n",
            "0\r\nx: y\r\n\r\n",
            "+5\r\nhello\r\n",
            "5\r\nhellO0\r\n\r\n",
            "ffffffffffffffff\r\n",
            "\r\n",
            "A\r\n0123456789\r\n",
        ]);
        proptest::collection::vec(part, 0..4).prop_map(|parts| parts.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        #[test]
        fn responses_mean_the_same_to_hyper(
            first in heads(),
            second in prop_oneof![Just(String::new()), heads()],
            content in contents(),
            method in select(vec![Method::GET, Method::HEAD, Method::POST]),
        ) {
            compare_with_hyper(&method, format!("{first}{second}{content}").as_bytes());
        }

        #[test]
        fn damaged_responses_mean_the_same_to_hyper(
            head in heads(),
            content in contents(),
            at in any::<prop::sample::Index>(),
            byte in any::<u8>(),
        ) {
            let mut response = format!("{head}{content}").into_bytes();
            let at = at.index(response.len());
            response[at] = byte;
            compare_with_hyper(&Method::GET, &response);
        }
    }
}
