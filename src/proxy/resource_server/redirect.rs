//! Redirects of the upstream that add or remove a trailing slash (Starlette, and so Context Forge before 1.0.5: 307 from `/mcp`
//! to `/mcp/`). MCP clients lose the body or the token at such a redirect, so it is followed here and remembered.

use std::cell::RefCell;

use http::{Response, StatusCode, Uri, header::LOCATION, uri::PathAndQuery};
use quick_cache::unsync::Cache;
use thiserror::Error;
use url::Url;

use super::{
    Worker,
    pool::{ClientBody, Lease, UpstreamError},
    replay::Replay,
};
use crate::api::PublicUrl;
use crate::http1::{Outgoing, RequestHead};

/// How many paths a worker remembers. The next request to a forgotten one is redirected again.
const MAX_PATHS: usize = 1024;

/// The paths, without it, that the upstream serves with a trailing slash. Only its responses to callers with a valid token change
/// them.
pub struct TrailingSlashes(RefCell<Cache<Box<str>, ()>>);

impl TrailingSlashes {
    pub fn contains(&self, path: &str) -> bool {
        self.0.borrow().get(without_slash(path)).is_some()
    }

    fn set(&self, path: &str, slash: bool) {
        let (mut paths, path) = (self.0.borrow_mut(), without_slash(path));
        if slash {
            paths.insert(path.into(), ());
        } else {
            paths.remove(path);
        }
    }
}

impl Default for TrailingSlashes {
    fn default() -> Self {
        Self(Cache::new(MAX_PATHS).into())
    }
}

/// Recognizes redirects that change nothing but the trailing slash.
#[derive(Debug)]
pub struct SlashRedirects {
    upstream: Url,
    public_url: Option<Url>,
}

/// Why there is no response to forward.
#[derive(Debug, Error)]
pub enum SendError {
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    #[error(
        "the upstream redirects to {0}, which is not followed: set the path that it serves in upstream.paths or upstream.url"
    )]
    Elsewhere(String),
    /// The request has had no effect, and the next one uses the right path.
    #[error(
        "the upstream redirects to its path with another trailing slash, but the body is too large to be sent again"
    )]
    BodyTooLarge,
}

impl SlashRedirects {
    pub fn new(upstream: Url, public_url: &PublicUrl) -> Self {
        Self { upstream, public_url: Url::parse(public_url.as_str()).ok() }
    }

    /// Whether the redirect in `response`, if it is one, adds (`true`) or removes the slash of `sent`. Fails for other redirects.
    fn evaluate(&self, sent: &Uri, response: &Response<()>) -> Result<Option<bool>, SendError> {
        let Some(location) = response.headers().get(LOCATION).filter(|_| response.status().is_redirection()) else {
            return Ok(None);
        };
        let location = String::from_utf8_lossy(location.as_bytes());
        let slash = self.slash_of(sent, &location).map_err(SendError::Elsewhere)?;
        match response.status() {
            // Servers send 301 for a slash whatever the method (Go's `ServeMux`), so it is followed with the same method.
            StatusCode::MOVED_PERMANENTLY | StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT => {
                Ok(Some(slash))
            }
            status => Err(SendError::Elsewhere(format!(
                "its path with another trailing slash with the unsupported status {status}"
            ))),
        }
    }

    /// Whether the target of a redirect from `sent` has a trailing slash, if nothing else differs; otherwise the target without
    /// its query.
    fn slash_of(&self, sent: &Uri, location: &str) -> Result<bool, String> {
        let target = self.upstream.join(sent.path()).and_then(|sent| sent.join(location));
        let target = target.map_err(|_| "an invalid URL".to_owned())?;
        let (from, to) = (sent.path(), target.path());
        if from != to && without_slash(from) == without_slash(to) && self.is_upstream(&target) {
            return Ok(to.ends_with('/'));
        }
        Err(format!("{}{to}", target.origin().ascii_serialization()))
    }

    /// Whether a URL means the upstream. The upstream may build it from the `Host` header or from `X-Forwarded-Host`, with either
    /// scheme. The request goes to the configured address in any case.
    fn is_upstream(&self, target: &Url) -> bool {
        let is_at = |url: &Url| {
            target.host_str() == url.host_str()
                && (target.port() == url.port() || target.port() == url.port_or_known_default())
        };
        matches!(target.scheme(), "http" | "https")
            && (is_at(&self.upstream) || self.public_url.as_ref().is_some_and(is_at))
    }
}

/// Sends a request to the upstream, and again after a redirect of the trailing slash. `path` is the client's; `target` is the
/// upstream's in origin form, with the trailing slash of [`TrailingSlashes`].
pub async fn send(
    worker: &Worker,
    path: &str,
    target: Uri,
    head: RequestHead,
    body: ClientBody,
) -> Result<(Response<()>, Lease), SendError> {
    let Worker { pool, slashes, forwarder, .. } = worker;
    let body = Replay::new(body);
    let (same_head, same_body) = (head.clone(), body.reader());
    let (response, lease) = pool.send(Outgoing::new(head, body)).await?;
    let Some(slash) = forwarder.redirects.evaluate(&target, &response)? else {
        return Ok((response, lease));
    };
    // Closes the connection, which may still be sending the first body.
    drop((response, lease));
    slashes.set(path, slash);
    let Some(target) = with_slash(&target, slash).filter(|_| same_body.is_complete()) else {
        return Err(SendError::BodyTooLarge);
    };
    // Boxed, because its future is large and most requests are not sent again.
    let again = Outgoing::new(same_head.with_target(&target), same_body);
    let (response, lease) = Box::pin(pool.send(again)).await?;
    if !matches!(forwarder.redirects.evaluate(&target, &response), Ok(None)) {
        slashes.set(path, false);
        return Err(SendError::Elsewhere("its path with another trailing slash and from there again".to_owned()));
    }
    Ok((response, lease))
}

/// Sets or removes the trailing slash of a path.
pub fn with_slash(uri: &Uri, slash: bool) -> Option<Uri> {
    let (path, end) = (without_slash(uri.path()), if slash { "/" } else { "" });
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    PathAndQuery::try_from(format!("{path}{end}{query}")).ok().map(Uri::from)
}

fn without_slash(path: &str) -> &str {
    path.strip_suffix('/').unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slash_of(upstream: &str, sent: &str, location: &str) -> Result<bool, String> {
        let redirects = SlashRedirects::new(Url::parse(upstream).unwrap(), &"https://mcp.example.com".parse().unwrap());
        redirects.slash_of(&sent.parse().unwrap(), location)
    }

    #[test]
    fn trailing_slash_redirect_is_recognized_for_every_host_name() {
        for location in [
            "/mcp/",
            "mcp/",
            "/mcp/?a=b",
            "http://gateway:4444/mcp/",
            "https://gateway:4444/mcp/",
            "//gateway:4444/mcp/",
            "https://mcp.example.com/mcp/",
            "http://mcp.example.com:443/mcp/",
        ] {
            assert_eq!(slash_of("http://gateway:4444", "/mcp?a=b", location), Ok(true), "{location}");
        }
        assert_eq!(slash_of("http://gateway", "/mcp", "http://gateway/mcp/"), Ok(true));
        assert_eq!(slash_of("http://gateway:80", "/mcp", "https://gateway:80/mcp/"), Ok(true));
        assert_eq!(slash_of("http://gateway/base", "/base/mcp/", "/base/mcp"), Ok(false));
    }

    #[test]
    fn other_redirects_are_not_followed() {
        for location in [
            "/mcp",
            "/admin/",
            "/mcp//",
            "/mcp/../admin/",
            "/mcp/x",
            "/login?next=/mcp/",
            "http://gateway:4445/mcp/",
            "http://evil.example.com/mcp/",
            "http://evil.example.com:4444/mcp/",
            "https://mcp.example.com:8443/mcp/",
            "http://gateway:4444@evil.example.com/mcp/",
            "ftp://gateway:4444/mcp/",
            "http://",
            "",
        ] {
            assert!(slash_of("http://gateway:4444", "/mcp", location).is_err(), "{location}");
        }
        assert_eq!(slash_of("http://gateway", "/mcp", "/a?code=secret").unwrap_err(), "http://gateway/a");
    }
}
