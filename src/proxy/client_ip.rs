//! Whose request it is, as far as an address tells: what is in front of us is believed only if it is said to be there.

use std::net::{IpAddr, SocketAddr};

use http::{Extensions, HeaderMap, HeaderName, HeaderValue};
use ipnet::IpNet;

/// Who is at the other end of a connection.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its address.
    pub address: SocketAddr,
    /// The same, as `X-Forwarded-For` has it: most requests come from where their connection does.
    forwarded_for: HeaderValue,
}

impl Peer {
    /// Whoever connected from there.
    pub fn new(address: SocketAddr) -> Self {
        Self { address, forwarded_for: forwarded_for(address.ip().to_canonical()) }
    }

    /// What `X-Forwarded-For` says for a client whose request came over this connection.
    pub fn forwarded_for(&self, client: IpAddr) -> HeaderValue {
        if client == self.address.ip().to_canonical() { self.forwarded_for.clone() } else { forwarded_for(client) }
    }
}

/// An address is always a header's value; RFC 7239 §6.2 has a word for what has none.
fn forwarded_for(client: IpAddr) -> HeaderValue {
    HeaderValue::try_from(client.to_string()).unwrap_or(const { HeaderValue::from_static("unknown") })
}

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const CF_CONNECTING_IP: HeaderName = HeaderName::from_static("cf-connecting-ip");

/// The address of the client behind the proxies that are trusted: the right-most hop of `X-Forwarded-For` that is not one of
/// them. What stands to the left of it the client may have written. Cloudflare's own header is taken where there are no hops,
/// because a proxy that adds hops passes a client's copy of it on.
pub fn client_address(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let is_trusted = |address: &IpAddr| trusted.iter().any(|range| range.contains(address));
    let mut nearest = peer.to_canonical();
    if !is_trusted(&nearest) {
        return nearest;
    }
    if !headers.contains_key(X_FORWARDED_FOR) {
        let mut named = headers.get_all(CF_CONNECTING_IP).iter();
        return match (named.next(), named.next()) {
            (Some(one), None) => parse(one.as_bytes()).unwrap_or(nearest),
            _ => nearest,
        };
    }
    // Bytes, because a client may write anything there, and the proxy's own hop behind it counts all the same.
    let values: Vec<&[u8]> = headers.get_all(X_FORWARDED_FOR).iter().map(HeaderValue::as_bytes).collect();
    for hop in values.iter().flat_map(|value| value.split(|byte| *byte == b',')).rev() {
        match parse(hop) {
            Some(hop) if is_trusted(&hop) => nearest = hop,
            Some(hop) => return hop,
            // Whatever a trusted proxy has put there says nothing: its own address is the best that is known.
            None => break,
        }
    }
    nearest
}

/// The address of the client of a request that the listener handed on with its peer; `None` if it was not the listener.
pub fn client_of(extensions: &Extensions, headers: &HeaderMap, trusted: &[IpNet]) -> Option<IpAddr> {
    let peer = extensions.get::<SocketAddr>()?;
    Some(client_address(peer.ip(), headers, trusted))
}

/// An address, with or without a port (some proxies write one).
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
        client_address(peer.parse().unwrap(), &map, &trusted).to_string()
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
            // The first is what the client has written itself.
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
        // What a client has written before the proxy's hop does not make the hop go away.
        let mut odd = HeaderMap::new();
        odd.insert(X_FORWARDED_FOR, HeaderValue::from_bytes(b"\xff, 198.51.100.7").unwrap());
        odd.insert(CF_CONNECTING_IP, HeaderValue::from_static("203.0.113.9"));
        let found = client_address("10.9.9.9".parse().unwrap(), &odd, &["10.0.0.0/8".parse().unwrap()]);
        assert_eq!(found.to_string(), "198.51.100.7");
        let twice = [("cf-connecting-ip", "203.0.113.9"), ("cf-connecting-ip", "198.51.100.7")];
        assert_eq!(address("10.9.9.9", &twice), "10.9.9.9");
    }
}
