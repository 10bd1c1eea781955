//! Client IP: `X-Forwarded-For` is honoured only from `trustedProxies`.

use std::net::{IpAddr, SocketAddr};

use http::{Extensions, HeaderMap, HeaderName, HeaderValue};
use ipnet::IpNet;

/// The peer of a connection.
#[derive(Clone, Debug)]
pub struct Peer {
    pub address: SocketAddr,
    /// Formatted once: most requests come from the peer itself.
    forwarded_for: HeaderValue,
}

impl Peer {
    pub fn new(address: SocketAddr) -> Self {
        Self { address, forwarded_for: forwarded_for(address.ip().to_canonical()) }
    }

    /// The value of `X-Forwarded-For` for a request of `client` over this connection.
    pub fn forwarded_for(&self, client: IpAddr) -> HeaderValue {
        if client == self.address.ip().to_canonical() { self.forwarded_for.clone() } else { forwarded_for(client) }
    }
}

/// An address is always a valid header value; RFC 7239 §6.2 defines `unknown`.
fn forwarded_for(client: IpAddr) -> HeaderValue {
    HeaderValue::try_from(client.to_string()).unwrap_or(const { HeaderValue::from_static("unknown") })
}

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const CF_CONNECTING_IP: HeaderName = HeaderName::from_static("cf-connecting-ip");

/// The client IP of a request: the right-most hop of `X-Forwarded-For` that is no trusted proxy. A client can forge all hops
/// to the left of it. `CF-Connecting-IP` counts only without hops, because a proxy that adds hops forwards a client's copy of
/// that header.
pub fn resolve_client(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let is_trusted = |address: &IpAddr| trusted.iter().any(|range| range.contains(address));
    let mut nearest = peer.to_canonical();
    if !is_trusted(&nearest) {
        return nearest;
    }
    if !headers.contains_key(X_FORWARDED_FOR) {
        let mut values = headers.get_all(CF_CONNECTING_IP).iter();
        return match (values.next(), values.next()) {
            (Some(value), None) => parse(value.as_bytes()).unwrap_or(nearest),
            _ => nearest,
        };
    }
    // Bytes: a client may send invalid UTF-8, and the trusted proxy's hop behind it still counts.
    let values: Vec<&[u8]> = headers.get_all(X_FORWARDED_FOR).iter().map(HeaderValue::as_bytes).collect();
    for hop in values.iter().flat_map(|value| value.split(|byte| *byte == b',')).rev() {
        match parse(hop) {
            Some(hop) if is_trusted(&hop) => nearest = hop,
            Some(hop) => return hop,
            // A trusted proxy added a hop without an address: its own address is the best known one.
            None => break,
        }
    }
    nearest
}

/// [`resolve_client`] for a request with the peer's address among its extensions.
pub fn client_ip_of(extensions: &Extensions, headers: &HeaderMap, trusted: &[IpNet]) -> Option<IpAddr> {
    let peer = extensions.get::<SocketAddr>()?;
    Some(resolve_client(peer.ip(), headers, trusted))
}

/// An address, with or without a port (some proxies add one).
fn parse(bytes: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(bytes).ok()?.trim();
    let address = text
        .parse::<IpAddr>()
        .or_else(|_| text.parse::<SocketAddr>().map(|address| address.ip()))
        .or_else(|_| text.trim_matches(['[', ']']).parse::<IpAddr>());
    address.ok().map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(peer: &str, headers: &[(&str, &str)]) -> String {
        let trusted: Vec<IpNet> = ["10.0.0.0/8", "fd00::/8"].map(|range| range.parse().unwrap()).to_vec();
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        resolve_client(peer.parse().unwrap(), &map, &trusted).to_string()
    }

    #[test]
    fn b7_untrusted_peer_headers_are_ignored() {
        assert_eq!(address("192.0.2.1", &[("x-forwarded-for", "198.51.100.7")]), "192.0.2.1");
        assert_eq!(address("192.0.2.1", &[("cf-connecting-ip", "198.51.100.7")]), "192.0.2.1");
        assert_eq!(address("::ffff:192.0.2.1", &[]), "192.0.2.1");
    }

    #[test]
    fn b7_rightmost_untrusted_hop_is_the_client() {
        for (forwarded, client) in [
            ("198.51.100.7", "198.51.100.7"),
            // The client forged the first hop.
            ("203.0.113.9, 198.51.100.7", "198.51.100.7"),
            ("203.0.113.9, 198.51.100.7, 10.1.1.1", "198.51.100.7"),
            ("198.51.100.7:4711, [2001:db8::1]:443, 10.1.1.1", "2001:db8::1"),
            ("10.2.2.2, 10.1.1.1", "10.2.2.2"),
            ("198.51.100.7, unknown", "10.9.9.9"),
            ("", "10.9.9.9"),
        ] {
            assert_eq!(address("10.9.9.9", &[("x-forwarded-for", forwarded)]), client, "{forwarded}");
        }
        assert_eq!(
            address("fd00::1", &[("x-forwarded-for", "203.0.113.9"), ("x-forwarded-for", "198.51.100.7")]),
            "198.51.100.7"
        );
    }

    #[test]
    fn b7_cf_connecting_ip_is_used_without_x_forwarded_for() {
        assert_eq!(address("10.9.9.9", &[("cf-connecting-ip", "198.51.100.7")]), "198.51.100.7");
        let both = [("cf-connecting-ip", "203.0.113.9"), ("x-forwarded-for", "198.51.100.7")];
        assert_eq!(address("10.9.9.9", &both), "198.51.100.7");
        // Invalid bytes of the client do not hide the proxy's hop.
        let mut odd = HeaderMap::new();
        odd.insert(X_FORWARDED_FOR, HeaderValue::from_bytes(b"\xff, 198.51.100.7").unwrap());
        odd.insert(CF_CONNECTING_IP, HeaderValue::from_static("203.0.113.9"));
        let found = resolve_client("10.9.9.9".parse().unwrap(), &odd, &["10.0.0.0/8".parse().unwrap()]);
        assert_eq!(found.to_string(), "198.51.100.7");
        let twice = [("cf-connecting-ip", "203.0.113.9"), ("cf-connecting-ip", "198.51.100.7")];
        assert_eq!(address("10.9.9.9", &twice), "10.9.9.9");
    }
}
