use url::{Host, Url};

/// Whether a URL's host is the local machine: `127.0.0.0/8`, `::1`, `localhost` and its subdomains (RFC 6761 §6.3).
#[must_use]
pub fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}
