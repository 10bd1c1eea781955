//! Strings with validation rules, which apply in the schema and when a value is parsed.

use std::{fmt, ops::Deref, str::FromStr};

use serde_with::{DeserializeFromStr, SerializeDisplay};
use thiserror::Error;

use super::rules;

/// An invalid string; the message states the expected form.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[error("{message} (found {written:?})")]
pub struct InvalidText {
    message: String,
    written: String,
}

macro_rules! text_type {
    ($(#[$doc:meta])* $name:ident, $length:expr, [$($rule:ident),+]) => {
        $(#[$doc])*
        #[derive(Clone, Debug, DeserializeFromStr, Eq, Hash, Ord, PartialEq, PartialOrd, SerializeDisplay)]
        pub struct $name(String);

        impl $name {
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidText;

            fn from_str(written: &str) -> Result<Self, Self::Err> {
                check(written, $length, &[$(&rules::$rule),+])?;
                Ok(Self(written.to_owned()))
            }
        }

        impl PartialEq<str> for $name {
            fn eq(&self, other: &str) -> bool {
                self.0 == other
            }
        }

        impl Deref for $name {
            type Target = str;

            fn deref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                let (least, most) = $length.into_inner();
                schemars::json_schema!({
                    "type": "string",
                    "minLength": least,
                    "maxLength": most,
                    "x-kubernetes-validations": [$(rules::$rule.json()),+],
                })
            }
        }
    };
}

macro_rules! with_defaults {
    ($($name:ident),+) => {
        $(impl $name {
            /// For defaults, which a test parses.
            pub(super) fn unchecked(written: &str) -> Self {
                Self(written.to_owned())
            }
        })+
    };
}
with_defaults!(DataKey, IdentityHeader, PathPattern);

fn check(
    written: &str,
    length: std::ops::RangeInclusive<usize>,
    rules: &[&rules::TextRule],
) -> Result<(), InvalidText> {
    let invalid = |message: String| InvalidText { message, written: written.chars().take(200).collect() };
    if let Some(broken) = rules.iter().find(|rule| !rule.holds(written)) {
        return Err(invalid(broken.message().to_owned()));
    }
    if !length.contains(&written.chars().count()) {
        return Err(invalid(format!("between {} and {} characters are allowed", length.start(), length.end())));
    }
    Ok(())
}

text_type!(
    /// The proxy's public origin, without path or trailing slash. It is the issuer identifier (RFC 8414).
    PublicUrl, 1..=255, [PUBLIC_URL]
);
text_type!(
    /// URL of the OpenID Connect issuer at which users log in.
    IssuerUrl, 1..=512, [ISSUER_URL]
);
text_type!(
    /// URL of the upstream, http or https. Its path is prepended to each forwarded path.
    UpstreamUrl, 1..=512, [UPSTREAM_URL]
);
text_type!(
    /// A forwarded path; `*` matches exactly one segment.
    PathPattern, 2..=255, [PATH, PATH_IS_NOT_OURS]
);
text_type!(EmailAddress, 3..=320, [EMAIL]);
text_type!(Domain, 1..=253, [DOMAIN]);
text_type!(RedirectHost, 1..=253, [REDIRECT_HOST]);
text_type!(
    /// A redirect URI in `clients.static`.
    StaticRedirectUri, 1..=512, [REDIRECT_URI]
);
text_type!(
    /// A client ID in `clients.static`.
    StaticClientId, 1..=128, [CLIENT_ID]
);
text_type!(
    /// An origin as browsers serialize it (RFC 6454 §6.2).
    BrowserOrigin, 1..=300, [ORIGIN]
);
text_type!(
    /// A request header that carries the identity.
    IdentityHeader, 1..=64, [HEADER_NAME, HEADER_IS_NOT_RESERVED]
);
text_type!(
    /// `vaults/VAULT/items/ITEM` in 1Password.
    ItemPath, 1..=512, [ITEM_PATH]
);
text_type!(
    /// Name of a Secret or ConfigMap.
    ObjectName, 1..=253, [OBJECT_NAME]
);
text_type!(
    /// Key of a Secret or ConfigMap.
    DataKey, 1..=253, [DATA_KEY]
);
text_type!(
    /// A container image with a digest, or a tag other than `latest`.
    ImageReference, 1..=512, [IMAGE]
);

/// Maximum length in bytes of a segment that `*` matches: the resource's URL is part of codes, cookies and session records.
const MAX_SEGMENT: usize = 128;

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

    fn parses<T: FromStr>(accepted: &[&str], rejected: &[&str]) {
        for text in accepted {
            assert!(text.parse::<T>().is_ok(), "{} rejects {text:?}", std::any::type_name::<T>());
        }
        for text in rejected {
            assert!(text.parse::<T>().is_err(), "{} accepts {text:?}", std::any::type_name::<T>());
        }
    }

    #[test]
    fn each_type_accepts_and_rejects_its_examples() {
        let digest = format!("a/b@sha256:{}", "0".repeat(64));
        parses::<EmailAddress>(&["ada@example.com", "Ada+x@EXAMPLE.com"], &["ada", "@b", "a@", "a@b@c", "a @b", ""]);
        parses::<Domain>(&["example.com", "Example.COM", "a"], &["@example.com", "*.a", ".a", "a.", "a b", ""]);
        parses::<RedirectHost>(&["chat.example.com"], &["Chat.example.com", "https://a", "a:1", "a/", "-a"]);
        parses::<StaticClientId>(&["claude-ai", "a~b._c"], &["a b", "-a", "", "a/b"]);
        parses::<ItemPath>(&["vaults/a b/items/c"], &["vaults/a/items/b/c", "vaults//items/b", "vault/item", ""]);
        parses::<ObjectName>(&["login", "a.b-c"], &["Login", "a/b", "-a", "a_b", ""]);
        parses::<DataKey>(&["ca.crt", ".hidden", "A_b-c"], &["..", ".", "..data-1_x", "../a", "a/b", ""]);
        parses::<ImageReference>(
            &["a/b:2", "localhost:5000/a:dev-1", &digest],
            &["a/b", "a:latest", "localhost:5000/a", "a@sha256:12", "a:", ":1", "a b:1"],
        );
        parses::<IdentityHeader>(&["X-User"], &["X User", "cookie", "Mcp-User", "X_User", "MCP-"]);
        parses::<StaticRedirectUri>(
            &[
                "https://claude.ai/cb",
                "http://localhost:8080/cb",
                "http://[::1]",
                "http://127.0.0.1/?a",
                "cursor://a/b",
            ],
            &[
                "http://a.example/",
                "http://localhost.example/",
                "HTTP://a/",
                "javascript:alert(1)",
                "https://a/#x",
                "a b",
            ],
        );
        parses::<UpstreamUrl>(
            &["http://gateway:4444", "https://a.example/base", "http://[fd00::1]:80"],
            &[
                "gateway:4444",
                "http://a/?q",
                "http://a/#f",
                "http://u@a/",
                "ftp://a",
                "http://",
                "http://a b",
                "http://a\\b",
                "http://a/\tb",
                "http://a\n",
            ],
        );
    }

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
                prop_assert!(url.scheme() == "https" || crate::api::is_loopback(&url));
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
