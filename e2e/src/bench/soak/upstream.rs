//! An upstream with short, large, delayed and streamed responses.

use std::{convert::Infallible, time::Duration};

use anyhow::Result;
use axum::{
    Router,
    body::{Body, Bytes, to_bytes},
    extract::Request,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use futures::{StreamExt, stream};
use tokio::{
    net::TcpListener,
    time::{interval, sleep},
};

/// The size of the large response in bytes.
pub const LARGE_RESPONSE: usize = 4 * 1024 * 1024;

/// The largest request body in bytes.
const MAX_REQUEST_BODY: usize = 1024 * 1024;

/// Starts the upstream and returns its port.
pub async fn start() -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(respond)).await });
    Ok(port)
}

async fn respond(request: Request) -> Response {
    let query = request.uri().query().unwrap_or_default().to_owned();
    let Ok(body) = to_bytes(request.into_body(), MAX_REQUEST_BODY).await else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    match query.as_str() {
        "stream" => {
            let events = stream::unfold(interval(Duration::from_secs(1)), |mut interval| async {
                interval.tick().await;
                Some((Ok::<_, Infallible>(Bytes::from_static(b"data: tick\n\n")), interval))
            });
            ([(CONTENT_TYPE, "text/event-stream")], Body::from_stream(events)).into_response()
        }
        "large" => {
            let chunk = Bytes::from(vec![b'x'; 64 * 1024]);
            let chunks = stream::repeat(chunk).take(LARGE_RESPONSE / (64 * 1024)).map(Ok::<_, Infallible>);
            ([(CONTENT_TYPE, "application/json")], Body::from_stream(chunks)).into_response()
        }
        "late" => {
            sleep(Duration::from_millis(500)).await;
            body.len().to_string().into_response()
        }
        _ => ([(CONTENT_TYPE, "application/json")], body.len().to_string()).into_response(),
    }
}
