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

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use bytes::Bytes;
    use http::Request;
    use sqlx::{Connection, SqliteConnection};
    use url::Url;

    use super::*;
    use crate::{
        dev::issuer,
        http_client::{HttpClient, Schemes, Settings, all_addresses},
        oauth::parameters::Parameters,
        testing::authorization_server::{Bed, REFRESHES, text},
    };

    /// A bed whose issuer runs, and the issuer's URL.
    async fn bed() -> (Bed, String) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let redirect_uri = "https://mcp.example.com/callback".to_owned();
        let issuer = issuer::Issuer::new(url.clone(), redirect_uri, "ada@example.com".to_owned()).unwrap();
        tokio::spawn(issuer::serve(listener, issuer));
        let bed = Bed::with(&REFRESHES, |config| config.identity_provider.issuer_url = url.parse().unwrap());
        (bed.await, url)
    }

    /// Approves a login, logs in at the issuer and returns the response of the callback.
    async fn log_in(bed: &Bed, issuer: &str) -> Response {
        let path = bed.authorize(&[]);
        let query = Parameters::parse(path.split_once('?').unwrap().1.as_bytes());
        let prompt = bed.server.authorize(&query, None).await.unwrap();
        let approved = bed.server.approve(prompt.request, None).await.unwrap();
        let query = approved.url.split_once('?').unwrap().1;
        let form = Request::post(format!("{issuer}/login"))
            .header("content-type", "application/x-www-form-urlencoded")
            .body(Bytes::from(format!("{query}&email=ada%40example.com")))
            .unwrap();
        let timeout = std::time::Duration::from_secs(30);
        let addresses = all_addresses;
        let settings = Settings { schemes: Schemes::Http, timeout, max_body: 1024, addresses, pooled: false };
        let redirect = HttpClient::new(settings).unwrap().send(form).await.unwrap();
        let callback = Url::parse(redirect.headers()["location"].to_str().unwrap()).unwrap();
        let no_headers = HeaderMap::new();
        let cookies = Cookies::read(&no_headers, &bed.server.public_url);
        let cookie = cookies.set_login(&approved.state, &approved.cookie).unwrap();
        let cookie = cookie.to_str().unwrap().split(';').next().unwrap();
        bed.get(&format!("/callback?{}", callback.query().unwrap()), &[("cookie", cookie)]).await
    }

    #[tokio::test]
    async fn login_with_session_store_down_is_503_and_works_once_it_is_back() {
        let (bed, issuer) = bed().await;
        let database = format!("sqlite://{}", bed.directory().join("sessions.db").display());
        let mut database = SqliteConnection::connect(&database).await.unwrap();
        sqlx::query("ALTER TABLE sessions RENAME TO hidden").execute(&mut database).await.unwrap();
        let response = log_in(&bed, &issuer).await;
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(response.headers().contains_key(header::RETRY_AFTER));
        let page = text(response).await;
        for part in ["The login could not be stored.", "Wait a moment, then connect again from your MCP client."] {
            assert!(page.contains(part), "{page}");
        }
        sqlx::query("ALTER TABLE hidden RENAME TO sessions").execute(&mut database).await.unwrap();
        let response = log_in(&bed, &issuer).await;
        assert_eq!(response.status(), StatusCode::SEE_OTHER);
        let location = response.headers()[header::LOCATION].to_str().unwrap();
        assert!(location.starts_with("http://localhost:1234/callback?code="), "{location}");
    }
}
