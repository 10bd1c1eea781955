//! The media type of a message (RFC 9110 §8.3), without its parameters.

use http::{HeaderMap, header::CONTENT_TYPE};

/// The media type as the peer wrote it; empty if `Content-Type` is absent or is not text.
pub fn media_type(headers: &HeaderMap) -> &str {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim()
}

/// Whether a message has this media type. Media types are case-insensitive.
pub fn has_media_type(headers: &HeaderMap, expected: &str) -> bool {
    media_type(headers).eq_ignore_ascii_case(expected)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn media_type_is_compared_without_parameters_and_case() {
        for (value, is_json) in [
            ("application/json", true),
            ("Application/JSON ; charset=utf-8", true),
            ("application/jsonp", false),
            ("text/plain; application/json", false),
            ("", false),
        ] {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(value))]);
            assert_eq!(has_media_type(&headers, "application/json"), is_json, "{value}");
        }
        assert_eq!(media_type(&HeaderMap::new()), "");
    }
}
