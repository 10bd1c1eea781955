//! The server of the loopback redirect URI (RFC 8252 §7.3).

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
    http::{StatusCode, header},
    response::{Html, IntoResponse, Response},
    routing::get,
};
use secrecy::SecretString;
use tokio::{sync::mpsc, time::timeout};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::authorization::{Authorization, AuthorizationError};
use crate::listener::listen;

/// Deadline for sending the last page to the browser.
const SHUTDOWN: Duration = Duration::from_secs(2);

pub type AuthorizationResult = Result<SecretString, AuthorizationError>;

#[derive(Debug)]
pub struct CallbackServer {
    pub results: mpsc::Receiver<AuthorizationResult>,
    shutdown: CancellationToken,
    task: AbortOnDropHandle<io::Result<()>>,
}

struct Pending {
    authorization: Arc<Authorization>,
    results: mpsc::Sender<AuthorizationResult>,
}

#[derive(Template)]
#[template(path = "message.html")]
struct Page<'a> {
    title: &'a str,
    text: &'a str,
    hint: &'a str,
}

/// Opens the given or a free port and returns its number.
pub fn bind(port: Option<u16>) -> io::Result<(TcpListener, u16)> {
    let listener = listen(SocketAddr::from((Ipv4Addr::LOCALHOST, port.unwrap_or(0))))?;
    let port = listener.local_addr()?.port();
    Ok((listener, port))
}

impl CallbackServer {
    pub fn start(listener: TcpListener, authorization: Arc<Authorization>) -> io::Result<Self> {
        let (sender, results) = mpsc::channel(1);
        let router = Router::new()
            .route("/callback", get(callback))
            .fallback(|| async { page(StatusCode::NOT_FOUND, "Not found", "", "") })
            .with_state(Arc::new(Pending { authorization, results: sender }));
        let shutdown = CancellationToken::new();
        let serve = axum::serve(tokio::net::TcpListener::from_std(listener)?, router)
            .with_graceful_shutdown(shutdown.clone().cancelled_owned());
        Ok(Self { results, shutdown, task: AbortOnDropHandle::new(tokio::spawn(serve.into_future())) })
    }

    /// Sends the last page, then closes the port.
    pub async fn close(self) {
        self.shutdown.cancel();
        let _ = timeout(SHUTDOWN, self.task).await;
    }
}

async fn callback(State(pending): State<Arc<Pending>>, RawQuery(query): RawQuery) -> Response {
    let close = "You can close this window.";
    let result = pending.authorization.code(&query.unwrap_or_default());
    let response = match &result {
        Ok(_) => page(StatusCode::OK, "You are logged in", "Continue in your terminal or program.", close),
        // Any web page can request this URL, so the right response may still arrive.
        Err(error @ AuthorizationError::WrongState) => {
            let hint = "Open the last URL that mcp-oauth-operator login printed.";
            return page(StatusCode::BAD_REQUEST, "Invalid request", &sentence(error), hint);
        }
        Err(error) => page(StatusCode::BAD_REQUEST, "Login failed", &sentence(error), close),
    };
    // Only the first result counts; the channel holds one.
    let _ = pending.results.try_send(result);
    response
}

fn sentence(error: &AuthorizationError) -> String {
    let mut text = format!("{error}.");
    if let Some(first) = text.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    text
}

/// The headers forbid scripts, frames and caching, and hide the URL with the code from other sites.
fn page(status: StatusCode, title: &str, text: &str, hint: &str) -> Response {
    let Ok(html) = (Page { title, text, hint }).render() else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let policy = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'";
    let headers = [
        (header::CONTENT_SECURITY_POLICY, policy),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CACHE_CONTROL, "no-store"),
        (header::REFERRER_POLICY, "no-referrer"),
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
        let (listener, port) = bind(None).unwrap();
        let mut server = CallbackServer::start(listener, Arc::new(authorization(port))).unwrap();
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
        assert_eq!(server.results.recv().await.unwrap().unwrap().expose_secret(), "good");
        server.close().await;
        assert!(tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err());
    }

    #[tokio::test]
    async fn error_callback_ends_the_wait_and_is_escaped() {
        let (listener, port) = bind(None).unwrap();
        let mut server = CallbackServer::start(listener, Arc::new(authorization(port))).unwrap();
        let query =
            "error=access_denied&error_description=%3Cscript%3E&state=the-state&iss=https%3A%2F%2Fas.example.com";
        let (status, html) = visit(port, &format!("/callback?{query}")).await;
        assert!(status == 400 && html.contains("access_denied") && !html.contains("<script>"), "{html}");
        assert!(matches!(server.results.recv().await, Some(Err(AuthorizationError::Refused(_)))));
    }
}
