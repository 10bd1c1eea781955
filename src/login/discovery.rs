//! Discovery of the authorization server of an MCP endpoint (MCP authorization, RFC 9728, RFC 8414).

use http::{Request, StatusCode, header};
use openidconnect::AccessToken;
use serde::{Deserialize, de::DeserializeOwned};
use thiserror::Error;
use url::Url;

use super::{
    challenge::Challenge,
    http::{Http, HttpError, bearer, secure_url},
};
use crate::oauth::OFFLINE_ACCESS;

/// A request without side effects that every MCP server supports. Only the status of the response is used.
const PING: &str = r#"{"jsonrpc":"2.0","id":"login","method":"ping"}"#;

/// Validated metadata of the authorization server and of the resource.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Discovered {
    pub issuer: String,
    /// The resource indicator (RFC 8707).
    pub resource: String,
    pub scope: Option<String>,
    pub authorization_endpoint: Url,
    pub token_endpoint: Url,
    pub registration_endpoint: Option<Url>,
    /// Whether authorization responses have the parameter `iss` (RFC 9207).
    pub sends_iss: bool,
}

#[derive(Debug, Error)]
pub enum DiscoveryError {
    #[error(transparent)]
    Http(#[from] HttpError),
    #[error(
        "{url} responded {status} and has no protected-resource metadata: is this the full URL of the MCP endpoint, such as \
         https://mcp.example.com/mcp? If the endpoint requires no login, connect without one"
    )]
    NoResource { url: String, status: StatusCode },
    #[error("the metadata at {url} is invalid: {message}; the server's administrator must fix it")]
    Document { url: String, message: String },
    #[error("{url} is not below {resource}, the resource in its metadata: use {resource}")]
    Resource { url: String, resource: String },
    #[error("the authorization server {issuer} has no metadata at these well-known URLs: {tried}")]
    NoServer { issuer: String, tried: String },
    /// RFC 8414 §3.3.
    #[error("the metadata at {url} has the issuer {found}, expected {expected}: possible impersonation, login refused")]
    Issuer { url: String, expected: String, found: String },
    #[error("the authorization server {0} does not advertise PKCE with S256, which a safe login requires")]
    Pkce(String),
}

/// RFC 9728 §2.
#[derive(Debug, Deserialize)]
struct ResourceMetadata {
    resource: String,
    #[serde(default)]
    authorization_servers: Vec<String>,
    #[serde(default)]
    scopes_supported: Vec<String>,
}

/// RFC 8414 §2.
#[derive(Debug, Deserialize)]
struct ServerMetadata {
    issuer: String,
    authorization_endpoint: String,
    token_endpoint: String,
    registration_endpoint: Option<String>,
    #[serde(default)]
    code_challenge_methods_supported: Vec<String>,
    #[serde(default)]
    scopes_supported: Vec<String>,
    #[serde(default)]
    authorization_response_iss_parameter_supported: bool,
}

pub async fn discover(http: &Http, url: &Url) -> Result<Discovered, DiscoveryError> {
    let (status, challenge) = probe(http, url, None).await?;
    let urls = match &challenge.resource_metadata {
        Some(url) => vec![secure_url(url)?],
        None => resource_metadata_urls(url),
    };
    let Some((location, metadata)) = fetch_first::<ResourceMetadata>(http, &urls).await? else {
        return Err(DiscoveryError::NoResource { url: url.to_string(), status });
    };
    if !covers(&metadata.resource, url) {
        return Err(DiscoveryError::Resource { url: url.to_string(), resource: metadata.resource });
    }
    let Some(issuer) = metadata.authorization_servers.first() else {
        let message = "it names no authorization server".to_owned();
        return Err(DiscoveryError::Document { url: location.into(), message });
    };
    let urls = server_metadata_urls(&secure_url(issuer)?);
    let Some((location, found)) = fetch_first::<ServerMetadata>(http, &urls).await? else {
        let tried = urls.iter().map(Url::as_str).collect::<Vec<_>>().join(", ");
        return Err(DiscoveryError::NoServer { issuer: issuer.clone(), tried });
    };
    let scope = select_scope(challenge.scope, &metadata.scopes_supported);
    validate(issuer, metadata.resource, scope.as_deref(), &location, found)
}

/// Whether the endpoint accepts the token. Only 401 means that it does not: other errors are unrelated to the token.
pub async fn accepts_token(http: &Http, url: &Url, token: &AccessToken) -> Result<bool, HttpError> {
    Ok(probe(http, url, Some(token)).await?.0 != StatusCode::UNAUTHORIZED)
}

async fn probe(http: &Http, url: &Url, token: Option<&AccessToken>) -> Result<(StatusCode, Challenge), HttpError> {
    let mut request = Request::post(url.as_str())
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::ACCEPT, "application/json, text/event-stream");
    if let Some(token) = token {
        request = request.header(header::AUTHORIZATION, bearer(token)?);
    }
    // The body may be an endless stream.
    let response = http.send_for_head(request, PING).await?;
    Ok((response.status, Challenge::of(&response.headers).unwrap_or_default()))
}

/// Fetches the first document that exists.
async fn fetch_first<T: DeserializeOwned>(http: &Http, urls: &[Url]) -> Result<Option<(Url, T)>, DiscoveryError> {
    for url in urls {
        let request = Request::get(url.as_str()).header(header::ACCEPT, "application/json");
        let response = http.send(request, "").await?;
        let invalid = |message| DiscoveryError::Document { url: url.to_string(), message };
        match response.status() {
            StatusCode::OK => {
                let document = serde_json::from_slice(response.body()).map_err(|error| invalid(error.to_string()))?;
                return Ok(Some((url.clone(), document)));
            }
            status if status.is_client_error() => {}
            status => return Err(invalid(format!("the response status is {status}"))),
        }
    }
    Ok(None)
}

fn validate(
    issuer: &str,
    resource: String,
    scope: Option<&str>,
    location: &Url,
    found: ServerMetadata,
) -> Result<Discovered, DiscoveryError> {
    if found.issuer != issuer {
        let (expected, found) = (issuer.to_owned(), found.issuer);
        return Err(DiscoveryError::Issuer { url: location.to_string(), expected, found });
    }
    if !found.code_challenge_methods_supported.iter().any(|method| method == "S256") {
        return Err(DiscoveryError::Pkce(found.issuer));
    }
    let mut scopes: Vec<_> = scope.iter().flat_map(|scope| scope.split(' ')).collect();
    if found.scopes_supported.iter().any(|scope| scope == OFFLINE_ACCESS) && !scopes.contains(&OFFLINE_ACCESS) {
        scopes.push(OFFLINE_ACCESS);
    }
    Ok(Discovered {
        scope: (!scopes.is_empty()).then(|| scopes.join(" ")),
        resource,
        authorization_endpoint: secure_url(&found.authorization_endpoint)?,
        token_endpoint: secure_url(&found.token_endpoint)?,
        registration_endpoint: found.registration_endpoint.as_deref().map(secure_url).transpose()?,
        sends_iss: found.authorization_response_iss_parameter_supported,
        issuer: found.issuer,
    })
}

/// The challenge's scope, else all supported scopes (MCP authorization, scope selection strategy).
fn select_scope(challenged: Option<String>, supported: &[String]) -> Option<String> {
    challenged.or_else(|| (!supported.is_empty()).then(|| supported.join(" ")))
}

/// Whether the endpoint is the resource or lies below it.
fn covers(resource: &str, endpoint: &Url) -> bool {
    let Ok(resource) = Url::parse(resource) else { return false };
    let rest = endpoint.path().strip_prefix(resource.path().trim_end_matches('/'));
    resource.origin() == endpoint.origin()
        && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        && resource.query().is_none_or(|query| endpoint.query() == Some(query))
}

/// The endpoint's own metadata, then that of the whole host (RFC 9728 §3.1).
fn resource_metadata_urls(endpoint: &Url) -> Vec<Url> {
    let mut urls = vec![well_known(endpoint, "oauth-protected-resource")];
    if endpoint.path() != "/" {
        let mut root = with_path(endpoint, "/.well-known/oauth-protected-resource");
        root.set_query(None);
        urls.push(root);
    }
    urls
}

/// RFC 8414 §3.1 and, last, OpenID Connect Discovery §4, which appends to the path.
fn server_metadata_urls(issuer: &Url) -> Vec<Url> {
    let appended = format!("{}/.well-known/openid-configuration", issuer.path().trim_end_matches('/'));
    let mut urls = vec![
        well_known(issuer, "oauth-authorization-server"),
        well_known(issuer, "openid-configuration"),
        with_path(issuer, &appended),
    ];
    // Without a path, the last two are equal.
    urls.dedup();
    urls
}

/// Inserts the well-known name before the path (RFC 8414 §3.1, RFC 9728 §3.1).
fn well_known(url: &Url, name: &str) -> Url {
    with_path(url, &format!("/.well-known/{name}{}", url.path().trim_end_matches('/')))
}

fn with_path(url: &Url, path: &str) -> Url {
    let mut url = url.clone();
    url.set_path(path);
    url.set_fragment(None);
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        text.parse().unwrap()
    }

    fn metadata(issuer: &str) -> ServerMetadata {
        let json = serde_json::json!({
            "issuer": issuer,
            "authorization_endpoint": "https://as.example.com/authorize",
            "token_endpoint": "https://as.example.com/token",
            "code_challenge_methods_supported": ["plain", "S256"],
        });
        serde_json::from_value(json).unwrap()
    }

    fn check(found: ServerMetadata) -> Result<Discovered, DiscoveryError> {
        let location = url("https://as.example.com/.well-known/oauth-authorization-server");
        validate("https://as.example.com", "https://mcp.example.com/mcp".to_owned(), Some("mcp"), &location, found)
    }

    #[test]
    fn well_known_url_inserts_the_name_before_the_path() {
        let text = |urls: Vec<Url>| urls.into_iter().map(String::from).collect::<Vec<_>>();
        assert_eq!(
            text(resource_metadata_urls(&url("https://mcp.example.com/servers/a/mcp"))),
            [
                "https://mcp.example.com/.well-known/oauth-protected-resource/servers/a/mcp",
                "https://mcp.example.com/.well-known/oauth-protected-resource"
            ]
        );
        assert_eq!(
            text(server_metadata_urls(&url("https://as.example.com/tenant"))),
            [
                "https://as.example.com/.well-known/oauth-authorization-server/tenant",
                "https://as.example.com/.well-known/openid-configuration/tenant",
                "https://as.example.com/tenant/.well-known/openid-configuration"
            ]
        );
        assert_eq!(
            text(server_metadata_urls(&url("https://as.example.com"))),
            [
                "https://as.example.com/.well-known/oauth-authorization-server",
                "https://as.example.com/.well-known/openid-configuration"
            ]
        );
    }

    #[test]
    fn resource_covers_itself_and_its_subpaths() {
        let endpoint = url("https://mcp.example.com/servers/a/mcp");
        for resource in [
            "https://mcp.example.com",
            "https://MCP.example.com:443/servers/",
            "https://mcp.example.com/servers/a/mcp/",
        ] {
            assert!(covers(resource, &endpoint), "{resource}");
        }
        for resource in [
            "https://mcp.example.com/serv",
            "https://mcp.example.com/servers/a/mcp/below",
            "https://evil.example.com/servers/a/mcp",
            "http://mcp.example.com/servers/a/mcp",
            "https://mcp.example.com:8443/",
            "https://mcp.example.com/?x=1",
            "",
        ] {
            assert!(!covers(resource, &endpoint), "{resource}");
        }
    }

    #[test]
    fn metadata_with_different_issuer_is_rejected() {
        assert!(check(metadata("https://as.example.com")).is_ok());
        for other in ["https://as.example.com/", "https://AS.example.com", "https://evil.example.com"] {
            assert!(matches!(check(metadata(other)), Err(DiscoveryError::Issuer { .. })), "{other}");
        }
    }

    #[test]
    fn server_without_s256_is_rejected() {
        let found = ServerMetadata {
            code_challenge_methods_supported: vec!["plain".to_owned()],
            ..metadata("https://as.example.com")
        };
        assert!(matches!(check(found), Err(DiscoveryError::Pkce(_))));
    }

    #[test]
    fn endpoints_without_tls_are_rejected() {
        let found = ServerMetadata {
            token_endpoint: "http://as.example.com/".to_owned(),
            ..metadata("https://as.example.com")
        };
        assert!(matches!(check(found), Err(DiscoveryError::Http(HttpError::Insecure(_)))));
    }

    #[test]
    fn offline_access_is_requested_if_supported() {
        assert_eq!(check(metadata("https://as.example.com")).unwrap().scope.as_deref(), Some("mcp"));
        let found = ServerMetadata {
            scopes_supported: vec!["mcp".to_owned(), OFFLINE_ACCESS.to_owned()],
            ..metadata("https://as.example.com")
        };
        assert_eq!(check(found).unwrap().scope.as_deref(), Some("mcp offline_access"));
        assert_eq!(select_scope(None, &["a".to_owned(), "b".to_owned()]).as_deref(), Some("a b"));
        assert_eq!(select_scope(Some("c".to_owned()), &["a".to_owned()]).as_deref(), Some("c"));
        assert_eq!(select_scope(None, &[]), None);
    }
}
