//! The HTML pages. They work without scripts and forbid framing.

use std::sync::LazyLock;

use askama::Template;
use aws_lc_rs::digest::{SHA256, digest};
use axum::{
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{Html, IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD};

/// base.html includes it without the last newline. The content security policy contains its hash.
const STYLE: &str = include_str!("../../../../templates/style.css").trim_ascii_end();

/// Without `form-action`: Chromium applies it to the redirects after the form, to the issuer and to the client.
static CONTENT_SECURITY_POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let hash = STANDARD.encode(digest(&SHA256, STYLE.as_bytes()));
    let policy = format!("default-src 'none'; style-src 'sha256-{hash}'; base-uri 'none'; frame-ancestors 'none'");
    HeaderValue::try_from(policy).unwrap_or(HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"))
});

#[derive(Template)]
#[template(path = "consent.html")]
pub struct ConsentPage<'a> {
    pub client: &'a str,
    pub client_host: Option<&'a str>,
    pub resource: &'a str,
    pub redirect_host: &'a str,
    pub loopback: bool,
    pub issuer_host: &'a str,
    pub form: &'a str,
    pub binding: &'a str,
}

#[derive(Template)]
#[template(path = "landing.html")]
pub struct LandingPage<'a> {
    pub host: &'a str,
    pub issuer_host: &'a str,
    pub url: &'a str,
    pub name: &'a str,
}

#[derive(Template)]
#[template(path = "message.html")]
pub struct MessagePage<'a> {
    pub title: &'a str,
    pub text: &'a str,
    pub hint: &'a str,
}

pub fn render(status: StatusCode, page: &impl Template) -> Response {
    let Ok(html) = page.render() else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let headers: [(HeaderName, HeaderValue); 5] = [
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY.clone()),
        (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        // With no-referrer, browsers send the consent form with `Origin: null`.
        (header::REFERRER_POLICY, HeaderValue::from_static("same-origin")),
    ];
    (status, headers, Html(html)).into_response()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn consent(client: &str) -> String {
        ConsentPage {
            client,
            client_host: Some("claude.ai"),
            resource: "https://mcp.example.com/mcp",
            redirect_host: "localhost",
            loopback: true,
            issuer_host: "accounts.google.com",
            form: "form",
            binding: "binding",
        }
        .render()
        .unwrap()
    }

    #[test]
    fn a7_consent_page_names_redirect_host_and_warns_about_local_clients() {
        let html = consent("Test");
        assert!(html.contains("<dd>localhost</dd>") && html.contains("<dd>claude.ai</dd>"));
        assert!(html.contains("on your own computer"));
    }

    proptest! {
        #[test]
        fn b3_client_name_is_escaped_in_html(name in ".*") {
            let tags = |html: &str| html.matches('<').count();
            prop_assert_eq!(tags(&consent(&name)), tags(&consent("x")));
        }
    }
}
