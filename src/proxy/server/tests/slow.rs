//! Clients and upstreams that are slow, stuck or huge, as no correct one would be.

use std::io;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::*;
use crate::proxy::{forward::SILENCE, server::head::MAX_HEAD};

/// As little as a resource may say.
const SOON: &str = "1s";

impl Bed {
    /// A connection over which the head of a request has been sent, with these further lines.
    async fn begin(&self, lines: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let head = format!("POST /mcp HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {}\r\n{lines}\r\n", self.token());
        // It may be refused, and closed, before that is read.
        let _ = stream.write_all(head.as_bytes()).await;
        stream
    }
}

/// All that comes until the proxy closes the connection.
async fn rest(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    in_time(read).await.ok();
    String::from_utf8_lossy(&answer).into_owned()
}

fn soon() -> crate::api::Duration {
    SOON.parse().unwrap()
}

#[tokio::test]
async fn c13_a_body_that_says_it_is_too_large_is_refused_before_the_upstream_hears_of_it() {
    let bed = Bed::configured(|proxy| proxy.config.upstream.limits.request_body = "1Ki".parse().unwrap()).await;
    let largest: &'static str = "a".repeat(1024).leak();
    assert_eq!(bed.send(bed.request("/mcp").body(largest).unwrap()).await.status(), StatusCode::OK);
    let answer = rest(&mut bed.begin("content-length: 1025\r\n").await).await;
    assert!(answer.starts_with("HTTP/1.1 413 ") && answer.contains("connection: close"), "{answer}");
    assert_eq!(bed.upstream.asked(), 1);
}

#[tokio::test]
async fn c13_who_sends_all_of_a_large_request_before_reading_learns_why_it_was_refused() {
    const SIZE: usize = 64 << 20;
    let bed = Bed::new().await;
    for (token, status) in [(bed.token(), 413), ("not.a.token", 401)] {
        let mut stream = TcpStream::connect(bed.address).await.unwrap();
        let head =
            format!("POST /mcp HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {token}\r\ncontent-length: {SIZE}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        for _ in 0..SIZE / 65536 {
            stream.write_all(&[b'a'; 65536]).await.unwrap();
        }
        let answer = rest(&mut stream).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    }
}

#[tokio::test]
async fn c13_who_sends_all_of_a_large_head_before_reading_learns_why_it_was_refused() {
    let bed = Bed::new().await;
    let mut stream = TcpStream::connect(bed.address).await.unwrap();
    stream.write_all(b"POST /mcp HTTP/1.1\r\nhost: a\r\n").await.unwrap();
    let line = format!("a: {}\r\n", "a".repeat(16 * 1024));
    for _ in 0..1024 {
        stream.write_all(line.as_bytes()).await.unwrap();
    }
    let answer = rest(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
}

#[tokio::test]
async fn a_machine_that_was_lost_is_noticed_on_either_side() {
    let bed = Bed::new().await;
    let mut client = bed.begin("content-length: 0\r\n").await;
    client.read_exact(&mut [0; 12]).await.unwrap();
    let upstream = bed.proxy.config.upstream.url.parse::<Uri>().unwrap().port_u16().unwrap();
    // Of each connection that is open here: the ports at this end and at the other, and in how many hundredths of a second the timer
    // that asks the other end is due (kernel.org, proc_net_tcp).
    let port = |address: &str| u16::from_str_radix(address.split_once(':').unwrap().1, 16).unwrap();
    let is_soon = |timer: &str| {
        let due = timer.strip_prefix("02:").map(|due| u64::from_str_radix(due, 16).unwrap());
        due.is_some_and(|due| due <= SILENCE.as_secs() * 100)
    };
    let are_asked = || {
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let open = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let open = open.filter(|fields| fields[3] == "01");
        let ours = open.filter(|open| port(open[1]) == bed.address.port() || port(open[2]) == upstream);
        ours.filter(|open| is_soon(open[5])).count() == 2
    };
    // Until the last that was sent is acknowledged, another timer runs.
    in_time(async {
        while !are_asked() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_request_that_becomes_too_large_while_it_is_answered_is_no_fault_of_the_upstream() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let listening = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.read_u8().await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n{").await.unwrap();
        while stream.read(&mut [0; 1024]).await.is_ok_and(|read| read > 0) {}
    });
    let small = |proxy: &mut Proxy| proxy.config.upstream.limits.request_body = "1Ki".parse().unwrap();
    let bed = Bed::changed(LiveSet::default(), Arc::default(), address, listening, small).await;
    bed.proxy.sessions.live().apply(SessionEvent::All(vec![bed.session.clone()]));
    let mut stream = bed.begin("transfer-encoding: chunked\r\n").await;
    stream.write_all(b"1\r\n{\r\n").await.unwrap();
    let mut answer = [0; 12];
    in_time(stream.read_exact(&mut answer)).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    stream.write_all(format!("800\r\n{}\r\n", "a".repeat(2048)).as_bytes()).await.unwrap();
    rest(&mut stream).await;
    assert_eq!(bed.metric("cut_answers_total{reason=\"upstream_failed\"}"), 0.0);
}

#[tokio::test]
async fn a_request_that_is_not_whole_ends_with_its_session() {
    let bed = Bed::new().await;
    let mut stream = bed.begin("content-length: 2\r\n").await;
    stream.write_all(b"{").await.unwrap();
    while bed.metric("token_cache_entries") == 0.0 {
        tokio::task::yield_now().await;
    }
    bed.proxy.sessions.live().apply(SessionEvent::Ended(bed.session.id));
    let answer = rest(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    assert_eq!(bed.upstream.asked(), 0);
}

#[tokio::test]
async fn a_client_may_take_longer_for_its_request_than_the_upstream_for_its_answer() {
    let bed = Bed::configured(|proxy| proxy.config.upstream.timeouts.response_head = soon()).await;
    let mut stream = bed.begin("content-length: 2\r\n").await;
    stream.write_all(b"{").await.unwrap();
    while bed.metric("token_cache_entries") == 0.0 {
        tokio::task::yield_now().await;
    }
    // What the upstream has for its answer is over for a request that came later.
    let later = bed.send(bed.request("/mcp?silent").body("{}").unwrap());
    assert_eq!(in_time(later).await.status(), StatusCode::GATEWAY_TIMEOUT);
    stream.write_all(b"}").await.unwrap();
    let mut answer = [0; 12];
    in_time(stream.read_exact(&mut answer)).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
}

#[tokio::test]
async fn c13_a_body_that_turns_out_to_be_too_large_never_arrives_whole() {
    let bed = Bed::configured(|proxy| proxy.config.upstream.limits.request_body = "1Ki".parse().unwrap()).await;
    let mut stream = bed.begin("transfer-encoding: chunked\r\n").await;
    let chunk = format!("200\r\n{}\r\n", "a".repeat(512));
    for _ in 0..2 {
        stream.write_all(chunk.as_bytes()).await.unwrap();
    }
    stream.write_all(b"1\r\na\r\n").await.unwrap();
    let answer = rest(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert_eq!(bed.upstream.asked(), 0);
}

#[tokio::test]
async fn c13_a_body_that_does_not_go_on_is_given_up_and_one_byte_now_and_then_does_not_help() {
    let bed = Bed::configured(|proxy| proxy.config.upstream.timeouts.request_body = soon()).await;
    let mut silent = bed.begin("content-length: 10\r\n").await;
    let (mut answers, mut dripping) = bed.begin("content-length: 100000\r\n").await.into_split();
    let drip = tokio::spawn(async move {
        while dripping.write_all(b"a").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    let answer = rest(&mut silent).await;
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("connection: close"), "{answer}");
    let mut answer = [0; 13];
    in_time(answers.read_exact(&mut answer)).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 408 ");
    drop(answers);
    drip.await.unwrap();
    assert_eq!(bed.upstream.asked(), 0);
    assert_eq!(bed.call().await.status(), StatusCode::OK);
}

#[tokio::test]
async fn c13_a_head_that_is_too_large_is_refused() {
    let bed = Bed::new().await;
    let mut stream = TcpStream::connect(bed.address).await.unwrap();
    stream.write_all(format!("GET /mcp HTTP/1.1\r\na: {}", "a".repeat(MAX_HEAD)).as_bytes()).await.unwrap();
    let answer = rest(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
}

#[tokio::test]
async fn an_upstream_that_does_not_begin_its_answer_is_a_gateway_timeout() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    // It takes connections and closes none.
    let silent = tokio::spawn(async move {
        let mut taken = Vec::new();
        loop {
            taken.push(listener.accept().await.unwrap());
        }
    });
    let soon = |proxy: &mut Proxy| proxy.config.upstream.timeouts.response_head = soon();
    let bed = Bed::changed(LiveSet::default(), Arc::default(), address, silent, soon).await;
    bed.proxy.sessions.live().apply(SessionEvent::All(vec![bed.session.clone()]));
    assert_eq!(in_time(bed.call()).await.status(), StatusCode::GATEWAY_TIMEOUT);
    let metrics = bed.proxy.metrics_text().unwrap();
    assert!(metrics.contains("requests_total{outcome=\"timed_out\"} 1"), "{metrics}");
}

#[tokio::test]
async fn a_stream_in_which_nothing_comes_is_ended_and_half_of_another_answer_is_cut() {
    let bed = Bed::configured(|proxy| {
        proxy.config.upstream.timeouts.stream_idle = soon();
        proxy.config.upstream.timeouts.response_head = soon();
    })
    .await;
    let mut events = bed.parts();
    let mut stream = bed.listen().await.into_body().into_data_stream();
    events.send(Ok(Frame::data(Bytes::from("data: 1\n\n")))).await.unwrap();
    assert_eq!(stream.next().await.unwrap().unwrap(), "data: 1\n\n");
    assert!(in_time(stream.next()).await.is_none());
    // The upstream sees that nobody listens any more.
    while events.send(Ok(Frame::data(Bytes::from("data: 2\n\n")))).await.is_ok() {
        tokio::task::yield_now().await;
    }

    let mut part = bed.parts();
    let response = bed.send(bed.request("/mcp?json").body("{}").unwrap()).await;
    let mut body = response.into_body().into_data_stream();
    part.send(Ok(Frame::data(Bytes::from("{\"half\":")))).await.unwrap();
    assert_eq!(body.next().await.unwrap().unwrap(), "{\"half\":");
    assert!(in_time(body.next()).await.unwrap().is_err());
}

#[tokio::test]
async fn a_stream_ends_when_its_token_has_been_over_for_the_grace() {
    let later = Arc::new(std::sync::atomic::AtomicI64::new(0));
    let moved = later.clone();
    let bed = Bed::configured(|proxy| {
        proxy.config.tokens.stream_grace = "60s".parse().unwrap();
        proxy.clock = Arc::new(move || wall_clock()() + SignedDuration::from_secs(moved.load(Ordering::SeqCst)));
    })
    .await;
    let mut events = bed.parts();
    let mut stream = bed.listen().await.into_body().into_data_stream();
    // The token's 600 s are over, and the grace has begun.
    later.store(630, Ordering::SeqCst);
    while bed.call().await.status() != StatusCode::UNAUTHORIZED {}
    events.send(Ok(Frame::data(Bytes::from("data: 1\n\n")))).await.unwrap();
    assert_eq!(stream.next().await.unwrap().unwrap(), "data: 1\n\n");
    later.store(661, Ordering::SeqCst);
    assert!(in_time(stream.next()).await.is_none());
}

#[tokio::test]
async fn what_is_too_much_is_refused_at_once_and_let_in_when_something_has_ended() {
    let bed = Bed::configured(|proxy| {
        proxy.config.upstream.limits.concurrency = 1;
        proxy.config.upstream.limits.streams = Some(1);
    })
    .await;
    let answer = bed.parts();
    let answered = bed.call().await;
    let events = bed.parts();
    let stream = bed.listen().await;
    assert_eq!((answered.status(), stream.status()), (StatusCode::OK, StatusCode::OK));
    let asked = bed.upstream.asked();
    for refused in [bed.call().await, bed.listen().await] {
        assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(refused.headers()["retry-after"], "1");
    }
    assert_eq!(bed.upstream.asked(), asked);
    let metrics = bed.proxy.metrics_text().unwrap();
    assert!(metrics.contains("requests_total{outcome=\"shed\"} 2"), "{metrics}");
    drop((answer, events));
    assert_eq!((text(answered).await, text(stream).await), (String::new(), String::new()));
    assert_eq!((bed.call().await.status(), bed.listen().await.status()), (StatusCode::OK, StatusCode::OK));
}

#[tokio::test]
async fn what_is_too_much_of_all_users_together_is_refused_until_something_of_any_has_ended() {
    let bed = Bed::configured(|proxy| proxy.config.upstream.limits.concurrency = 3).await;
    // One user may have two of the three, and has one.
    let callers = ["b", "c", "d", "e"].map(|nonce| {
        let mut caller = Session { id: session(nonce).id, ..bed.session.clone() };
        caller.user.subject = nonce.to_owned();
        bed.proxy.sessions.live().apply(SessionEvent::Is(caller.clone()));
        bed.token_of(&caller, "https://mcp.example.com/mcp")
    });
    let [callers @ .., last] = &callers;
    let call = async |token: &str| {
        let request = Request::post("/mcp").header("authorization", format!("Bearer {token}"));
        bed.send(request.body("{}").unwrap()).await
    };
    let mut open = Vec::new();
    for caller in callers {
        let parts = bed.parts();
        let answer = call(caller).await;
        assert_eq!(answer.status(), StatusCode::OK);
        open.push((parts, answer));
    }
    let refused = call(last).await;
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(refused.headers()["retry-after"], "1");
    assert!(text(refused).await.contains("the server is busy"));
    assert_eq!(bed.upstream.asked(), callers.len());
    let (parts, answer) = open.pop().unwrap();
    drop(parts);
    assert_eq!(text(answer).await, "");
    assert_eq!(call(last).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn c13_a_client_that_takes_nothing_of_its_answer_is_disconnected() {
    let bed = Bed::configured(|proxy| proxy.config.upstream.timeouts.request_body = soon()).await;
    let (parts, part) = (bed.parts(), Bytes::from(vec![b'a'; 1 << 20]));
    for _ in 0..1000 {
        parts.unbounded_send(Ok(Frame::data(part.clone()))).unwrap();
    }
    let mut stream = bed.begin("content-length: 0\r\n").await;
    // The upstream sees that nobody listens any more.
    in_time(async {
        while !parts.is_closed() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let (mut taken, mut buffer) = (0, vec![0; 1 << 20]);
    while let Ok(read @ 1..) = stream.read(&mut buffer).await {
        taken += read;
    }
    // What the buffers of two sockets hold; nothing waits in the proxy.
    assert!(taken < 100 << 20, "{taken}");
}

#[tokio::test]
async fn a_stream_of_which_the_client_takes_nothing_ends_with_its_session() {
    let bed = Bed::new().await;
    let (parts, part) = (bed.parts(), Bytes::from(vec![b'a'; 1 << 20]));
    for _ in 0..1000 {
        parts.unbounded_send(Ok(Frame::data(part.clone()))).unwrap();
    }
    let mut stream = bed.begin("content-length: 0\r\n").await;
    stream.read_exact(&mut [0; 12]).await.unwrap();
    bed.proxy.sessions.live().apply(SessionEvent::Ended(bed.session.id));
    // Sooner than a client is given up that takes nothing.
    in_time(async {
        while !parts.is_closed() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(bed.metric("ended_streams_total{reason=\"session_ended\"}"), 1.0);
}

#[tokio::test]
async fn c13_a_connection_that_is_one_too_many_is_refused_and_the_next_is_taken_when_one_has_ended() {
    let bed = Bed::configured(|proxy| proxy.config.connections = Some(1)).await;
    let mut first = bed.begin("content-length: 0\r\n").await;
    let mut answer = [0; 12];
    first.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    // Its client may have sent a request by then, and more of it after the answer.
    let mut second = bed.begin("content-length: 1000000\r\n").await;
    for _ in 0..1000 {
        second.write_all(&[b'a'; 1000]).await.unwrap();
    }
    let refused = rest(&mut second).await;
    assert!(refused.starts_with("HTTP/1.1 503 ") && refused.contains("retry-after: 1\r\n"), "{refused}");
    drop(first);
    loop {
        let mut next = bed.begin("content-length: 0\r\nconnection: close\r\n").await;
        if rest(&mut next).await.starts_with("HTTP/1.1 200 ") {
            break;
        }
    }
}

#[tokio::test]
async fn c13_the_authorization_servers_requests_are_small_and_come_at_once() {
    let bed = Bed::configured(|proxy| proxy.config.upstream.timeouts.request_body = soon()).await;
    for (length, status) in [("10", "408"), ("65537", "413")] {
        let mut stream = TcpStream::connect(bed.address).await.unwrap();
        let head = format!("POST /token HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let answer = rest(&mut stream).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    }
}

#[tokio::test]
async fn an_upstream_that_cannot_be_reached_again_and_again_is_not_tried_for_a_while() {
    let bed = Bed::new().await;
    bed.listening.abort();
    while !bed.listening.is_finished() {
        tokio::task::yield_now().await;
    }
    for _ in 0..5 {
        assert_eq!(bed.call().await.status(), StatusCode::BAD_GATEWAY);
    }
    let answer = bed.call().await;
    assert_eq!(
        (answer.status(), &answer.headers()["retry-after"]),
        (StatusCode::SERVICE_UNAVAILABLE, &"1".parse().unwrap())
    );
    let metrics = bed.proxy.metrics_text().unwrap();
    assert!(metrics.contains("requests_total{outcome=\"broken\"} 1"), "{metrics}");
}

#[tokio::test]
async fn c13_what_comes_in_many_small_parts_holds_no_more_than_it_says() {
    let bed = Bed::new().await;
    // Anybody may send this: the path is nobody's.
    let mut stream = TcpStream::connect(bed.address).await.unwrap();
    stream.write_all(b"POST /x HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n").await.unwrap();
    let chunk = format!("1;{}\r\na\r\n", "x".repeat(1000));
    for _ in 0..60_000 {
        if stream.write_all(chunk.as_bytes()).await.is_err() {
            break;
        }
    }
    let answer = rest(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("extensions"), "{answer}");
}

#[tokio::test]
async fn what_was_there_of_an_answer_that_breaks_off_arrives_and_does_not_look_whole() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let listening = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.read_u8().await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n").await.unwrap();
        }
    });
    let bed = Bed::before(LiveSet::default(), Arc::default(), address, listening).await;
    bed.proxy.sessions.live().apply(SessionEvent::All(vec![bed.session.clone()]));
    let mut stream = bed.begin("content-length: 0\r\n").await;
    let answer = rest(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("5\r\nhello\r\n"), "{answer}");
    // Nothing but the end of the connection says where this one ends.
    let mut stream = TcpStream::connect(bed.address).await.unwrap();
    let head = format!("POST /mcp HTTP/1.0\r\nauthorization: Bearer {}\r\ncontent-length: 0\r\n\r\n", bed.token());
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    assert_eq!(in_time(stream.read_to_end(&mut answer)).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}
