use std::sync::Arc;

use axum::{
    extract::{RawQuery, State},
    http::{HeaderMap, StatusCode, header},
    response::Response,
};
use url::form_urlencoded;

use super::{
    client_request::From,
    cookies::Cookies,
    respond::{page, page_error, redirect_error, redirect_to_client},
    run,
};
use crate::{
    oauth::{ErrorCode, login::Login},
    proxy::{
        authorization_server::{AuthorizationServer, IssuerResponse, LoginFailure},
        observability::metrics::OAuthOutcome,
    },
};

/// `GET /callback`: the issuer has sent the browser back.
pub async fn callback(
    State(server): State<Arc<AuthorizationServer>>,
    From(from): From,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Response {
    let query: Vec<(String, String)> =
        form_urlencoded::parse(query.unwrap_or_default().as_bytes()).into_owned().collect();
    let get = |name: &str| query.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
    let keyring = server.secrets.load().keyring.clone();
    let cookies = Cookies::read(&headers, &server.public_url);
    let state = get("state").unwrap_or_default();
    let login = cookies
        .login(&state)
        .and_then(|cookie| Login::open(cookie, &keyring, server.now()))
        .filter(|login| login.state == state);
    let Some(login) = login else {
        server.metrics.logins.count(OAuthOutcome(Some(ErrorCode::InvalidRequest)));
        return page(
            StatusCode::FORBIDDEN,
            "This login cannot be finished",
            "It was not begun in this browser, took longer than ten minutes, or its cookie is gone.",
            "Go back to your MCP client and connect again: nothing was lost.",
        );
    };
    let issuer = IssuerResponse {
        code: get("code"),
        error: get("error"),
        error_description: get("error_description"),
        iss: get("iss"),
    };
    let finished = run(&server, |server| server.finish_login(login.clone(), issuer, keyring, from)).await;
    let mut response = respond(finished, &server, &headers, &login);
    if let Some(cookie) = cookies.clear_login(&state) {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    response
}

/// The client's code, or why there is none.
fn respond(
    finished: Result<String, LoginFailure>,
    server: &AuthorizationServer,
    headers: &HeaderMap,
    login: &Login,
) -> Response {
    let (request, issuer) = (&login.request, server.public_url.as_str());
    let (to, state) = (&*request.redirect_uri, request.state.as_deref());
    match finished {
        Ok(code) => redirect_to_client(to, &[("code", &code)], state, issuer),
        Err(LoginFailure::Client(error)) => redirect_error(to, state, issuer, &error),
        Err(LoginFailure::Page(error) | LoginFailure::Denied(_, error)) => page_error(headers, &error),
        Err(LoginFailure::Used) => page(
            StatusCode::CONFLICT,
            "This login has been used",
            "It was finished before, perhaps in another tab.",
            "If your MCP client is not connected, connect again from there.",
        ),
    }
}
