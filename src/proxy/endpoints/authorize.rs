use std::sync::Arc;

use axum::{
    extract::{RawQuery, State},
    http::{HeaderMap, StatusCode, header},
    response::Response,
};
use url::{Url, form_urlencoded};

use super::{
    cookies::Cookies,
    pages::{self, Consent},
    respond::{page_error, redirect_error},
};
use crate::proxy::{
    crypto::random_token,
    oauth::{
        OAuthError,
        authorize::{self, Refusal},
        login::{ConsentForm, Login},
        redirect_uri,
    },
    state::Proxy,
};

/// `GET /authorize`: shows the consent page. It changes nothing, so it may be fetched any number of times, also by
/// clients that look first whether it would work (mcp-remote, with `Accept: application/json`).
pub async fn authorize(State(proxy): State<Arc<Proxy>>, headers: HeaderMap, RawQuery(query): RawQuery) -> Response {
    let query: Vec<(String, String)> =
        form_urlencoded::parse(query.unwrap_or_default().as_bytes()).into_owned().collect();
    let keyring = proxy.secrets.load().keyring.clone();
    let request = match authorize::check(&query, &keyring, &proxy.config.clients.redirects, &proxy.resources) {
        Ok(request) => request,
        Err(Refusal::Page(error)) => return page_error(&headers, &error),
        Err(Refusal::Redirect { redirect_uri, state, error }) => {
            return redirect_error(&redirect_uri, state.as_deref(), proxy.public_url.as_str(), &error);
        }
    };
    if !Login::fits(&request) {
        let error = OAuthError::invalid_request("state and redirect_uri are too long: 500 characters each will do");
        return page_error(&headers, &error);
    }
    let cookies = Cookies::read(&headers, &proxy.public_url);
    let browser = cookies.browser().map(str::to_owned).or_else(random_token);
    let sealed =
        browser.as_ref().and_then(|browser| ConsentForm::new(request.clone(), proxy.now()).seal(&keyring, browser));
    let (Some(browser), Some((form, binding))) = (browser, sealed) else {
        return page_error(&headers, &OAuthError::temporarily_unavailable("this server has no randomness to give"));
    };
    let redirect_host = redirect_uri::host(&request.redirect_uri);
    let issuer_host = host_of(&proxy.config.identity_provider.issuer_url);
    let page = Consent {
        style: pages::STYLE,
        client: &request.client_name,
        resource: &request.resource,
        redirect_host: &redirect_host,
        loopback: Url::parse(&request.redirect_uri).is_ok_and(|url| redirect_uri::is_loopback(&url)),
        issuer_host: &issuer_host,
        form: &form,
        binding: &binding,
    };
    let mut response = pages::render(StatusCode::OK, &page);
    if let Some(cookie) = cookies.set_browser(&browser) {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    response
}

fn host_of(url: &str) -> String {
    Url::parse(url).ok().and_then(|url| url.host_str().map(str::to_owned)).unwrap_or_default()
}
