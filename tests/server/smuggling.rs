//! C7: from any input of a client, at most one well-formed request reaches the upstream, and bytes inside that request never
//! become another request.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{
    raw::{Recorder, answer, exchange, statuses},
    slow::rest,
    *,
};

/// The request to smuggle: without a token, with another user's identity.
const HIDDEN: &str = "GET /mcp?hidden HTTP/1.1\r\nHost: x\r\nX-Forwarded-User: evil@example.com\r\n\r\n";

/// Closes a connection that is still open: the router serves this request.
const LAST: &str = "GET /own HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

/// The outcome of the first request of a case.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Outcome {
    /// Refused with this status; nothing reaches the upstream.
    Refused(u16),
    /// Forwarded with this body.
    Arrives(&'static str),
    /// The head is valid, but the body is malformed: the upstream gets an incomplete request.
    Incomplete,
}
use Outcome::{Arrives, Incomplete, Refused};

async fn check(name: &str, request: &str, outcome: Outcome) {
    let (recorder, bed) = Recorder::bed(|_| answer("200 OK", "", "ok")).await;
    let token = format!("Authorization: Bearer {}", bed.token());
    let request = request.replace("TOKEN", &token);
    let answers = exchange(&bed, format!("{request}{HIDDEN}{LAST}").as_bytes()).await;
    let sent = recorder.requests().unwrap_or_else(|error| panic!("{name}: {error} in {}", recorder.text()));
    assert!(sent.iter().all(|sent| sent.values("x-forwarded-user") == ["ada@example.com"]), "{name}: {sent:#?}");
    let first = statuses(&answers).first().copied();
    match outcome {
        Refused(status) => {
            assert_eq!((first, recorder.text().as_str()), (Some(status), ""), "{name}: {answers}");
        }
        Arrives(body) => {
            assert_eq!(sent.len(), 1, "{name}: {answers} {sent:#?}");
            assert_eq!(String::from_utf8_lossy(&sent[0].body), body, "{name}");
            assert_eq!(first, Some(200), "{name}: {answers}");
            let target = &sent[0].target;
            assert!(target == "/base/mcp" || target == "/base/mcp?a=b", "{name}: {target}");
        }
        Incomplete => assert!(sent.is_empty() && first != Some(200), "{name}: {answers} {sent:#?}"),
    }
}

#[tokio::test]
async fn c7_ambiguous_body_length_is_rejected() {
    let post = |rest: &str| format!("POST /mcp HTTP/1.1\r\nHost: x\r\nTOKEN\r\n{rest}");
    for (name, rest, outcome) in [
        ("a length", "Content-Length: 2\r\n\r\n{}", Arrives("{}")),
        ("chunks", "Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", Arrives("{}")),
        ("chunks, in capitals", "transfer-ENCODING: CHUNKED\r\n\r\n2\r\n{}\r\n0\r\n\r\n", Arrives("{}")),
        (
            "length and chunks",
            "Content-Length: 99\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
            Refused(400),
        ),
        (
            "chunks and length",
            "Transfer-Encoding: chunked\r\nContent-Length: 99\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
            Refused(400),
        ),
        ("two lengths", "Content-Length: 2\r\nContent-Length: 99\r\n\r\n{}", Refused(400)),
        ("one length twice", "Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}", Arrives("{}")),
        ("a list of lengths", "Content-Length: 2, 99\r\n\r\n{}", Refused(400)),
        ("a length with a sign", "Content-Length: +2\r\n\r\n{}", Refused(400)),
        ("a negative length", "Content-Length: -2\r\n\r\n{}", Refused(400)),
        ("a length in hex", "Content-Length: 0x2\r\n\r\n{}", Refused(400)),
        ("a length that is too large", "Content-Length: 99999999999999999999\r\n\r\n{}", Refused(400)),
        ("the largest length", "Content-Length: 18446744073709551615\r\n\r\n{}", Refused(400)),
        ("an empty length", "Content-Length: \r\n\r\n", Refused(400)),
        ("length and an odd coding", "Content-Length: 2\r\nTransfer-Encoding: xchunked\r\n\r\n{}", Refused(400)),
        ("an odd coding", "Transfer-Encoding: xchunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", Refused(400)),
        ("chunked is not the last", "Transfer-Encoding: chunked, identity\r\n\r\n2\r\n{}\r\n0\r\n\r\n", Refused(400)),
        ("identity", "Transfer-Encoding: identity\r\nContent-Length: 2\r\n\r\n{}", Refused(400)),
        ("a second coding", "Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n", Refused(400)),
        ("a blank before the colon", "Transfer-Encoding : chunked\r\nContent-Length: 2\r\n\r\n{}", Refused(400)),
        ("a tab before the value", "Transfer-Encoding:\tchunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", Arrives("{}")),
        ("a vertical tab", "Transfer-Encoding:\x0bchunked\r\nContent-Length: 2\r\n\r\n{}", Refused(400)),
        ("a coding in quotes", "Transfer-Encoding: \"chunked\"\r\nContent-Length: 2\r\n\r\n{}", Refused(400)),
    ] {
        check(name, &post(rest), outcome).await;
    }
}

#[tokio::test]
async fn c7_malformed_chunks_are_rejected() {
    let post =
        |body: &str| format!("POST /mcp HTTP/1.1\r\nHost: x\r\nTOKEN\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
    for (name, body, outcome) in [
        ("an extension", "2;a=b\r\n{}\r\n0\r\n\r\n", Arrives("{}")),
        ("a quoted extension", "2;a=\"b;c\"\r\n{}\r\n0;d\r\n\r\n", Arrives("{}")),
        ("an extension with a line feed", "2;a\n{}\r\n0\r\n\r\n", Incomplete),
        ("leading zeros", "0002\r\n{}\r\n000\r\n\r\n", Arrives("{}")),
        ("no size", "\r\n{}\r\n0\r\n\r\n", Incomplete),
        ("a size that is none", "g\r\n{}\r\n0\r\n\r\n", Incomplete),
        ("a size with a sign", "+2\r\n{}\r\n0\r\n\r\n", Incomplete),
        ("a size with 0x", "0x2\r\n{}\r\n0\r\n\r\n", Incomplete),
        ("a size beyond all bounds", "10000000000000002\r\n{}\r\n0\r\n\r\n", Incomplete),
        ("more than the size", "2\r\n{}{}\r\n0\r\n\r\n", Incomplete),
        ("a bare line feed behind the size", "2\n{}\r\n0\r\n\r\n", Incomplete),
        ("a trailer", "2\r\n{}\r\n0\r\nX-Forwarded-User: evil@example.com\r\n\r\n", Arrives("{}")),
    ] {
        check(name, &post(body), outcome).await;
    }
    let announced = "POST /mcp HTTP/1.1\r\nHost: x\r\nTOKEN\r\nTrailer: x-forwarded-user\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX-Forwarded-User: evil@example.com\r\n\r\n";
    check("an announced trailer", announced, Arrives("{}")).await;
}

#[tokio::test]
async fn c7_ambiguous_head_is_rejected() {
    for (name, request, outcome) in [
        ("an empty line before", "\r\nGET /mcp HTTP/1.1\r\nHost: x\r\nTOKEN\r\n\r\n", Arrives("")),
        ("bare line feeds", "GET /mcp HTTP/1.1\nHost: x\nTOKEN\n\n", Refused(400)),
        ("a bare line feed", "GET /mcp HTTP/1.1\r\nHost: x\r\nA: b\nTOKEN\r\n\r\n", Refused(400)),
        ("a bare carriage return", "GET /mcp HTTP/1.1\r\nHost: x\rEvil: y\r\nTOKEN\r\n\r\n", Refused(400)),
        ("a folded line", "GET /mcp HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\nTOKEN\r\n\r\n", Refused(400)),
        ("a folded first line", "GET /mcp HTTP/1.1\r\n Host: x\r\nTOKEN\r\n\r\n", Refused(400)),
        ("NUL in a value", "GET /mcp HTTP/1.1\r\nHost: x\r\nA: b\0c\r\nTOKEN\r\n\r\n", Refused(400)),
        ("NUL in a name", "GET /mcp HTTP/1.1\r\nHost: x\r\nA\0b: c\r\nTOKEN\r\n\r\n", Refused(400)),
        ("no name", "GET /mcp HTTP/1.1\r\nHost: x\r\n: c\r\nTOKEN\r\n\r\n", Refused(400)),
        ("a blank in a name", "GET /mcp HTTP/1.1\r\nHost: x\r\nA b: c\r\nTOKEN\r\n\r\n", Refused(400)),
        ("no colon", "GET /mcp HTTP/1.1\r\nHost: x\r\nabc\r\nTOKEN\r\n\r\n", Refused(400)),
        ("two hosts", "GET /mcp HTTP/1.1\r\nHost: x\r\nHost: y\r\nTOKEN\r\n\r\n", Refused(400)),
        ("one host twice", "GET /mcp HTTP/1.1\r\nHost: x\r\nHost: x\r\nTOKEN\r\n\r\n", Refused(400)),
        ("no host", "GET /mcp HTTP/1.1\r\nTOKEN\r\n\r\n", Refused(400)),
        ("no host before there were any", "GET /mcp HTTP/1.0\r\nTOKEN\r\n\r\n", Arrives("")),
        ("a body of a GET", "GET /mcp HTTP/1.1\r\nHost: x\r\nTOKEN\r\nContent-Length: 3\r\n\r\nabc", Arrives("")),
        (
            "a body of a GET in chunks",
            "GET /mcp HTTP/1.1\r\nHost: x\r\nTOKEN\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
            Arrives(""),
        ),
        (
            "a body that is a request",
            "POST /mcp HTTP/1.1\r\nHost: x\r\nTOKEN\r\nContent-Length: 25\r\n\r\nGET /mcp?h HTTP/1.1\r\n\r\n\r\n",
            Arrives("GET /mcp?h HTTP/1.1\r\n\r\n\r\n"),
        ),
    ] {
        check(name, request, outcome).await;
    }
}

#[tokio::test]
async fn c7_other_versions_and_protocols_do_not_reach_the_upstream() {
    for (name, request, outcome) in [
        ("1.0", "GET /mcp HTTP/1.0\r\nConnection: keep-alive\r\nTOKEN\r\n\r\n", Arrives("")),
        ("1.0 with chunks", "POST /mcp HTTP/1.0\r\nTOKEN\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Refused(400)),
        ("1.2", "GET /mcp HTTP/1.2\r\nHost: x\r\nTOKEN\r\n\r\n", Refused(400)),
        ("0.9", "GET /mcp\r\n", Refused(400)),
        ("a version in lower case", "GET /mcp http/1.1\r\nHost: x\r\nTOKEN\r\n\r\n", Refused(400)),
        (
            "an upgrade that was not negotiated",
            "GET /mcp HTTP/1.1\r\nHost: x\r\nTOKEN\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
            Arrives(""),
        ),
        (
            "h2c",
            "GET /mcp HTTP/1.1\r\nHost: x\r\nTOKEN\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n",
            Arrives(""),
        ),
        ("CONNECT", "CONNECT /mcp HTTP/1.1\r\nHost: x\r\nTOKEN\r\n\r\n", Refused(405)),
        ("CONNECT to a host", "CONNECT upstream:80 HTTP/1.1\r\nHost: x\r\nTOKEN\r\n\r\n", Refused(404)),
        ("TRACE", "TRACE /mcp HTTP/1.1\r\nHost: x\r\nTOKEN\r\n\r\n", Refused(405)),
        ("a method of one's own", "GETS /mcp HTTP/1.1\r\nHost: x\r\nTOKEN\r\n\r\n", Refused(405)),
        ("a method in lower case", "get /mcp HTTP/1.1\r\nHost: x\r\nTOKEN\r\n\r\n", Refused(405)),
    ] {
        check(name, request, outcome).await;
    }
    // After the HTTP/2 preface, an HTTP/1 request is an invalid frame.
    let (recorder, bed) = Recorder::bed(|_| answer("200 OK", "", "ok")).await;
    let valid = format!("GET /mcp HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\r\n", bed.token());
    let answers = exchange(&bed, format!("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n{valid}{LAST}").as_bytes()).await;
    assert_eq!((recorder.text().as_str(), statuses(&answers)), ("", Vec::new()));
}

#[tokio::test]
async fn c7_c8_only_the_path_of_a_target_is_used() {
    for (name, target, outcome) in [
        ("an absolute URL", "http://x/mcp", Arrives("")),
        ("of another host", "http://evil.example.com/mcp?a=b", Arrives("")),
        ("with a user", "http://user@x/mcp", Arrives("")),
        ("of another scheme", "ftp://x/mcp", Arrives("")),
        ("with a path that is not one", "http://x/mcp/../admin", Refused(404)),
        ("a fragment is cut", "/mcp#/../admin", Arrives("")),
        ("two slashes and a host", "//evil.example.com/mcp", Refused(404)),
        ("a backslash", "/mcp\\..\\admin", Refused(404)),
        ("a blank in it", "/mcp /admin", Refused(400)),
        ("a tab in it", "/mcp\t/admin", Refused(400)),
        ("NUL in it", "/mcp\0", Refused(400)),
        ("none", "", Refused(400)),
        ("a path without a slash", "mcp", Refused(404)),
        ("a star", "*", Refused(404)),
    ] {
        check(name, &format!("GET {target} HTTP/1.1\r\nHost: x\r\nTOKEN\r\n\r\n"), outcome).await;
    }
}

#[tokio::test]
async fn c7_pipelined_requests_each_need_a_token() {
    let (recorder, bed) = Recorder::bed(|_| answer("200 OK", "", "ok")).await;
    let with = format!("GET /mcp HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\r\n", bed.token());
    let answers = exchange(&bed, format!("{with}{HIDDEN}{with}{LAST}").as_bytes()).await;
    assert_eq!(statuses(&answers), [200, 401, 200, 200], "{answers}");
    let targets: Vec<_> = recorder.requests().unwrap().into_iter().map(|sent| sent.target).collect();
    assert_eq!(targets, ["/base/mcp", "/base/mcp"]);
}

/// Each request arrives once and whole, wherever its bytes are split.
#[tokio::test]
async fn c7_chunked_request_may_be_split_anywhere() {
    let (recorder, bed) = Recorder::bed(|sent| answer("200 OK", "", &String::from_utf8_lossy(&sent.body))).await;
    let token = format!("Authorization: Bearer {}", bed.token());
    let head = format!("POST /mcp HTTP/1.1\r\nHost: x\r\n{token}\r\nTransfer-Encoding: chunked\r\n\r\n");
    let content = "3;a=\"b;c\"\r\nabc\r\n1;x\r\nd\r\n002\r\nef\r\n0;y\r\nX-A: b\r\nX-C: d\r\n\r\n";
    for split in 0..=content.len() {
        let (first, second) = content.split_at(split);
        let mut stream = tokio::net::TcpStream::connect(bed.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        stream.write_all(format!("{head}{first}").as_bytes()).await.unwrap();
        // Meanwhile the proxy reads the first part.
        bed.send(Request::get("/own").body("").unwrap()).await;
        stream.write_all(format!("{second}{LAST}").as_bytes()).await.unwrap();
        let answers = rest(&mut stream).await;
        assert_eq!(statuses(&answers), [200, 200], "{split}: {answers}");
        assert!(answers.contains("\r\n\r\nabcdef") && answers.ends_with("\r\n\r\nown"), "{split}: {answers}");
    }
    let bodies: Vec<_> = recorder.requests().unwrap().into_iter().map(|sent| sent.body).collect();
    assert_eq!(bodies, vec![b"abcdef"; content.len() + 1]);
}

#[tokio::test]
async fn c7_pipelined_content_of_any_size_arrives_once() {
    // About the sizes of the buffers and of one read.
    for size in [1, 8 << 10, 16 << 10, 33 << 10, 64 << 10, 1 << 20].into_iter().flat_map(|size| size - 1..=size + 1) {
        let (recorder, bed) = Recorder::bed(|_| answer("200 OK", "", "ok")).await;
        let body = "abcdefghijklmno".repeat(size / 15 + 1);
        let body = &body[..size];
        let chunk = if size == 0 { String::new() } else { format!("{size:x}\r\n{body}\r\n") };
        let post = format!("POST /mcp HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n", bed.token());
        let known = format!("{post}Content-Length: {size}\r\n\r\n{body}");
        let chunked = format!("{post}Transfer-Encoding: chunked\r\n\r\n{chunk}0\r\n\r\n");
        let answers = exchange(&bed, format!("{known}{chunked}{known}{LAST}").as_bytes()).await;
        assert_eq!(statuses(&answers), [200; 4], "{size}: {answers}");
        let sent = recorder.requests().unwrap();
        assert!(sent.len() == 3 && sent.iter().all(|sent| sent.body == body.as_bytes()), "{size}");
    }
}

#[tokio::test]
async fn c7_refusal_of_an_invalid_trailer_closes_the_connection() {
    let (recorder, bed) = Recorder::bed(|_| answer("200 OK", "", "ok")).await;
    let token = format!("Authorization: Bearer {}", bed.token());
    for path in ["/mcp", "/own"] {
        let head = format!("POST {path} HTTP/1.1\r\nHost: x\r\n{token}\r\nTransfer-Encoding: chunked\r\n\r\n");
        let request = format!("{head}2\r\n{{}}\r\n0\r\nA b: c\r\n\r\n{HIDDEN}");
        let answers = exchange(&bed, request.as_bytes()).await;
        assert_eq!(statuses(&answers), [400], "{path}: {answers}");
        assert!(answers.contains("\r\nconnection: close\r\n"), "{path}: {answers}");
    }
    assert_eq!(recorder.requests().unwrap(), []);
}

/// The rest of a request after its response is never parsed as a request.
#[tokio::test]
async fn c7_unread_body_is_never_the_next_request() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let counting = asked.clone();
    // Responds to the first bytes of a request.
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            counting.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                stream.read_u8().await.unwrap();
                stream
                    .write_all(b"HTTP/1.1 202 Accepted\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
                    .await
                    .unwrap();
                while stream.read(&mut [0; 1024]).await.is_ok_and(|read| read > 0) {}
            });
        }
    });
    let bed = Bed::builder().upstream(address).start().await;
    let hidden = format!("GET /mcp HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\r\n", bed.token());
    let chunks = format!("{:x}\r\n{hidden}\r\n0\r\n\r\n", hidden.len());
    for (requests, (method, framing, first, rest)) in [
        ("POST", format!("Content-Length: {}", hidden.len() + 1), "{", hidden.as_str()),
        ("GET", format!("Content-Length: {}", hidden.len()), "", hidden.as_str()),
        ("GET", "Transfer-Encoding: chunked".to_owned(), "", chunks.as_str()),
    ]
    .into_iter()
    .enumerate()
    {
        let mut stream = tokio::net::TcpStream::connect(bed.address).await.unwrap();
        let token = format!("Authorization: Bearer {}", bed.token());
        let head = format!("{method} /mcp HTTP/1.1\r\nHost: x\r\n{token}\r\n{framing}\r\n\r\n{first}");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = vec![0; 12];
        in_time(stream.read_exact(&mut answer)).await.unwrap();
        stream.write_all(rest.as_bytes()).await.unwrap();
        in_time(stream.read_to_end(&mut answer)).await.unwrap();
        let answers = String::from_utf8(answer).unwrap();
        assert_eq!(statuses(&answers), [202], "{framing}: {answers}");
        assert!(answers.contains("\r\nconnection: close\r\n"), "{answers}");
        assert_eq!(asked.load(Ordering::SeqCst), requests + 1);
    }
}
