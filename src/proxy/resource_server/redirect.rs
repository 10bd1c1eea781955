use std::{
    rc::Rc,
    sync::atomic::{AtomicU8, Ordering},
};

use http::{HeaderMap, Response, StatusCode, Uri, header::LOCATION, uri::PathAndQuery};
use thiserror::Error;
use url::Url;

use super::{
    pool::{ClientBody, Lease, Pool, UpstreamError},
    replay::Replay,
};
use crate::api::PublicUrl;
use crate::http1::{Outgoing, RequestHead};

/// How the upstream spells the path of an endpoint. Servers answer the other spelling with a redirect (Starlette, and so
/// Context Forge before 1.0.5, with `307` from `/mcp` to `/mcp/`), at which MCP clients drop the body or the token. So the
/// first redirect is followed here, and remembered.
#[derive(Debug, Default)]
pub struct Spelling(AtomicU8);

const UNKNOWN: u8 = 0;
const BARE: u8 = 1;
const SLASH: u8 = 2;

impl Spelling {
    /// Whether requests go to the path with a slash at its end.
    pub fn has_slash(&self) -> bool {
        self.get() == SLASH
    }

    fn get(&self) -> u8 {
        self.0.load(Ordering::Relaxed)
    }

    fn set(&self, known: u8) {
        self.0.store(known, Ordering::Relaxed);
    }
}

/// Where a redirect must lead to be one to the other spelling, and nothing else.
#[derive(Debug)]
pub struct Places {
    upstream: Url,
    public_host: Option<(String, Option<u16>)>,
}

/// Why there is no answer to pass on.
#[derive(Debug, Error)]
pub enum SendError {
    /// There is none.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// A redirect that is none to the other spelling: a client could not follow it, and it is not followed for one.
    #[error(
        "the upstream redirects to {0}, which is not followed: write the path that it serves in upstream.paths or upstream.url"
    )]
    Elsewhere(String),
    /// The upstream has begun to spell the path in another way, and the request is not there any more to be sent again. It has
    /// had no effect, and the next one goes to the right path.
    #[error("the upstream has changed the spelling of the path")]
    Changed,
}

impl Places {
    /// Those of an upstream at `upstream`, which is told that it is reached at `public_url`.
    pub fn new(upstream: Url, public_url: &PublicUrl) -> Self {
        let public = Url::parse(public_url.as_str()).ok();
        let public_host = public.and_then(|url| Some((url.host_str()?.to_owned(), url.port_or_known_default())));
        Self { upstream, public_host }
    }

    /// The spelling that a redirect from `sent`, which is in origin form, asks for; otherwise where it leads, without its
    /// query.
    fn other_spelling(&self, sent: &Uri, location: &str) -> Result<u8, String> {
        let target = self.upstream.join(sent.path()).and_then(|at| at.join(location));
        let Ok(target) = target else { return Err("something that is no address".to_owned()) };
        let (from, to) = (sent.path(), target.path());
        let differ_by_slash =
            from != to && from.strip_suffix('/').unwrap_or(from) == to.strip_suffix('/').unwrap_or(to);
        if differ_by_slash && self.is_upstream(&target) {
            return Ok(if to.ends_with('/') { SLASH } else { BARE });
        }
        Err(format!("{}{to}", target.origin().ascii_serialization()))
    }

    /// Whether an address means the upstream. Of its own it may know the Host that we send, with the scheme of
    /// `X-Forwarded-Proto`, or `X-Forwarded-Host`; whatever it says, the request goes to the configured address alone.
    fn is_upstream(&self, target: &Url) -> bool {
        let host = target.host_str();
        let by_host = host == self.upstream.host_str()
            && (target.port() == self.upstream.port() || target.port() == self.upstream.port_or_known_default());
        let by_public_url = self.public_host.as_ref().is_some_and(|(public, port)| {
            host == Some(public.as_str()) && (target.port_or_known_default() == *port || target.port() == *port)
        });
        matches!(target.scheme(), "http" | "https") && (by_host || by_public_url)
    }
}

/// Sends a request to the upstream, whose head has this target, in origin form and spelled as `spelling` has it; once more if the
/// answer is a redirect to the other spelling.
///
/// # Errors
/// See [`SendError`].
pub async fn send(
    pool: &Rc<Pool>,
    places: &Places,
    spelling: &Spelling,
    target: Uri,
    head: RequestHead,
    body: ClientBody,
) -> Result<(Response<()>, Lease), SendError> {
    if spelling.get() == UNKNOWN {
        // Boxed, because its state is large and most requests have none.
        return Box::pin(send_to_find_out(pool, places, spelling, target, head, body)).await;
    }
    let (response, lease) = pool.send(Outgoing::new(head, Replay::once(body))).await?;
    let Some(location) = redirects_to(response.status(), response.headers()) else { return Ok((response, lease)) };
    spelling.set(asked_for(places, &target, response.status(), &location)?);
    Err(SendError::Changed)
}

async fn send_to_find_out(
    pool: &Rc<Pool>,
    places: &Places,
    spelling: &Spelling,
    target: Uri,
    head: RequestHead,
    body: ClientBody,
) -> Result<(Response<()>, Lease), SendError> {
    let (body, again) = Replay::kept(body);
    let (response, lease) = pool.send(Outgoing::new(head.clone(), body)).await?;
    let Some(location) = redirects_to(response.status(), response.headers()) else {
        if response.status().is_success() {
            spelling.set(BARE);
        }
        return Ok((response, lease));
    };
    let other = asked_for(places, &target, response.status(), &location)?;
    spelling.set(other);
    let body = again.body().ok_or(SendError::Changed)?;
    // The connection may still be sending the first body.
    drop((response, lease));
    let target = respelled(&target, other == SLASH).ok_or(SendError::Changed)?;
    let (response, lease) = pool.send(Outgoing::new(head.to(&target), body)).await?;
    if redirects_to(response.status(), response.headers()).is_some() {
        spelling.set(UNKNOWN);
        return Err(SendError::Elsewhere("one spelling of its path and on from there".to_owned()));
    }
    Ok((response, lease))
}

/// The spelling that a redirect asks for, if it leaves the request as it is.
fn asked_for(places: &Places, sent: &Uri, status: StatusCode, location: &str) -> Result<u8, SendError> {
    let other = places.other_spelling(sent, location).map_err(SendError::Elsewhere)?;
    if keeps_method(status) {
        return Ok(other);
    }
    Err(SendError::Elsewhere(format!("the path's other spelling with {status}")))
}

/// A path with or without a slash at its end; the query stays.
pub fn respelled(uri: &Uri, slash: bool) -> Option<Uri> {
    let bare = uri.path().strip_suffix('/').unwrap_or(uri.path());
    let end = if slash { "/" } else { "" };
    let target = match uri.query() {
        Some(query) => format!("{bare}{end}?{query}"),
        None => format!("{bare}{end}"),
    };
    PathAndQuery::try_from(target).ok().map(Uri::from)
}

fn redirects_to(status: StatusCode, headers: &HeaderMap) -> Option<String> {
    let location = status.is_redirection().then(|| headers.get(LOCATION)).flatten()?;
    Some(String::from_utf8_lossy(location.as_bytes()).into_owned())
}

/// Whether a redirect leaves a request as it is. `301` is among them, because servers send it for a slash whatever the method
/// (Go's `ServeMux`), and nobody wants a GET in place of a message.
fn keeps_method(status: StatusCode) -> bool {
    [StatusCode::MOVED_PERMANENTLY, StatusCode::TEMPORARY_REDIRECT, StatusCode::PERMANENT_REDIRECT].contains(&status)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asks_for(upstream: &str, sent: &str, location: &str) -> Result<u8, String> {
        let places = Places::new(Url::parse(upstream).unwrap(), &"https://mcp.example.com".parse().unwrap());
        places.other_spelling(&sent.parse().unwrap(), location)
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
            assert_eq!(asks_for("http://gateway:4444", "/mcp?a=b", location), Ok(SLASH), "{location}");
        }
        assert_eq!(asks_for("http://gateway", "/mcp", "http://gateway/mcp/"), Ok(SLASH));
        assert_eq!(asks_for("http://gateway:80", "/mcp", "https://gateway:80/mcp/"), Ok(SLASH));
        assert_eq!(asks_for("http://gateway/base", "/base/mcp/", "/base/mcp"), Ok(BARE));
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
            assert!(asks_for("http://gateway:4444", "/mcp", location).is_err(), "{location}");
        }
        assert_eq!(asks_for("http://gateway", "/mcp", "/a?code=secret").unwrap_err(), "http://gateway/a");
    }
}
