use std::sync::Arc;

use axum::{extract::State, http::StatusCode, response::Response};

use super::{
    authorize::host_of,
    pages::{self, LandingPage},
};
use crate::proxy::authorization_server::AuthorizationServer;

/// `GET /`: how to connect a client.
pub async fn landing(State(server): State<Arc<AuthorizationServer>>) -> Response {
    let host = host_of(server.public_url.as_str());
    let page = LandingPage {
        host: &host,
        issuer_host: &host_of(&server.config.identity_provider.issuer_url),
        url: &server.resources.audience(server.resources.default_path()),
        name: server_name(&host),
    };
    pages::render(StatusCode::OK, &page)
}

/// A name for the server in a client's configuration: the first label of a domain.
fn server_name(host: &str) -> &str {
    match host.split_once('.') {
        Some((first, _)) if first.starts_with(|c: char| c.is_ascii_alphabetic()) => first,
        _ => "mcp",
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::authorization_server::{Bed, text};

    #[test]
    fn server_name_is_the_first_domain_label() {
        assert_eq!(
            ["gateway.example.com", "127.0.0.1", "localhost"].map(super::server_name),
            ["gateway", "mcp", "mcp"]
        );
    }

    #[tokio::test]
    async fn landing_page_shows_the_client_command() {
        let bed = Bed::new(&["authorization_code"]).await;
        let response = bed.get("/", &[]).await;
        assert_eq!(response.headers()["x-frame-options"], "DENY");
        let html = text(response).await;
        assert!(html.contains("claude mcp add --transport http mcp https://mcp.example.com/mcp"), "{html}");
        assert!(html.contains("accounts.google.com"));
    }
}
