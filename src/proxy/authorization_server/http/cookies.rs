//! The browser cookie, a random name of the browser, and one login cookie for each approved login. Neither contains an
//! identity.

use axum::http::{HeaderMap, HeaderValue, header};

use crate::{api::PublicUrl, oauth::login::Login};

/// Concurrent logins in one browser. More would exceed the header limits of servers in front.
pub const MAX_LOGINS: usize = 3;

pub struct Cookies<'a> {
    prefix: &'static str,
    secure: bool,
    pairs: Vec<(&'a str, &'a str)>,
}

impl<'a> Cookies<'a> {
    pub fn read(headers: &'a HeaderMap, public_url: &PublicUrl) -> Self {
        let pairs = headers
            .get_all(header::COOKIE)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|line| line.split(';'))
            .filter_map(|pair| pair.trim().split_once('='))
            .collect();
        // `__Host-` prevents other hosts of the domain from setting our cookies. Browsers accept it over https only.
        let secure = public_url.is_https();
        Self { prefix: if secure { "__Host-mcp-" } else { "mcp-" }, secure, pairs }
    }

    /// A repeated cookie is ignored: one of the two was set by another host.
    fn get(&self, name: &str) -> Option<&'a str> {
        let mut values = self.pairs.iter().filter(|(known, _)| *known == name).map(|(_, value)| *value);
        let value = values.next()?;
        values.next().is_none().then_some(value)
    }

    fn browser_name(&self) -> String {
        format!("{}browser", self.prefix)
    }

    fn login_name(&self, state: &str) -> String {
        format!("{}login-{}", self.prefix, Login::cookie_suffix(state))
    }

    /// The browser cookie, 43 random characters.
    pub fn browser(&self) -> Option<&'a str> {
        self.get(&self.browser_name()).filter(|value| value.len() == 43)
    }

    pub fn login(&self, state: &str) -> Option<&'a str> {
        self.get(&self.login_name(state))
    }

    pub fn logins(&self) -> impl Iterator<Item = (&'a str, &'a str)> + '_ {
        let prefix = format!("{}login-", self.prefix);
        self.pairs.iter().copied().filter(move |(name, _)| name.starts_with(&prefix))
    }

    fn set(&self, name: &str, value: &str, lifetime: &str) -> Option<HeaderValue> {
        let secure = if self.secure { "; Secure" } else { "" };
        HeaderValue::try_from(format!("{name}={value}; Path=/; HttpOnly; SameSite=Lax{secure}{lifetime}")).ok()
    }

    pub fn set_browser(&self, value: &str) -> Option<HeaderValue> {
        self.set(&self.browser_name(), value, "")
    }

    pub fn set_login(&self, state: &str, value: &str) -> Option<HeaderValue> {
        self.set(&self.login_name(state), value, "; Max-Age=600")
    }

    pub fn clear_login(&self, state: &str) -> Option<HeaderValue> {
        self.clear(&self.login_name(state))
    }

    pub fn clear(&self, name: &str) -> Option<HeaderValue> {
        self.set(name, "", "; Max-Age=0")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with<T>(cookie: &'static str, public_url: &str, check: impl FnOnce(&Cookies<'_>) -> T) -> T {
        let mut headers = HeaderMap::new();
        headers.insert(header::COOKIE, HeaderValue::from_static(cookie));
        check(&Cookies::read(&headers, &public_url.parse().unwrap()))
    }

    #[test]
    fn a14_duplicate_cookie_is_ignored() {
        let value = "r".repeat(43);
        let once = Box::leak(format!("a=b; __Host-mcp-browser={value}").into_boxed_str());
        let twice = Box::leak(format!("{once}; __Host-mcp-browser={value}").into_boxed_str());
        assert_eq!(with(once, "https://mcp.example.com", |cookies| cookies.browser().map(str::to_owned)), Some(value));
        assert_eq!(with(twice, "https://mcp.example.com", |cookies| cookies.browser().map(str::to_owned)), None);
    }

    #[test]
    fn cookies_over_https_have_the_host_prefix() {
        let set = |url| with("", url, |cookies| cookies.set_browser("x").unwrap());
        assert_eq!(set("https://mcp.example.com"), "__Host-mcp-browser=x; Path=/; HttpOnly; SameSite=Lax; Secure");
        assert_eq!(set("http://localhost:8080"), "mcp-browser=x; Path=/; HttpOnly; SameSite=Lax");
    }
}
