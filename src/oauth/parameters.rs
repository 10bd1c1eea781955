//! The form-encoded parameters of a request (RFC 6749 §3.1 and §3.2).

use std::collections::HashMap;

use url::form_urlencoded;

use super::OAuthError;

pub struct Parameters {
    values: HashMap<String, String>,
    /// A parameter that was sent more than once.
    pub repeated: Option<String>,
}

impl Parameters {
    /// Parses a query or a body. An empty value counts as omitted.
    pub fn parse(encoded: &[u8]) -> Self {
        let (mut values, mut repeated) = (HashMap::new(), None);
        for (name, value) in form_urlencoded::parse(encoded).into_owned() {
            if !value.is_empty() && values.insert(name.clone(), value).is_some() {
                repeated = Some(name);
            }
        }
        Self { values, repeated }
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    pub fn required(&self, name: &str) -> Result<&str, OAuthError> {
        self.get(name).ok_or_else(|| OAuthError::missing(name))
    }
}
