//! HTTP/2 without TLS.

use std::num::NonZero;

use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::TokioExecutor;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::*;

type Client = SendRequest<Full<Bytes>>;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Types of frames, flags and errors (RFC 9113 §6, §7).
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const ENHANCE_YOUR_CALM: u32 = 11;

/// `GET http://x/` in HPACK (RFC 7541 appendix A).
const GET: &[u8] = &[0x82, 0x86, 0x84, 0x41, 0x01, b'x'];

impl Bed {
    async fn http2(&self) -> (Client, JoinHandle<hyper::Result<()>>) {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let (client, connection) =
            http2::Builder::new(TokioExecutor::new()).handshake(TokioIo::new(stream)).await.unwrap();
        (client, tokio::spawn(connection))
    }

    fn http2_call(&self, path: &str) -> Request<Full<Bytes>> {
        let request = Request::post(format!("http://mcp.example.com{path}"));
        request.header("authorization", format!("Bearer {}", self.token())).body("{}".into()).unwrap()
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Types and payloads of the frames until the proxy closes the connection.
async fn frames(stream: &mut TcpStream) -> Vec<(u8, Vec<u8>)> {
    let mut bytes = Vec::new();
    let _ = in_time(stream.read_to_end(&mut bytes)).await;
    let (mut frames, mut rest) = (Vec::new(), &bytes[..]);
    while let Some((&[a, b, c, kind, ..], after)) = rest.split_first_chunk::<9>() {
        let (payload, after) = after.split_at((u32::from_be_bytes([0, a, b, c]) as usize).min(after.len()));
        frames.push((kind, payload.to_vec()));
        rest = after;
    }
    frames
}

#[tokio::test]
async fn http2_requests_share_a_connection_and_are_forwarded_with_identity() {
    let bed = Bed::new().await;
    let (mut client, _connection) = bed.http2().await;
    let answers = [client.send_request(bed.http2_call("/mcp?a=b")), client.send_request(bed.http2_call("/mcp?a=b"))];
    for answer in futures::future::join_all(answers).await {
        let answer = answer.unwrap();
        assert_eq!((answer.status(), answer.version()), (StatusCode::OK, http::Version::HTTP_2));
        assert!(!answer.headers().contains_key("connection"));
        assert_eq!(text(answer).await, "{}");
    }
    let (uri, headers, body) = bed.upstream.last();
    assert_eq!((uri.to_string().as_str(), &body[..]), ("/base/mcp?a=b", &b"{}"[..]));
    assert_eq!(headers["x-forwarded-user"], "ada@example.com");
    assert!(!headers.contains_key("authorization"));
    let own = Request::get("http://mcp.example.com/own").body(Full::default()).unwrap();
    assert_eq!(text(client.send_request(own).await.unwrap()).await, "own");
    let refused = Request::post("http://mcp.example.com/mcp").body(Full::default()).unwrap();
    assert_eq!(client.send_request(refused).await.unwrap().status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn http2_request_names_its_host_once() {
    let bed = Bed::new().await;
    let (mut client, _connection) = bed.http2().await;
    for hosts in [&["mcp.example.com", "mcp.example.com"][..], &["other.example"]] {
        let mut request = bed.http2_call("/mcp");
        for host in hosts {
            request.headers_mut().append("host", host.parse().unwrap());
        }
        assert_eq!(client.send_request(request).await.unwrap().status(), StatusCode::BAD_REQUEST, "{hosts:?}");
    }
    assert_eq!(bed.upstream.requests(), 0);
    let mut request = bed.http2_call("/mcp");
    let authority = request.uri().authority().unwrap().as_str().parse().unwrap();
    request.headers_mut().append("host", authority);
    assert_eq!(client.send_request(request).await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn http2_request_with_a_wrong_length_loses_only_that_stream() {
    let bed = Bed::new().await;
    let (mut client, _connection) = bed.http2().await;
    let mut events = bed.parts();
    let open = client.send_request(bed.http2_call("/mcp")).await.unwrap();
    for length in ["1", "3", "a"] {
        let mut request = bed.http2_call("/mcp");
        request.headers_mut().insert("content-length", length.parse().unwrap());
        let error = in_time(client.send_request(request)).await.unwrap_err();
        assert!(format!("{error:?}").contains("PROTOCOL_ERROR"), "{length}: {error:?}");
    }
    events.send(Ok(Frame::data(Bytes::from("data: 1\n\n")))).await.unwrap();
    drop(events);
    assert_eq!(text(open).await, "data: 1\n\n");
    assert_eq!(client.send_request(bed.http2_call("/mcp")).await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn unregistered_status_reaches_clients_of_both_versions() {
    let (_, bed) = raw::Recorder::bed(|_| raw::answer("999", "", "no")).await;
    let token = bed.token();
    let request = format!("GET /mcp HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n");
    let answer = raw::exchange(&bed, request.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 999 ") && answer.ends_with("\r\n\r\nno"), "{answer}");
    let (mut client, _connection) = bed.http2().await;
    let answer = client.send_request(bed.http2_call("/mcp")).await.unwrap();
    assert_eq!((answer.status().as_u16(), text(answer).await.as_str()), (999, "no"));
}

#[tokio::test]
async fn http2_event_stream_arrives_immediately_and_ends_with_its_session() {
    let bed = Bed::new().await;
    let (mut client, _connection) = bed.http2().await;
    let mut events = bed.parts();
    let mut body = client.send_request(bed.http2_call("/mcp")).await.unwrap().into_body().into_data_stream();
    events.send(Ok(Frame::data(Bytes::from("data: 1\n\n")))).await.unwrap();
    assert_eq!(body.next().await.unwrap().unwrap(), "data: 1\n\n");
    bed.apply(SessionEvent::Ended(bed.session.id));
    let rest = in_time(body.map(Result::unwrap).collect::<Vec<_>>()).await;
    assert_eq!(rest.concat(), b"");
}

#[tokio::test]
async fn http2_stream_of_a_disconnected_client_ends_at_the_upstream() {
    let bed = Bed::new().await;
    let (mut client, _connection) = bed.http2().await;
    let events = bed.parts();
    let answer = client.send_request(bed.http2_call("/mcp")).await.unwrap();
    drop(answer);
    in_time(async {
        while !events.is_closed() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(bed.metric("ended_streams_total{reason=\"client_gone\"}"), 1.0);
}

#[tokio::test]
async fn http2_client_that_reads_nothing_loses_only_that_stream() {
    let bed = Bed::builder().config(|config| config.upstream.timeouts.request_body = slow::soon()).start().await;
    let (mut client, _connection) = bed.http2().await;
    let mut events = bed.parts();
    let stuck = client.send_request(bed.http2_call("/mcp")).await.unwrap();
    let part = Bytes::from(vec![b'a'; 64 * 1024]);
    // More than the buffer of hyper's client.
    let sending = async {
        while events.send(Ok(Frame::data(part.clone()))).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    in_time(sending).await;
    assert_eq!(text(client.send_request(bed.http2_call("/mcp")).await.unwrap()).await, "{}");
    assert!(stuck.into_body().collect().await.is_err());
}

#[tokio::test]
async fn http2_connection_to_a_draining_proxy_serves_its_first_request_and_closes() {
    let bed = Bed::new().await;
    bed.leaving.cancel();
    let (mut client, connection) = bed.http2().await;
    let answer = in_time(client.send_request(bed.http2_call("/mcp"))).await.unwrap();
    assert_eq!((answer.status(), text(answer).await.as_str()), (StatusCode::OK, "{}"));
    // The client still holds the connection: the proxy closes it.
    in_time(connection).await.unwrap().unwrap();
    drop(client);
}

#[tokio::test]
async fn http2_connection_drains_without_losing_a_request() {
    let bed = Bed::new().await;
    let (mut client, connection) = bed.http2().await;
    let mut events = bed.parts();
    let answer = client.send_request(bed.http2_call("/mcp")).await.unwrap();
    bed.leaving.cancel();
    // From then on the proxy refuses streams, and the client knows that they were not processed.
    in_time(async { while client.send_request(bed.http2_call("/mcp")).await.is_ok() {} }).await;
    bed.shutdown.cancel();
    events.send(Ok(Frame::data(Bytes::from("late")))).await.unwrap();
    drop(events);
    assert_eq!(text(answer).await, "late");
    drop(client);
    in_time(connection).await.unwrap().unwrap();
    in_time(bed.served).await.unwrap().unwrap();
}

#[tokio::test]
async fn http2_connection_needs_a_permit_for_each_further_request() {
    let bed = Bed::builder().config(|config| config.connections = NonZero::new(1)).start().await;
    let (mut client, _connection) = bed.http2().await;
    let events = bed.parts();
    let first = client.send_request(bed.http2_call("/mcp")).await.unwrap();
    let second = client.send_request(bed.http2_call("/mcp")).await.unwrap();
    assert_eq!((first.status(), second.status()), (StatusCode::OK, StatusCode::SERVICE_UNAVAILABLE));
    drop(events);
    assert_eq!(text(first).await, "");
    in_time(async { while client.send_request(bed.http2_call("/mcp")).await.unwrap().status() != StatusCode::OK {} })
        .await;
}

#[tokio::test]
async fn http2_headers_are_limited() {
    let bed = Bed::new().await;
    let (mut client, _connection) = bed.http2().await;
    let mut request = bed.http2_call("/mcp");
    for number in 0..3 {
        request
            .headers_mut()
            .insert(http::HeaderName::try_from(format!("a{number}")).unwrap(), "a".repeat(12 * 1024).parse().unwrap());
    }
    // hyper's client either respects the announced limit or gets 431.
    let answer = client.send_request(request).await;
    assert!(answer.is_err() || answer.unwrap().status() == StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    assert_eq!(bed.upstream.requests(), 0);

    // A client that never ends its headers.
    let mut stream = TcpStream::connect(bed.address).await.unwrap();
    let mut bytes = [PREFACE, &frame(SETTINGS, 0, 0, &[]), &frame(HEADERS, END_STREAM, 1, GET)].concat();
    // A header of 16 KiB without indexing.
    let header = [&[0x00, 0x01, b'a', 0x7f, 0x81, 0x7e][..], &[b'a'; 16 * 1024]].concat();
    for _ in 0..1000 {
        bytes.extend(frame(CONTINUATION, 0, 1, &header[..16 * 1024]));
    }
    let _ = stream.write_all(&bytes).await;
    let answers = frames(&mut stream).await;
    assert!(answers.iter().all(|(kind, _)| *kind != HEADERS), "{answers:?}");
}

#[tokio::test]
async fn http2_rapid_resets_end_the_connection() {
    let bed = Bed::new().await;
    let mut bytes = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
    for stream in (1..2001).step_by(2) {
        bytes.extend(frame(HEADERS, END_STREAM | END_HEADERS, stream, GET));
        bytes.extend(frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
    }
    let mut stream = TcpStream::connect(bed.address).await.unwrap();
    let _ = stream.write_all(&bytes).await;
    let answers = frames(&mut stream).await;
    let end = answers.iter().find(|(kind, _)| *kind == GOAWAY).map(|(_, payload)| payload[4..8].to_vec());
    assert_eq!(end, Some(ENHANCE_YOUR_CALM.to_be_bytes().to_vec()), "{answers:?}");
    assert_eq!(bed.call().await.status(), StatusCode::OK);
}

#[tokio::test]
async fn http2_concurrent_requests_are_limited() {
    let bed = Bed::new().await;
    let mut stream = TcpStream::connect(bed.address).await.unwrap();
    stream.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[]), &frame(GOAWAY, 0, 0, &[0; 8])].concat()).await.unwrap();
    let answers = frames(&mut stream).await;
    let (_, settings) = answers.iter().find(|(kind, _)| *kind == SETTINGS).unwrap();
    // SETTINGS_MAX_CONCURRENT_STREAMS and SETTINGS_MAX_HEADER_LIST_SIZE (RFC 9113 §6.5.2).
    for setting in [[0, 3, 0, 0, 0, 100], [0, 6, 0, 0, 0x80, 0]] {
        assert!(settings.chunks(6).any(|announced| announced == setting), "{settings:?}");
    }
}
