//! The loopback address that the browser comes back to (RFC 8252 §7.3).

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

use askama::Template;
use axum::{
    Router,
    extract::{RawQuery, State},
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{Html, IntoResponse, Response},
    routing::get,
};
use secrecy::SecretString;
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::authorization::{AnswerError, Authorization};
use crate::listener::listen;

/// How long a browser may take to fetch the last page.
const LAST_PAGE: Duration = Duration::from_secs(2);

/// What came of a login, in the browser or pasted.
pub type Answer = Result<SecretString, AnswerError>;

/// The open port, before anything is asked of anybody.
#[derive(Debug)]
pub struct Listener(TcpListener);

/// A listener that waits for the answer to a login.
#[derive(Debug)]
pub struct Waiting {
    answers: mpsc::Receiver<Answer>,
    ending: CancellationToken,
    server: JoinHandle<io::Result<()>>,
}

struct Expected {
    authorization: Arc<Authorization>,
    answers: mpsc::Sender<Answer>,
}

#[derive(Template)]
#[template(path = "message.html")]
struct Page<'a> {
    title: &'a str,
    text: &'a str,
    hint: &'a str,
}

impl Listener {
    /// Opens a port of this machine, or a free one.
    ///
    /// # Errors
    /// When it is taken.
    pub fn open(port: Option<u16>) -> io::Result<Self> {
        listen(SocketAddr::from((Ipv4Addr::LOCALHOST, port.unwrap_or(0)))).map(Self)
    }

    /// The port.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn port(&self) -> io::Result<u16> {
        Ok(self.0.local_addr()?.port())
    }

    /// Serves the page that the browser comes back to.
    ///
    /// # Errors
    /// When the runtime does not take the port.
    pub fn wait(self, authorization: Arc<Authorization>) -> io::Result<Waiting> {
        let (sender, answers) = mpsc::channel(1);
        let router = Router::new()
            .route("/callback", get(callback))
            .fallback(|| async { page(StatusCode::NOT_FOUND, "There is nothing here", "", "") })
            .with_state(Arc::new(Expected { authorization, answers: sender }));
        let ending = CancellationToken::new();
        let ended = ending.clone().cancelled_owned();
        let listener = tokio::net::TcpListener::from_std(self.0)?;
        let server = tokio::spawn(axum::serve(listener, router).with_graceful_shutdown(ended).into_future());
        Ok(Waiting { answers, ending, server })
    }
}

impl Waiting {
    /// The answer to this login.
    pub async fn answer(&mut self) -> Answer {
        match self.answers.recv().await {
            Some(answer) => answer,
            // The server lives as long as this.
            None => std::future::pending().await,
        }
    }

    /// Closes the port once the browser has its page.
    pub async fn close(mut self) {
        self.ending.cancel();
        let _ = tokio::time::timeout(LAST_PAGE, &mut self.server).await;
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn callback(State(expected): State<Arc<Expected>>, RawQuery(query): RawQuery) -> Response {
    let close = "You can close this window.";
    let answer = expected.authorization.code(&query.unwrap_or_default());
    let response = match &answer {
        Ok(_) => page(StatusCode::OK, "You are logged in", "Go on in your terminal or program.", close),
        // Any page that a browser shows can call this address. The right answer may still come.
        Err(error @ AnswerError::Foreign) => {
            let hint = "Open the newest address that mcp-oauth-operator login has printed.";
            return page(StatusCode::BAD_REQUEST, "This link is not right", &sentence(error), hint);
        }
        Err(error) => page(StatusCode::BAD_REQUEST, "You are not logged in", &sentence(error), close),
    };
    // One answer is enough: when another is waiting, this one changes nothing.
    let _ = expected.answers.try_send(answer);
    response
}

fn sentence(error: &AnswerError) -> String {
    let text = error.to_string();
    let mut letters = text.chars();
    letters.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(letters).chain(['.']).collect()
}

/// No script, no frame, nothing kept, and the address with the code is told to nobody.
fn page(status: StatusCode, title: &str, text: &str, hint: &str) -> Response {
    let Ok(html) = (Page { title, text, hint }).render() else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let policy = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'";
    let headers: [(HeaderName, HeaderValue); 4] = [
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy)),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    ];
    (status, headers, Html(html)).into_response()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::Request;
    use http_body_util::{BodyExt, Full};
    use hyper_util::{client::legacy::Client, rt::TokioExecutor};
    use secrecy::ExposeSecret;

    use super::{super::authorization::tests::authorization, *};

    async fn visit(port: u16, path: &str) -> (u16, String) {
        let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
        let request = Request::get(format!("http://127.0.0.1:{port}{path}")).body(Full::default()).unwrap();
        let (head, body) = client.request(request).await.unwrap().into_parts();
        (head.status.as_u16(), String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap())
    }

    #[tokio::test]
    async fn callback_with_wrong_state_or_path_is_ignored() {
        let listener = Listener::open(None).unwrap();
        let port = listener.port().unwrap();
        let mut waiting = listener.wait(Arc::new(authorization(port))).unwrap();
        let iss = "iss=https%3A%2F%2Fas.example.com";
        for (path, status) in [
            (format!("/callback?code=evil&state=other&{iss}"), 400),
            (format!("/callback?error=access_denied&{iss}"), 400),
            (format!("/favicon.ico?code=evil&state=the-state&{iss}"), 404),
        ] {
            assert_eq!(visit(port, &path).await.0, status, "{path}");
        }
        let (status, html) = visit(port, &format!("/callback?code=good&state=the-state&{iss}")).await;
        assert!(status == 200 && html.contains("close this window"), "{html}");
        assert_eq!(waiting.answer().await.unwrap().expose_secret(), "good");
        waiting.close().await;
        assert!(tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err());
    }

    #[tokio::test]
    async fn error_callback_ends_the_wait_and_is_escaped() {
        let listener = Listener::open(None).unwrap();
        let port = listener.port().unwrap();
        let mut waiting = listener.wait(Arc::new(authorization(port))).unwrap();
        let query =
            "error=access_denied&error_description=%3Cscript%3E&state=the-state&iss=https%3A%2F%2Fas.example.com";
        let (status, html) = visit(port, &format!("/callback?{query}")).await;
        assert!(status == 400 && html.contains("access_denied") && !html.contains("<script>"), "{html}");
        assert!(matches!(waiting.answer().await, Err(AnswerError::Refused(_))));
    }
}
