use http::HeaderName;

/// Which headers of a response the caller wants; the others are dropped while the head is read.
pub type HeaderFilter = fn(&HeaderName) -> bool;

/// The names that `Connection` lists in all its values (RFC 9110 §7.6.1), without the usual ones, which go anyway.
pub fn nominated<'a>(connection: impl Iterator<Item = &'a [u8]>) -> Vec<HeaderName> {
    let options = connection.flat_map(|value| value.split(|byte| *byte == b',')).map(<[u8]>::trim_ascii);
    let unusual = options.filter(|option| !option.eq_ignore_ascii_case(b"keep-alive") && *option != b"close");
    unusual.filter_map(|name| HeaderName::from_bytes(name).ok()).collect()
}

/// RFC 9110 §7.6.1. `Content-Length` is among them because whoever sends a message says how long it is, and `Expect` because
/// we answer that.
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
