use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use thiserror::Error;
use url::{Host, Url};

/// An invalid URL or path; the message states the expected form.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[error("{message} (it says {written:?})")]
pub struct InvalidUrl {
    message: &'static str,
    written: String,
}

impl InvalidUrl {
    fn new(message: &'static str, written: &str) -> Self {
        Self { message, written: written.chars().take(200).collect() }
    }
}

/// Whether a host from [`Url::host`] is a loopback host: `127.0.0.0/8`, `::1`, `localhost` and its subdomains
/// (RFC 6761 §6.3).
#[must_use]
pub fn is_loopback_host(host: &Host<&str>) -> bool {
    match host {
        Host::Domain(name) => *name == "localhost" || name.ends_with(".localhost"),
        Host::Ipv4(address) => address.is_loopback(),
        Host::Ipv6(address) => address.is_loopback(),
    }
}

/// https, or http to a loopback host.
fn is_secure(url: &Url) -> bool {
    match url.scheme() {
        "https" => url.host().is_some(),
        "http" => url.host().is_some_and(|host| is_loopback_host(&host)),
        _ => false,
    }
}

fn has_nothing_but_path(url: &Url) -> bool {
    url.username().is_empty() && url.password().is_none() && url.query().is_none() && url.fragment().is_none()
}

macro_rules! checked_string {
    ($(#[$doc:meta])* $name:ident, $check:path) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The original text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidUrl;

            fn from_str(written: &str) -> Result<Self, Self::Err> {
                $check(written).map_err(|message| InvalidUrl::new(message, written))?;
                Ok(Self(written.to_owned()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidUrl;

            fn try_from(written: String) -> Result<Self, Self::Error> {
                written.parse()
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> Self {
                value.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

checked_string!(
    /// The proxy's public origin, without path or trailing slash. It is the issuer identifier (RFC 8414).
    PublicUrl,
    check_public_url
);

checked_string!(
    /// URL of the OpenID Connect issuer at which people log in.
    IssuerUrl,
    check_issuer_url
);

checked_string!(
    /// URL of the upstream, http or https. Its path is prepended to each forwarded path.
    UpstreamUrl,
    check_upstream_url
);

checked_string!(
    /// A forwarded path; `*` matches exactly one segment.
    PathPattern,
    check_path_pattern
);

fn check_public_url(written: &str) -> Result<(), &'static str> {
    const MESSAGE: &str = "publicURL must be https://HOST or https://HOST:PORT in lower case, without path, query or slash at the end, no default port (:443) (http only for localhost)";
    let url = Url::parse(written).map_err(|_| MESSAGE)?;
    // Clients compare the issuer byte for byte, so only the normalised form is accepted.
    if is_secure(&url) && has_nothing_but_path(&url) && url.origin().ascii_serialization() == written {
        Ok(())
    } else {
        Err(MESSAGE)
    }
}

fn check_issuer_url(written: &str) -> Result<(), &'static str> {
    const MESSAGE: &str = "issuerURL must be the https address of an OpenID Connect issuer, such as https://accounts.google.com, without query (http only for localhost)";
    let url = Url::parse(written).map_err(|_| MESSAGE)?;
    if is_secure(&url) && has_nothing_but_path(&url) { Ok(()) } else { Err(MESSAGE) }
}

fn check_upstream_url(written: &str) -> Result<(), &'static str> {
    const MESSAGE: &str =
        "upstream.url must be http://HOST:PORT or https://HOST:PORT, with or without a path, without query or fragment";
    let url = Url::parse(written).map_err(|_| MESSAGE)?;
    if matches!(url.scheme(), "http" | "https") && url.host().is_some() && has_nothing_but_path(&url) {
        Ok(())
    } else {
        Err(MESSAGE)
    }
}

/// Paths of the proxy's own endpoints; an upstream path must not equal one or lie below one.
const OWN_PATHS: [&str; 8] =
    ["/.well-known", "/authorize", "/callback", "/consent", "/jwks", "/register", "/revoke", "/token"];

/// Maximum length in bytes of a segment that `*` matches: the resource's URL is part of codes, cookies and session records.
const MAX_SEGMENT: usize = 128;

fn check_path_pattern(written: &str) -> Result<(), &'static str> {
    let segments = written.strip_prefix('/').ok_or("an upstream path must begin with a slash, such as /mcp")?;
    for segment in segments.split('/') {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '~');
        if segment != "*" && (segment.is_empty() || matches!(segment, "." | "..") || !segment.chars().all(plain)) {
            return Err(
                "an upstream path is made of letters, digits and -._~ between single slashes, or * for one whole segment, without a slash at the end, such as /mcp or /servers/*/mcp",
            );
        }
    }
    let shadows = |own: &str| written == own || written.strip_prefix(own).is_some_and(|rest| rest.starts_with('/'));
    if segments.starts_with('*') || OWN_PATHS.iter().any(|own| shadows(own)) {
        return Err(
            "an upstream path may not take the place of our own endpoints (/.well-known, /authorize, /callback, /consent, /jwks, /register, /revoke, /token)",
        );
    }
    Ok(())
}

impl IssuerUrl {
    /// Whether the issuer is reached over TLS.
    pub fn is_https(&self) -> bool {
        self.0.starts_with("https://")
    }
}

impl PublicUrl {
    /// Whether browsers connect over TLS. Cookies are then `Secure` and have the `__Host-` prefix.
    #[must_use]
    pub fn is_https(&self) -> bool {
        self.0.starts_with("https://")
    }

    /// The URL of `path`, which begins with a slash.
    #[must_use]
    pub fn join(&self, path: &str) -> String {
        format!("{}{path}", self.0)
    }
}

impl PathPattern {
    /// Whether the pattern contains no `*`.
    #[must_use]
    pub fn is_literal(&self) -> bool {
        !self.0.contains('*')
    }

    /// Whether `path`, without trailing slash, matches the pattern. Nothing is percent-decoded: an encoded path does not
    /// match.
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        if self.is_literal() {
            return path == self.0;
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '~');
        let mut segments = path.split('/');
        let all = self.0.split('/').all(|wanted| {
            segments.next().is_some_and(|segment| match wanted {
                "*" => {
                    (1..=MAX_SEGMENT).contains(&segment.len())
                        && !matches!(segment, "." | "..")
                        && segment.chars().all(plain)
                }
                literal => segment == literal,
            })
        });
        all && segments.next().is_none()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn public_url_is_a_normalised_origin() {
        for good in
            ["https://mcp.example.com", "https://mcp.example.com:8443", "http://localhost:8080", "http://[::1]:1"]
        {
            assert_eq!(good.parse::<PublicUrl>().unwrap().as_str(), good);
        }
        for bad in [
            "https://mcp.example.com/",
            "https://mcp.example.com/mcp",
            "https://MCP.example.com",
            "https://mcp.example.com:443",
            "http://mcp.example.com",
            "https://user@mcp.example.com",
            "https://mcp.example.com?x=1",
            "ftp://localhost",
            "mcp.example.com",
            "",
        ] {
            assert!(bad.parse::<PublicUrl>().is_err(), "{bad}");
        }
    }

    #[test]
    fn http_issuer_is_accepted_for_loopback_only() {
        assert!("http://login.localhost:9000".parse::<IssuerUrl>().is_ok());
        assert!("https://login.microsoftonline.com/tenant/v2.0".parse::<IssuerUrl>().is_ok());
        assert!("http://idp.example.com".parse::<IssuerUrl>().is_err());
        assert!("http://localhost.example.com".parse::<IssuerUrl>().is_err());
    }

    #[test]
    fn star_matches_exactly_one_unencoded_segment() {
        let pattern: PathPattern = "/servers/*/mcp".parse().unwrap();
        assert!(pattern.matches("/servers/0f3a/mcp"));
        for path in [
            "/servers/mcp",
            "/servers//mcp",
            "/servers/a/b/mcp",
            "/servers/../mcp",
            "/servers/a%2fb/mcp",
            "/servers/a/mcp/more",
            "/servers/a;x/mcp",
            "/Servers/a/mcp",
            &format!("/servers/{}/mcp", "a".repeat(129)),
        ] {
            assert!(!pattern.matches(path), "{path}");
        }
    }

    #[test]
    fn upstream_path_cannot_shadow_own_endpoints() {
        for bad in
            ["/token", "/token/x", "/.well-known/mcp", "/*", "/*/mcp", "mcp", "/mcp/", "/a*b", "/a//b", "/a/../b"]
        {
            assert!(bad.parse::<PathPattern>().is_err(), "{bad}");
        }
        assert!("/tokens".parse::<PathPattern>().is_ok());
    }

    proptest! {
        /// An accepted URL has one interpretation: the URL parser's, in normalised form.
        #[test]
        fn accepted_origin_equals_its_normalised_form(
            text in prop_oneof![".*", "https?://[a-zA-Z0-9.@:/?#\\\\\\[\\]%-]{0,40}"],
        ) {
            if let Ok(origin) = text.parse::<PublicUrl>() {
                let url = url::Url::parse(&text).unwrap();
                prop_assert_eq!(origin.as_str(), url.origin().ascii_serialization());
                prop_assert_eq!(origin.as_str(), &text);
            }
            if let Ok(issuer) = text.parse::<IssuerUrl>() {
                let url = url::Url::parse(issuer.as_str()).unwrap();
                prop_assert!(url.query().is_none() && url.fragment().is_none() && url.username().is_empty());
                prop_assert!(url.scheme() == "https" || is_loopback_host(&url.host().unwrap()));
            }
        }

        #[test]
        fn matching_path_has_no_encoding_and_no_dot_segments(path in "/servers/[a-z0-9./%;\\\\#?~_-]{0,20}/mcp") {
            let pattern: PathPattern = "/servers/*/mcp".parse().unwrap();
            if pattern.matches(&path) {
                prop_assert_eq!(path.matches('/').count(), 3);
                prop_assert!(!path.contains(['%', ';', '\\', '#', '?']) && !path.contains("/../") && !path.contains("/./"));
            }
        }
    }
}
