use std::sync::Arc;

use axum::{
    extract::{RawQuery, State},
    http::{HeaderMap, StatusCode, header},
    response::Response,
};
use url::Url;

use super::{
    cookies::Cookies,
    pages::{self, ConsentPage},
    respond::{page_error, redirect_error},
};
use crate::{
    api::is_loopback,
    oauth::{authorize::AuthorizationError, client_registry::ResolvedClient, parameters::Parameters, redirect_uri},
    proxy::authorization_server::AuthorizationServer,
};

/// `GET /authorize`: shows the consent page. It has no side effects: mcp-remote first sends the request with
/// `Accept: application/json` to test its registration.
pub async fn authorize(
    State(server): State<Arc<AuthorizationServer>>,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Response {
    let cookies = Cookies::read(&headers, &server.public_url);
    let query = Parameters::parse(query.unwrap_or_default().as_bytes());
    let prompt = match server.authorize(&query, cookies.browser()).await {
        Ok(prompt) => prompt,
        Err(AuthorizationError::Page(error)) => return page_error(&headers, &error),
        Err(AuthorizationError::Redirect { redirect_uri, state, error }) => {
            return redirect_error(&redirect_uri, state.as_deref(), server.public_url.as_str(), &error);
        }
    };
    let request = &prompt.request;
    let page = ConsentPage {
        client: &request.client_name,
        resource: &request.resource,
        client_host: match &prompt.client {
            ResolvedClient::Document { host, .. } => Some(host),
            ResolvedClient::Registered(_) | ResolvedClient::Static(_) => None,
        },
        redirect_host: &redirect_uri::host(&request.redirect_uri),
        loopback: Url::parse(&request.redirect_uri).is_ok_and(|url| is_loopback(&url)),
        issuer_host: &host_of(&server.config.identity_provider.issuer_url),
        form: &prompt.form,
        binding: &prompt.binding,
    };
    let mut response = pages::render(StatusCode::OK, &page);
    if let Some(cookie) = cookies.set_browser(&prompt.browser) {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    response
}

/// The host of a URL for display.
pub(super) fn host_of(url: &str) -> String {
    Url::parse(url).ok().and_then(|url| url.host_str().map(str::to_owned)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::digest::{SHA256, digest};
    use base64::{Engine, engine::general_purpose::STANDARD};
    use serde_json::json;
    use tower::ServiceExt;

    use super::super::router;
    use super::*;
    use crate::testing::authorization_server::{Bed, REFRESHES, text};

    fn cookies(response: &Response) -> Vec<String> {
        let set = response.headers().get_all(header::SET_COOKIE).iter();
        set.map(|cookie| cookie.to_str().unwrap().to_owned()).collect()
    }

    #[tokio::test]
    async fn a4_authorize_sets_only_the_browser_cookie_and_keeps_it() {
        let bed = Bed::new(&REFRESHES).await;
        let first = bed.get(&bed.authorize(&[]), &[]).await;
        let set = cookies(&first);
        assert!(set.len() == 1 && set[0].starts_with("__Host-mcp-browser="), "{set:?}");
        assert!(set[0].ends_with("; Path=/; HttpOnly; SameSite=Lax; Secure"), "{set:?}");
        let cookie = set[0].split(';').next().unwrap();
        let again = bed.get(&bed.authorize(&[]), &[("cookie", cookie)]).await;
        assert_eq!(cookies(&again)[0].split(';').next(), Some(cookie));
    }

    #[tokio::test]
    async fn a5_consent_page_forbids_framing_and_caching_but_not_the_redirect() {
        let bed = Bed::new(&REFRESHES).await;
        let page = bed.get(&bed.authorize(&[]), &[]).await;
        let header = |name: &str| page.headers()[name].to_str().unwrap();
        let policy = header("content-security-policy");
        assert!(policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"), "{policy}");
        assert!(!policy.contains("form-action"), "{policy}");
        assert_eq!((header("x-frame-options"), header("cache-control")), ("DENY", "no-store"));
        assert_eq!(header("referrer-policy"), "same-origin");
        let policy = policy.to_owned();
        let html = text(page).await;
        let style = html.split_once("<style>").and_then(|(_, rest)| rest.split_once("</style>")).unwrap().0;
        assert!(policy.contains(&STANDARD.encode(digest(&SHA256, style.as_bytes()))), "the style is blocked: {policy}");
        assert!(html.contains("Continue to accounts.google.com") && html.contains("<dd>localhost</dd>"), "{html}");
    }

    #[tokio::test]
    async fn a8_unknown_client_gets_an_error_page_and_no_redirect() {
        let bed = Bed::new(&REFRESHES).await;
        let unknown = bed.authorize(&[("client_id", Some("unknown"))]);
        let page = bed.get(&unknown, &[("accept", "text/html")]).await;
        assert_eq!((page.status(), page.headers().get("location")), (StatusCode::UNAUTHORIZED, None));
        // As mcp-remote tests its registration.
        let preflight = bed.get(&unknown, &[("accept", "application/json")]).await;
        assert_eq!(preflight.status(), StatusCode::UNAUTHORIZED);
        assert!(text(preflight).await.starts_with("{\"error\":\"invalid_client\""));
        let elsewhere = bed.authorize(&[("redirect_uri", Some("http://localhost:1/other"))]);
        let page = bed.get(&elsewhere, &[]).await;
        assert_eq!((page.status(), page.headers().get("location")), (StatusCode::BAD_REQUEST, None));
    }

    #[tokio::test]
    async fn a1_a3_consent_is_always_required() {
        let bed = Bed::new(&REFRESHES).await;
        let first = bed.get(&bed.authorize(&[]), &[]).await;
        let browser = cookies(&first)[0].split(';').next().unwrap().to_owned();
        let another = bed.register_another();
        let of_another =
            bed.authorize(&[("client_id", Some(&another)), ("redirect_uri", Some("http://localhost:1/x"))]);
        for site in [None, Some("none"), Some("same-origin"), Some("same-site"), Some("cross-site")] {
            for address in [&bed.authorize(&[]), &of_another, &bed.authorize(&[("prompt", Some("none"))])] {
                let mut headers = vec![("cookie", browser.as_str())];
                headers.extend(site.map(|site| ("sec-fetch-site", site)));
                let page = bed.get(address, &headers).await;
                assert_eq!((page.status(), page.headers().get("location")), (StatusCode::OK, None), "{address}");
                assert!(text(page).await.contains("name=\"decision\""));
            }
        }
    }

    #[tokio::test]
    async fn b2_client_supplied_urls_are_neither_shown_nor_fetched() {
        let bed = Bed::new(&REFRESHES).await;
        let body = json!({
            "redirect_uris": ["http://localhost/x"], "logo_uri": "http://169.254.169.254/logo", "token_endpoint_auth_method": "none",
            "client_uri": "http://169.254.169.254/client", "jwks_uri": "http://169.254.169.254/jwks", "tos_uri": "javascript:x",
        });
        let request = axum::http::Request::post("/register").body(axum::body::Body::from(body.to_string())).unwrap();
        let response = router(bed.server.clone()).oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::CREATED);
        let registered = text(response).await;
        let id =
            serde_json::from_str::<serde_json::Value>(&registered).unwrap()["client_id"].as_str().unwrap().to_owned();
        let path = bed.authorize(&[("client_id", Some(&id)), ("redirect_uri", Some("http://localhost:1/x"))]);
        let page = bed.get(&path, &[]).await;
        assert_eq!(page.status(), StatusCode::OK);
        let html = text(page).await;
        for text in [registered, html] {
            assert!(!text.contains("169.254") && !text.contains("javascript:") && !text.contains("<img"), "{text}");
        }
    }

    #[tokio::test]
    async fn b8_registration_cannot_be_read_or_changed() {
        let bed = Bed::new(&REFRESHES).await;
        for (method, path, status) in [
            ("GET", "/register".to_owned(), 405),
            ("PUT", "/register".to_owned(), 405),
            ("DELETE", "/register".to_owned(), 405),
            ("GET", format!("/register/{}", bed.client_id), 404),
            ("PUT", format!("/register/{}", bed.client_id), 404),
            ("DELETE", format!("/register/{}", bed.client_id), 404),
        ] {
            let request = axum::http::Request::builder().method(method).uri(&path);
            let request = request.body(axum::body::Body::empty()).unwrap();
            let response = router(bed.server.clone()).oneshot(request).await.unwrap();
            assert_eq!(response.status().as_u16(), status, "{method} {path}");
        }
    }

    #[tokio::test]
    async fn b1_metadata_documents_of_unknown_hosts_are_not_fetched() {
        let bed = Bed::new(&REFRESHES).await;
        for id in ["https://evil.example/client", "https://169.254.169.254/latest", "http://claude.ai/client"] {
            let page = bed.get(&bed.authorize(&[("client_id", Some(id))]), &[("accept", "application/json")]).await;
            assert_eq!((page.status(), page.headers().get("location")), (StatusCode::UNAUTHORIZED, None), "{id}");
        }
    }

    #[tokio::test]
    async fn a9_error_redirect_contains_iss_and_state() {
        let bed = Bed::new(&REFRESHES).await;
        let response = bed.get(&bed.authorize(&[("code_challenge_method", Some("plain"))]), &[]).await;
        assert_eq!(response.status(), StatusCode::SEE_OTHER);
        let location = Url::parse(response.headers()["location"].to_str().unwrap()).unwrap();
        let parameter = |name: &str| location.query_pairs().find(|(known, _)| known == name).unwrap().1.into_owned();
        assert_eq!((location.host_str(), location.port()), (Some("localhost"), Some(1234)));
        assert_eq!(parameter("error"), "invalid_request");
        assert_eq!((parameter("iss").as_str(), parameter("state").as_str()), ("https://mcp.example.com", "the-state"));
    }

    #[tokio::test]
    async fn a18_request_headers_do_not_change_metadata() {
        let bed = Bed::new(&REFRESHES).await;
        for path in [
            "/.well-known/oauth-authorization-server",
            "/.well-known/openid-configuration",
            "/.well-known/oauth-protected-resource",
            "/.well-known/oauth-protected-resource/mcp",
        ] {
            let plain = text(bed.get(path, &[]).await).await;
            let evil =
                [("host", "evil.example"), ("x-forwarded-host", "evil.example"), ("forwarded", "host=evil.example")];
            assert_eq!(text(bed.get(path, &evil).await).await, plain);
            assert!(plain.contains("https://mcp.example.com"));
        }
    }

    #[tokio::test]
    async fn oversized_authorization_request_is_rejected_with_a_message() {
        let bed = Bed::new(&REFRESHES).await;
        let long = "x".repeat(3000);
        let page = bed.get(&bed.authorize(&[("state", Some(&long))]), &[]).await;
        assert_eq!(page.status(), StatusCode::BAD_REQUEST);
        assert!(text(page).await.contains("too long"));
    }

    #[tokio::test]
    async fn a2_callback_needs_the_consenting_browsers_cookie() {
        let bed = Bed::new(&REFRESHES).await;
        for headers in [&[][..], &[("cookie", "__Host-mcp-login-0123456789abcdef=forged")][..]] {
            let page = bed.get("/callback?code=stolen&state=somebody-elses", headers).await;
            assert_eq!(page.status(), StatusCode::FORBIDDEN);
            assert!(text(page).await.contains("connect again"));
        }
    }
}
