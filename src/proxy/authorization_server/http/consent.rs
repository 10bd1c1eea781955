use std::sync::Arc;

use axum::{
    extract::{Form, State, rejection::FormRejection},
    http::{HeaderMap, StatusCode, header},
    response::Response,
};
use serde::Deserialize;

use super::{
    client_request::ClientIp,
    cookies::{Cookies, MAX_LOGINS},
    respond::{page, page_error, redirect, redirect_error},
};
use crate::{
    crypto::Keyring,
    oauth::login::{ConsentForm, Login},
    proxy::{
        authorization_server::{ApprovedLogin, AuthorizationServer},
        observability::metrics::ConsentOutcome,
    },
};

#[derive(Deserialize)]
pub struct Submission {
    form: String,
    binding: String,
    decision: String,
}

/// `POST /consent`: the user's decision. Approval sets the login cookie and redirects to the issuer.
pub async fn consent(
    State(server): State<Arc<AuthorizationServer>>,
    ClientIp(client_ip): ClientIp,
    headers: HeaderMap,
    submission: Result<Form<Submission>, FormRejection>,
) -> Response {
    let refused = |why: &str| {
        server.metrics.consents.count(ConsentOutcome::Refused);
        page(StatusCode::FORBIDDEN, "The approval was rejected", why, "Go back to your MCP client and connect again.")
    };
    if !is_same_origin(&headers, server.public_url.as_str()) {
        return refused("The form was sent from another site.");
    }
    let Ok(Form(Submission { form, binding, decision })) = submission else {
        return refused("The form is incomplete.");
    };
    let keyring = server.secrets.load().keyring.clone();
    let cookies = Cookies::read(&headers, &server.public_url);
    let request =
        cookies.browser().and_then(|browser| ConsentForm::open(&form, &binding, browser, &keyring, server.now()));
    let Some(request) = request else {
        return refused("The consent page was opened in another browser or has expired.");
    };
    if decision != "approve" {
        let error = server.deny(&request, client_ip);
        return redirect_error(&request.redirect_uri, request.state.as_deref(), server.public_url.as_str(), &error);
    }
    match server.run(|server| async move { server.approve(request, client_ip).await }).await {
        Ok(approved) => redirect_to_issuer(&cookies, &keyring, &server, &approved),
        Err(error) => page_error(&headers, &error),
    }
}

/// Both headers are optional. `Origin: null` is another origin.
fn is_same_origin(headers: &HeaderMap, public_url: &str) -> bool {
    let origin = headers.get(header::ORIGIN).is_none_or(|origin| origin == public_url);
    let site = headers.get("sec-fetch-site").is_none_or(|site| site == "same-origin");
    origin && site
}

fn redirect_to_issuer(
    cookies: &Cookies<'_>,
    keyring: &Keyring,
    server: &AuthorizationServer,
    approved: &ApprovedLogin,
) -> Response {
    let mut response = redirect(&approved.url);
    let set = cookies.set_login(&approved.state, &approved.cookie);
    // The oldest logins beyond MAX_LOGINS are cleared.
    let mut others: Vec<(i64, &str)> = cookies
        .logins()
        .map(|(name, value)| (Login::open(value, keyring, server.now()).map_or(0, |login| login.expires_at), name))
        .collect();
    others.sort_unstable();
    let surplus = (others.len() + 1).saturating_sub(MAX_LOGINS);
    let cleared = others.iter().take(surplus).filter_map(|(_, name)| cookies.clear(name));
    for cookie in cleared.chain(set) {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    response
}
