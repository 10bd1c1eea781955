//! The MCP endpoints as resources, and the audiences of their tokens (RFC 8707).

use url::Url;

use super::OAuthError;
use crate::api::{PathPattern, PublicUrl};

/// The MCP endpoints of a proxy. Each concrete path is a resource; its audience is its URL without a trailing slash.
#[derive(Clone, Debug)]
pub struct Resources {
    public_url: PublicUrl,
    paths: Vec<PathPattern>,
}

impl Resources {
    pub fn new(public_url: PublicUrl, paths: Vec<PathPattern>) -> Self {
        Self { public_url, paths }
    }

    /// Returns the path of an MCP endpoint without its trailing slash; `None` for any other path.
    pub fn path<'a>(&self, path: &'a str) -> Option<&'a str> {
        let path = path.strip_suffix('/').unwrap_or(path);
        self.paths.iter().any(|pattern| pattern.matches(path)).then_some(path)
    }

    /// The first path without a wildcard.
    pub fn default_path(&self) -> &str {
        self.paths.iter().find(|pattern| pattern.is_literal()).map_or("/mcp", PathPattern::as_str)
    }

    /// The audience of tokens for a path that [`Self::path`] returned.
    pub fn audience(&self, path: &str) -> String {
        self.public_url.join(path)
    }

    /// Whether `audience` is [`Self::audience`] of `path`, without an allocation.
    pub fn is_audience(&self, audience: &str, path: &str) -> bool {
        audience.strip_prefix(self.public_url.as_str()) == Some(path)
    }

    /// Returns the audience of a `resource` parameter; the default path's if it is absent. A trailing slash and the case of
    /// scheme and host make no difference.
    pub fn resolve(&self, resource: Option<&str>) -> Result<String, OAuthError> {
        let Some(resource) = resource else {
            return Ok(self.audience(self.default_path()));
        };
        let audience = Url::parse(resource).ok().and_then(|url| {
            let own = url.origin().ascii_serialization() == self.public_url.as_str()
                && url.username().is_empty()
                && url.password().is_none()
                && url.query().is_none()
                && url.fragment().is_none();
            own.then(|| self.path(url.path()).map(|path| self.audience(path)))?
        });
        audience.ok_or_else(|| {
            OAuthError::invalid_target(format!(
                "resource is not an MCP endpoint of this server: use {}",
                self.audience(self.default_path())
            ))
        })
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn resources() -> Resources {
        let paths = ["/mcp", "/servers/*/mcp"].map(|path| path.parse().unwrap()).to_vec();
        Resources::new("https://mcp.example.com".parse().unwrap(), paths)
    }

    #[test]
    fn each_path_is_a_separate_resource() {
        for (resource, audience) in [
            (None, "https://mcp.example.com/mcp"),
            (Some("https://mcp.example.com/mcp"), "https://mcp.example.com/mcp"),
            (Some("https://mcp.example.com/mcp/"), "https://mcp.example.com/mcp"),
            (Some("HTTPS://MCP.Example.com:443/mcp"), "https://mcp.example.com/mcp"),
            (Some("https://mcp.example.com/servers/a1/mcp"), "https://mcp.example.com/servers/a1/mcp"),
        ] {
            assert_eq!(resources().resolve(resource).unwrap(), audience);
            assert!(resources().is_audience(audience, audience.strip_prefix("https://mcp.example.com").unwrap()));
            assert!(!resources().is_audience(audience, "/mcp/other"));
        }
    }

    #[test]
    fn foreign_resource_is_invalid_target_and_error_names_default_endpoint() {
        for resource in [
            "https://mcp.example.com",
            "https://mcp.example.com/other",
            "https://mcp.example.com/mcp?x=1",
            "https://mcp.example.com/mcp#x",
            "https://evil.example.com/mcp",
            "http://mcp.example.com/mcp",
            "https://mcp.example.com@evil.example.com/mcp",
            "https://user@mcp.example.com/mcp",
            "mcp",
            "",
        ] {
            let error = resources().resolve(Some(resource)).unwrap_err();
            assert_eq!(error.code, super::super::ErrorCode::InvalidTarget, "{resource}");
            assert!(error.description.contains("https://mcp.example.com/mcp"));
        }
    }
}
