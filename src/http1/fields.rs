use http::HeaderName;

/// Returns whether a response header is kept; other headers are dropped while the head is parsed.
pub type HeaderFilter = fn(&HeaderName) -> bool;

/// Header names listed in the `Connection` values (RFC 9110 §7.6.1), without `keep-alive` and `close`.
pub fn nominated<'a>(connection: impl Iterator<Item = &'a [u8]>) -> Vec<HeaderName> {
    let options = connection.flat_map(|value| value.split(|byte| *byte == b',')).map(<[u8]>::trim_ascii);
    let unusual = options.filter(|option| !option.eq_ignore_ascii_case(b"keep-alive") && *option != b"close");
    unusual.filter_map(|name| HeaderName::from_bytes(name).ok()).collect()
}

/// Whether a header is hop-by-hop (RFC 9110 §7.6.1). `Content-Length` is included because each sender frames its own
/// message, `Expect` because the proxy responds to it.
pub fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "content-length"
            | "expect"
            | "keep-alive"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
    )
}
