use std::sync::Arc;

use axum::{
    extract::{Form, State, rejection::FormRejection},
    http::{HeaderMap, StatusCode, header},
    response::Response,
};
use serde::Deserialize;

use super::{
    client_request::From,
    cookies::{Cookies, MAX_LOGINS},
    respond::{page, page_error, redirect, redirect_error},
    run,
};
use crate::{
    crypto::Keyring,
    oauth::login::{ConsentForm, Login},
    proxy::{
        authorization_server::{Approved, AuthorizationServer},
        observability::metrics::Consent,
    },
};

/// What the consent page's form holds.
#[derive(Deserialize)]
pub struct Submitted {
    form: String,
    binding: String,
    decision: String,
}

/// `POST /consent`: the person has decided. Approved, their browser goes to the issuer with a cookie that only this
/// browser has; nothing is stored.
pub async fn consent(
    State(proxy): State<Arc<AuthorizationServer>>,
    From(from): From,
    headers: HeaderMap,
    submitted: Result<Form<Submitted>, FormRejection>,
) -> Response {
    let refused = |why: &str| {
        proxy.metrics.consents.count(Consent::Refused);
        page(StatusCode::FORBIDDEN, "This cannot be approved", why, "Go back to your MCP client and connect again.")
    };
    if !is_same_origin(&headers, proxy.public_url.as_str()) {
        return refused("The form was sent from another site.");
    }
    let Ok(Form(submitted)) = submitted else {
        return refused("The form is not complete.");
    };
    let keyring = proxy.secrets.load().keyring.clone();
    let cookies = Cookies::read(&headers, &proxy.public_url);
    let request = cookies
        .browser()
        .and_then(|browser| ConsentForm::open(&submitted.form, &submitted.binding, browser, &keyring, proxy.now()));
    let Some(request) = request else {
        return refused("The page was shown in another browser, or too long ago.");
    };
    if submitted.decision != "approve" {
        let error = proxy.deny(&request, from);
        return redirect_error(&request.redirect_uri, request.state.as_deref(), proxy.public_url.as_str(), &error);
    }
    let sealing = keyring.clone();
    match run(&proxy, |server| async move { server.approve(request, &sealing, from).await }).await {
        Ok(approved) => send_to_issuer(&cookies, &keyring, &proxy, &approved),
        Err(error) => page_error(&headers, &error),
    }
}

/// Browsers say where a form comes from; `null` is somewhere else.
fn is_same_origin(headers: &HeaderMap, public_url: &str) -> bool {
    let origin = headers.get(header::ORIGIN).is_none_or(|origin| origin == public_url);
    let site = headers.get("sec-fetch-site").is_none_or(|site| site == "same-origin");
    origin && site
}

fn send_to_issuer(
    cookies: &Cookies<'_>,
    keyring: &Keyring,
    proxy: &AuthorizationServer,
    approved: &Approved,
) -> Response {
    let mut response = redirect(&approved.url);
    let set = cookies.set_login(&approved.state, &approved.cookie);
    // At most three at once, so that headers stay small: the oldest make room.
    let mut others: Vec<(i64, &str)> = cookies
        .logins()
        .map(|(name, value)| (Login::open(value, keyring, proxy.now()).map_or(0, |login| login.expires_at()), name))
        .collect();
    others.sort_unstable();
    let surplus = (others.len() + 1).saturating_sub(MAX_LOGINS);
    let cleared = others.iter().take(surplus).filter_map(|(_, name)| cookies.clear(name));
    for cookie in cleared.chain(set) {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    response
}
