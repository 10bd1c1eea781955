use http::{HeaderMap, header::ORIGIN};
use url::Url;

use crate::{
    api::{PublicUrl, is_loopback, proxy::Clients},
    oauth::redirect_uri,
};

/// The web pages that may call an MCP endpoint (MCP transports: `Origin` must be checked, against DNS rebinding). Programs send
/// none, and every request needs its token besides.
#[derive(Debug)]
pub struct Origins {
    own: String,
    clients: Clients,
}

impl Origins {
    /// Our own pages, those of the known clients, of this machine, and what the configuration lists.
    pub fn new(public_url: &PublicUrl, clients: &Clients) -> Self {
        Self { own: public_url.to_string(), clients: clients.clone() }
    }

    /// Whether a request comes from one of them, or from no page. Browsers send an origin in one spelling (RFC 6454 §6.2), so
    /// what is spelled otherwise is none, and neither are two.
    pub fn admit(&self, headers: &HeaderMap) -> bool {
        let mut origins = headers.get_all(ORIGIN).iter();
        let Some(origin) = origins.next() else { return true };
        let Ok(origin) = origin.to_str() else { return false };
        let is_known = || {
            origin
                .strip_prefix("https://")
                .is_some_and(|host| redirect_uri::is_known_host(host, &self.clients.redirects))
        };
        origins.next().is_none()
            && (origin == self.own
                || is_known()
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

    fn admits(values: &[&str]) -> bool {
        let clients = serde_json::from_value(serde_json::json!({
            "redirects": {"hosts": ["chat.example.com"]},
            "origins": ["https://tools.example.com:8443", "chrome-extension://abcdefghijklmnop"],
        }))
        .unwrap();
        let origins = Origins::new(&"https://mcp.example.com".parse().unwrap(), &clients);
        origins.admit(&values.iter().map(|value| (ORIGIN, value.parse().unwrap())).fold(
            HeaderMap::new(),
            |mut headers, (name, value)| {
                headers.append(name, value);
                headers
            },
        ))
    }

    #[test]
    fn c12_own_known_and_listed_origins_are_allowed() {
        assert!(admits(&[]));
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
            assert!(admits(&[origin]), "{origin}");
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
            assert!(!admits(&[origin]), "{origin}");
        }
        assert!(!admits(&["https://mcp.example.com", "https://mcp.example.com"]));
    }
}
