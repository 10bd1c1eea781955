use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

impl Bed {
    async fn until(&self, name: &str, value: f64) {
        tokio::time::timeout(Duration::from_secs(10), async {
            while self.metric(name) != value {
                tokio::task::yield_now().await;
            }
        })
        .await
        .unwrap_or_else(|_| panic!("{name} does not become {value}, but is {}", self.metric(name)));
    }
}

#[tokio::test]
async fn requests_are_counted_by_outcome() {
    let bed = Bed::new().await;
    let of = |outcome: &str| bed.metric(&format!("requests_total{{outcome=\"{outcome}\"}}"));
    for outcome in [
        "forwarded",
        "preflight",
        "unauthorized",
        "refused",
        "unavailable",
        "bad_gateway",
        "timed_out",
        "shed",
        "broken",
        "client_gone",
    ] {
        assert!(of(outcome) == 0.0, "{outcome}: a series is there before the first request");
    }
    for _ in 0..3 {
        text(bed.call().await).await;
    }
    bed.until("upstream_idle_connections", 1.0).await;
    assert_eq!(bed.metric("upstream_connections"), 1.0);
    bed.send(Request::options("/mcp").body("").unwrap()).await;
    bed.send(Request::post("/mcp").body("{}").unwrap()).await;
    bed.send(Request::post("/mcp").header("authorization", "Bearer forged").body("{}").unwrap()).await;
    bed.send(Request::put("/mcp").body("{}").unwrap()).await;
    bed.send(bed.request("/mcp").header("authorization", "Bearer x").body("").unwrap()).await;
    bed.send(bed.request("/mcp?refuse").body("{}").unwrap()).await;
    // Closed, because the response was not read completely.
    bed.until("upstream_connections", 0.0).await;
    assert_eq!(bed.metric("upstream_idle_connections"), 0.0);
    let counted = [of("forwarded"), of("preflight"), of("unauthorized"), of("refused"), of("bad_gateway")];
    assert_eq!(counted, [3.0, 1.0, 2.0, 2.0, 1.0]);
    // A token is verified once; a malformed one is not cached.
    let lookups =
        ["hit", "miss"].map(|result| bed.metric(&format!("token_cache_lookups_total{{result=\"{result}\"}}")));
    assert_eq!((lookups, bed.metric("token_cache_entries")), ([3.0, 2.0], 1.0));
    // Counts forwarded requests only.
    assert_eq!(bed.metric("response_head_seconds_count"), 3.0);
    assert_eq!(bed.metric("response_head_seconds_bucket{le=\"+Inf\"}"), 3.0);
    assert!(bed.metric("response_head_seconds_sum") > 0.0);
    assert_eq!((bed.metric("sessions"), bed.metric("upstream_connects_total{outcome=\"connected\"}")), (1.0, 1.0));
}

#[tokio::test]
async fn open_streams_and_stream_ends_are_counted() {
    let bed = Bed::new().await;
    let ended = |why: &str| format!("ended_streams_total{{reason=\"{why}\"}}");
    let open = async || {
        let mut events = bed.parts();
        let response = bed.call().await;
        let mut body = response.into_body().into_data_stream();
        events.send(Ok(Frame::data(Bytes::from("data: 1\n\n")))).await.unwrap();
        body.next().await.unwrap().unwrap();
        bed.until("open_streams", 1.0).await;
        (events, body)
    };
    let (events, body) = open().await;
    drop(events);
    assert_eq!(body.count().await, 0);
    bed.until(&ended("finished"), 1.0).await;

    let (_events, body) = open().await;
    drop(body);
    bed.until(&ended("client_gone"), 1.0).await;

    let (_events, body) = open().await;
    bed.apply(SessionEvent::Ended(bed.session.id));
    assert_eq!(body.count().await, 0);
    bed.until(&ended("session_ended"), 1.0).await;
    bed.until("open_streams", 0.0).await;
    // Other responses are not counted as streams.
    bed.apply(SessionEvent::All(vec![bed.session.clone()]));
    text(bed.send(bed.request("/mcp?json").body("{}").unwrap()).await).await;
    let all = ["finished", "client_gone", "session_ended", "upstream_failed"].map(|why| bed.metric(&ended(why)));
    assert_eq!(all, [1.0, 1.0, 1.0, 0.0]);
}

#[tokio::test]
async fn cut_responses_are_counted_by_reason() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (asked, mut asking) = tokio::sync::mpsc::unbounded_channel();
    let end = Arc::new(tokio::sync::Notify::new());
    let ending = end.clone();
    // Does not respond to the first request, and closes within the second response.
    tokio::spawn(async move {
        let mut taken = Vec::new();
        for answer in ["", "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 10\r\n\r\n{"] {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.read_u8().await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
            asked.send(()).unwrap();
            taken.push(stream);
        }
        ending.notified().await;
    });
    let bed = Bed::builder().upstream(address).start().await;
    let mut client = tokio::net::TcpStream::connect(bed.address).await.unwrap();
    let request = format!("GET /mcp HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {}\r\n\r\n", bed.token());
    client.write_all(request.as_bytes()).await.unwrap();
    asking.recv().await.unwrap();
    drop(client);
    bed.until("requests_total{outcome=\"client_gone\"}", 1.0).await;

    let cut = "cut_answers_total{reason=\"upstream_failed\"}";
    assert_eq!(bed.metric(cut), 0.0);
    let half = bed.call().await;
    end.notify_one();
    assert!(half.into_body().collect().await.is_err());
    bed.until(cut, 1.0).await;
    assert_eq!(bed.metric("requests_total{outcome=\"forwarded\"}"), 1.0);
}

#[tokio::test]
async fn failed_upstream_connects_are_counted() {
    let bed = Bed::new().await;
    bed.upstream.stop().await;
    assert_eq!(bed.call().await.status(), StatusCode::BAD_GATEWAY);
    assert_eq!(bed.metric("upstream_connects_total{outcome=\"failed\"}"), 1.0);
    assert_eq!((bed.metric("upstream_connections"), bed.metric("response_head_seconds_count")), (0.0, 0.0));
}
