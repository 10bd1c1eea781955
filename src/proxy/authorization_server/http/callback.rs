use std::sync::Arc;

use axum::{
    extract::{RawQuery, State},
    http::{HeaderMap, StatusCode, header},
    response::Response,
};
use url::form_urlencoded;

use super::{
    client_request::ClientIp,
    cookies::Cookies,
    respond::{page, page_error, redirect_error, redirect_to_client},
};
use crate::{
    oauth::{ErrorCode, login::Login},
    proxy::{
        authorization_server::{AuthorizationServer, IssuerResponse, LoginFailure},
        observability::metrics::OAuthOutcome,
    },
};

/// `GET /callback`: the redirect from the issuer.
pub async fn callback(
    State(server): State<Arc<AuthorizationServer>>,
    ClientIp(client_ip): ClientIp,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Response {
    let query = query.unwrap_or_default();
    let get = |name: &str| {
        let mut pairs = form_urlencoded::parse(query.as_bytes());
        pairs.find(|(known, _)| known == name).map(|(_, value)| value.into_owned())
    };
    let cookies = Cookies::read(&headers, &server.public_url);
    let state = get("state").unwrap_or_default();
    let login = cookies
        .login(&state)
        .and_then(|cookie| Login::open(cookie, &server.secrets.load().keyring, server.now()))
        .filter(|login| login.state == state);
    let Some(login) = login else {
        server.metrics.logins.count(OAuthOutcome(Some(ErrorCode::InvalidRequest)));
        return page(
            StatusCode::FORBIDDEN,
            "This login cannot be completed",
            "It was started in another browser, took longer than ten minutes, or its cookie is missing.",
            "Go back to your MCP client and connect again.",
        );
    };
    let request = login.request.clone();
    let response = IssuerResponse {
        code: get("code"),
        error: get("error"),
        error_description: get("error_description"),
        iss: get("iss"),
    };
    let result = server.run(|server| server.finish_login(login, response, client_ip)).await;
    let (to, client_state, issuer) = (&*request.redirect_uri, request.state.as_deref(), server.public_url.as_str());
    let mut response = match result {
        Ok(code) => redirect_to_client(to, &[("code", &code)], client_state, issuer),
        Err(LoginFailure::Client(error)) => redirect_error(to, client_state, issuer, &error),
        Err(LoginFailure::Page(error) | LoginFailure::Denied(_, error)) => page_error(&headers, &error),
        Err(LoginFailure::Used) => page(
            StatusCode::CONFLICT,
            "This login has been used",
            "It was completed before, perhaps in another tab.",
            "If your MCP client is not connected, connect again from there.",
        ),
    };
    if let Some(cookie) = cookies.clear_login(&state) {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    response
}
