use http::{HeaderMap, header::WWW_AUTHENTICATE};

/// The Bearer challenge of an MCP server (RFC 6750 §3, RFC 9728 §5.1).
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Challenge {
    pub resource_metadata: Option<String>,
    pub scope: Option<String>,
}

impl Challenge {
    /// Finds the Bearer challenge among all challenges of a response (RFC 9110 §11.6.1).
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let mut found: Option<Self> = None;
        for value in headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok()) {
            let mut is_bearer = false;
            for part in split_list(value) {
                // `Scheme name=value` starts a challenge; `name=value` belongs to the current one.
                let (first, rest) = part.split_once(' ').unwrap_or((part, ""));
                let parameter = if first.contains('=') {
                    part
                } else {
                    is_bearer = first.eq_ignore_ascii_case("Bearer");
                    rest.trim_start()
                };
                if is_bearer {
                    found.get_or_insert_default().set(parameter);
                }
            }
        }
        found
    }

    fn set(&mut self, parameter: &str) {
        let Some((name, value)) = parameter.split_once('=') else { return };
        let value = unquote(value.trim());
        match name.trim().to_ascii_lowercase().as_str() {
            "resource_metadata" => self.resource_metadata = Some(value),
            "scope" => self.scope = Some(value),
            _ => {}
        }
    }
}

/// Splits at commas outside of quoted strings.
fn split_list(value: &str) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    let is_separator = move |character: char| {
        quoted ^= character == '"' && !escaped;
        escaped = character == '\\' && !escaped;
        character == ',' && !quoted
    };
    value.split(is_separator).map(str::trim).filter(|part| !part.is_empty())
}

fn unquote(value: &str) -> String {
    let Some(inner) = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')) else {
        return value.to_owned();
    };
    let (mut text, mut escaped) = (inner.to_owned(), false);
    text.retain(|character| {
        escaped = character == '\\' && !escaped;
        !escaped
    });
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(values: &[&str]) -> Option<Challenge> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(WWW_AUTHENTICATE, value.parse().unwrap());
        }
        Challenge::of(&headers)
    }

    #[test]
    fn bearer_challenge_is_found_among_other_challenges() {
        let expected = Challenge {
            resource_metadata: Some("https://mcp.example.com/.well-known/oauth-protected-resource/mcp".to_owned()),
            scope: Some("mcp, a\"b".to_owned()),
        };
        let parameters = "resource_metadata=\"https://mcp.example.com/.well-known/oauth-protected-resource/mcp\", \
                          scope=\"mcp, a\\\"b\", error=invalid_token";
        for values in [
            vec![format!("Bearer {parameters}")],
            vec![format!("bearer  {parameters}")],
            vec![format!("Basic realm=\"scope=no, Bearer no\", Bearer {parameters}")],
            vec!["Negotiate".to_owned(), format!("Bearer {parameters}, Digest scope=\"no\"")],
        ] {
            let values: Vec<_> = values.iter().map(String::as_str).collect();
            assert_eq!(read(&values).as_ref(), Some(&expected), "{values:?}");
        }
    }

    #[test]
    fn other_challenges_yield_no_bearer_challenge() {
        assert_eq!(read(&[]), None);
        assert_eq!(read(&["Basic scope=\"mcp\""]), None);
        assert_eq!(read(&["Bearer"]), Some(Challenge::default()));
    }
}
