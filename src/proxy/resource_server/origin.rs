use http::{HeaderMap, header::ORIGIN};
use url::Url;

use crate::{
    api::{PublicUrl, is_loopback, proxy::Clients},
    oauth::redirect_uri,
};

/// The web origins that may call an MCP endpoint: the proxy's own, known clients, loopback, and `clients.origins`. MCP requires
/// the check against DNS rebinding (MCP transports). Programs other than browsers send no `Origin`.
#[derive(Debug)]
pub struct Origins {
    own: String,
    clients: Clients,
}

impl Origins {
    pub fn new(public_url: &PublicUrl, clients: &Clients) -> Self {
        Self { own: public_url.to_string(), clients: clients.clone() }
    }

    /// Whether the request has no `Origin`, or exactly one that is allowed. It is compared as text, since browsers serialize an
    /// origin in one way (RFC 6454 §6.2).
    pub fn allow(&self, headers: &HeaderMap) -> bool {
        let mut origins = headers.get_all(ORIGIN).iter();
        let Some(origin) = origins.next() else { return true };
        let Ok(origin) = origin.to_str() else { return false };
        let https_host = origin.strip_prefix("https://");
        origins.next().is_none()
            && (origin == self.own
                || https_host.is_some_and(|host| redirect_uri::is_known_host(host, &self.clients.redirects))
                || is_local(origin)
                || self.clients.origins.iter().any(|listed| *listed == *origin))
    }
}

/// Clients such as the Inspector serve their pages on the user's machine.
fn is_local(origin: &str) -> bool {
    Url::parse(origin).is_ok_and(|url| {
        matches!(url.scheme(), "http" | "https") && is_loopback(&url) && url.origin().ascii_serialization() == origin
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(values: &[&str]) -> bool {
        let clients = serde_json::from_value(serde_json::json!({
            "redirects": {"hosts": ["chat.example.com"]},
            "origins": ["https://tools.example.com:8443", "chrome-extension://abcdefghijklmnop"],
        }))
        .unwrap();
        let origins = Origins::new(&"https://mcp.example.com".parse().unwrap(), &clients);
        origins.allow(&values.iter().map(|value| (ORIGIN, value.parse().unwrap())).fold(
            HeaderMap::new(),
            |mut headers, (name, value)| {
                headers.append(name, value);
                headers
            },
        ))
    }

    #[test]
    fn c12_own_known_and_listed_origins_are_allowed() {
        assert!(allows(&[]));
        for origin in [
            "https://mcp.example.com",
            "https://claude.ai",
            "https://vscode.dev",
            "https://chat.example.com",
            "https://tools.example.com:8443",
            "chrome-extension://abcdefghijklmnop",
            "http://localhost:6274",
            "http://127.0.0.1:6274",
            "http://[::1]:6274",
            "https://localhost",
        ] {
            assert!(allows(&[origin]), "{origin}");
        }
    }

    #[test]
    fn c12_every_other_origin_is_rejected() {
        for origin in [
            "https://evil.example.com",
            "http://mcp.example.com",
            "https://mcp.example.com:8443",
            "https://mcp.example.com/",
            "https://mcp.example.com.evil.example.com",
            "https://MCP.example.com",
            "https://evil.example.com#https://mcp.example.com",
            "https://user@mcp.example.com",
            "http://claude.ai",
            "https://claude.ai:8443",
            "https://tools.example.com",
            "http://localhost.evil.example.com",
            "http://localhost:6274.evil.example.com",
            "http://localhost:",
            "http://127.0.0.1.evil.example.com",
            "http://127.0.0.1@evil.example.com",
            "null",
            "",
            "https://mcp.example.com, https://evil.example.com",
        ] {
            assert!(!allows(&[origin]), "{origin}");
        }
        assert!(!allows(&["https://mcp.example.com", "https://mcp.example.com"]));
    }
}
