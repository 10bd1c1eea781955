//! From the URL of an MCP endpoint to the authorization server before it (MCP authorization, RFC 9728, RFC 8414).

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::Full;
use serde::{Deserialize, de::DeserializeOwned};
use thiserror::Error;
use url::Url;

use super::{
    challenge::Challenge,
    http::{Http, HttpError, bearer, secure},
};

/// A message that any MCP server answers and that changes nothing: asked for the status of its answer.
const PING: &str = r#"{"jsonrpc":"2.0","id":"login","method":"ping"}"#;

/// What asks for a refresh token where a server's metadata names it (OpenID Connect Core §11).
const OFFLINE_ACCESS: &str = "offline_access";

/// The authorization server before an MCP endpoint, checked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Server {
    /// Its name, byte for byte.
    pub issuer: String,
    /// What the endpoint calls itself: tokens are asked for this (RFC 8707).
    pub resource: String,
    /// What to ask for, separated by spaces.
    pub scope: Option<String>,
    /// Where the person is sent.
    pub authorization_endpoint: Url,
    /// Where tokens are given.
    pub token_endpoint: Url,
    /// Where clients register themselves.
    pub registration_endpoint: Option<Url>,
    /// Whether it says who it is in its answers (RFC 9207).
    pub answers_with_iss: bool,
}

/// Why it is not known where to log in.
#[derive(Debug, Error)]
pub enum DiscoveryError {
    /// Somebody did not answer.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// No metadata of the endpoint anywhere.
    #[error(
        "{url} does not say where to log in (it answered {status}, and there is no protected-resource metadata): is it the \
         MCP endpoint's whole URL, such as https://mcp.example.com/mcp? If it needs no login, connect without"
    )]
    NoResource {
        /// The endpoint.
        url: String,
        /// What it answered without a token.
        status: StatusCode,
    },
    /// A document that is not one.
    #[error("{url} cannot be read: {message}; whoever runs the server must mend it")]
    Document {
        /// The document.
        url: String,
        /// What is wrong.
        message: String,
    },
    /// The metadata is that of another endpoint.
    #[error("{url} is not part of {resource}, for which its metadata speaks: use {resource}")]
    Resource {
        /// The endpoint.
        url: String,
        /// What the metadata says.
        resource: String,
    },
    /// No authorization server's metadata anywhere.
    #[error("the authorization server {issuer} has no metadata at any of the well-known places: {looked}")]
    NoServer {
        /// Its name.
        issuer: String,
        /// The addresses that were tried.
        looked: String,
    },
    /// RFC 8414 §3.3.
    #[error(
        "the metadata at {url} is that of {found}, not of {expected}: somebody may be impersonating it, so no login"
    )]
    Issuer {
        /// The document.
        url: String,
        /// Who it should be.
        expected: String,
        /// Who it says to be.
        found: String,
    },
    /// MCP refuses a server without PKCE.
    #[error("the authorization server {0} does not say that it does PKCE with S256, so no login there is safe")]
    Pkce(String),
}

/// The members of RFC 9728 §2 that are read.
#[derive(Debug, Deserialize)]
struct ResourceMetadata {
    resource: String,
    #[serde(default)]
    authorization_servers: Vec<String>,
    #[serde(default)]
    scopes_supported: Vec<String>,
}

/// The members of RFC 8414 §2 that are read.
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

/// Finds the authorization server of an endpoint.
///
/// # Errors
/// Who did not answer, or what is wrong with the answer.
pub async fn discover(http: &Http, url: &Url) -> Result<Server, DiscoveryError> {
    let (status, challenge) = ask(http, url, None).await?;
    let challenge = challenge.unwrap_or_default();
    let places = match &challenge.resource_metadata {
        Some(place) => vec![secure(place)?],
        None => well_known(url, "oauth-protected-resource", true),
    };
    let Some((place, metadata)) = first::<ResourceMetadata>(http, &places).await? else {
        return Err(DiscoveryError::NoResource { url: url.to_string(), status });
    };
    if !covers(&metadata.resource, url) {
        return Err(DiscoveryError::Resource { url: url.to_string(), resource: metadata.resource });
    }
    let Some(issuer) = metadata.authorization_servers.first() else {
        return Err(DiscoveryError::Document {
            url: place.into(),
            message: "it names no authorization server".to_owned(),
        });
    };
    let issuer_url = secure(issuer)?;
    let mut places = well_known(&issuer_url, "oauth-authorization-server", false);
    places.extend(well_known(&issuer_url, "openid-configuration", false));
    places.extend(appended(&issuer_url));
    let Some((place, found)) = first::<ServerMetadata>(http, &places).await? else {
        let looked = places.iter().map(Url::as_str).collect::<Vec<_>>().join(", ");
        return Err(DiscoveryError::NoServer { issuer: issuer.clone(), looked });
    };
    checked(issuer, metadata.resource, scope(challenge.scope, &metadata.scopes_supported), &place, found)
}

/// Whether the endpoint takes this token. A server that is not there, or has trouble of its own, does not refuse it.
///
/// # Errors
/// When there is no answer.
pub async fn takes(http: &Http, url: &Url, token: &str) -> Result<bool, HttpError> {
    Ok(ask(http, url, Some(token)).await?.0 != StatusCode::UNAUTHORIZED)
}

/// The status that the endpoint gives to a message, and what it asks for instead.
async fn ask(http: &Http, url: &Url, token: Option<&str>) -> Result<(StatusCode, Option<Challenge>), HttpError> {
    let mut request = Request::post(url.as_str())
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::ACCEPT, "application/json, text/event-stream");
    if let Some(token) = token {
        request = request.header(header::AUTHORIZATION, bearer(token)?);
    }
    // Its body may be a stream, and is not needed.
    let answer = http.head_of(request.body(Full::from(PING))?).await?;
    Ok((answer.status, Challenge::of(&answer.headers)))
}

/// The first document that is there.
async fn first<T: DeserializeOwned>(http: &Http, places: &[Url]) -> Result<Option<(Url, T)>, DiscoveryError> {
    for place in places {
        let request = Request::get(place.as_str()).header(header::ACCEPT, "application/json");
        let answer = http.exchange(request.body(Full::<Bytes>::default()).map_err(HttpError::from)?).await?;
        match answer.status() {
            StatusCode::OK => {
                let document = serde_json::from_slice(answer.body())
                    .map_err(|error| DiscoveryError::Document { url: place.to_string(), message: error.to_string() })?;
                return Ok(Some((place.clone(), document)));
            }
            status if status.is_client_error() => {}
            status => {
                let message = format!("the answer is {status}");
                return Err(DiscoveryError::Document { url: place.to_string(), message });
            }
        }
    }
    Ok(None)
}

fn checked(
    issuer: &str,
    resource: String,
    scope: Option<String>,
    place: &Url,
    found: ServerMetadata,
) -> Result<Server, DiscoveryError> {
    if found.issuer != issuer {
        let (expected, found) = (issuer.to_owned(), found.issuer);
        return Err(DiscoveryError::Issuer { url: place.to_string(), expected, found });
    }
    if !found.code_challenge_methods_supported.iter().any(|method| method == "S256") {
        return Err(DiscoveryError::Pkce(found.issuer));
    }
    let offline = found.scopes_supported.iter().any(|scope| scope == OFFLINE_ACCESS);
    Ok(Server {
        scope: if offline { Some(with_offline_access(scope)) } else { scope },
        resource,
        authorization_endpoint: secure(&found.authorization_endpoint)?,
        token_endpoint: secure(&found.token_endpoint)?,
        registration_endpoint: found.registration_endpoint.as_deref().map(secure).transpose()?,
        answers_with_iss: found.authorization_response_iss_parameter_supported,
        issuer: found.issuer,
    })
}

/// What the challenge asks for, else all that the endpoint knows (MCP authorization, scope selection).
fn scope(challenged: Option<String>, supported: &[String]) -> Option<String> {
    challenged.or_else(|| (!supported.is_empty()).then(|| supported.join(" ")))
}

fn with_offline_access(scope: Option<String>) -> String {
    match scope {
        Some(scope) if scope.split(' ').any(|one| one == OFFLINE_ACCESS) => scope,
        Some(scope) => format!("{scope} {OFFLINE_ACCESS}"),
        None => OFFLINE_ACCESS.to_owned(),
    }
}

/// Whether a resource is the endpoint or a folder above it.
fn covers(resource: &str, url: &Url) -> bool {
    let Ok(resource) = Url::parse(resource) else { return false };
    let folder = resource.path().trim_end_matches('/');
    let below = url.path().strip_prefix(folder);
    resource.origin() == url.origin()
        && below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        && resource.query().is_none_or(|query| url.query() == Some(query))
}

/// Where a URL's document of that name is: its path comes after the name (RFC 8414 §3.1, RFC 9728 §3.1). With `root`, the
/// document of the whole host comes second.
fn well_known(url: &Url, name: &str, root: bool) -> Vec<Url> {
    let at = |path: &str| {
        let mut place = url.clone();
        place.set_path(&format!("/.well-known/{name}{path}"));
        place.set_fragment(None);
        place
    };
    let path = url.path().trim_end_matches('/');
    let mut places = vec![at(path)];
    if root && !path.is_empty() {
        let mut place = at("");
        place.set_query(None);
        places.push(place);
    }
    places
}

/// The place of OpenID Connect Discovery §4, which comes after the issuer's path.
fn appended(issuer: &Url) -> Option<Url> {
    let path = issuer.path().trim_end_matches('/');
    let mut place = issuer.clone();
    place.set_path(&format!("{path}/.well-known/openid-configuration"));
    (!path.is_empty()).then_some(place)
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

    fn check(found: ServerMetadata) -> Result<Server, DiscoveryError> {
        let place = url("https://as.example.com/.well-known/oauth-authorization-server");
        checked(
            "https://as.example.com",
            "https://mcp.example.com/mcp".to_owned(),
            Some("mcp".to_owned()),
            &place,
            found,
        )
    }

    #[test]
    fn well_known_url_inserts_the_name_before_the_path() {
        let places = |found: Vec<Url>| found.into_iter().map(String::from).collect::<Vec<_>>();
        assert_eq!(
            places(well_known(&url("https://mcp.example.com/servers/a/mcp"), "oauth-protected-resource", true)),
            [
                "https://mcp.example.com/.well-known/oauth-protected-resource/servers/a/mcp",
                "https://mcp.example.com/.well-known/oauth-protected-resource"
            ]
        );
        let issuer = url("https://as.example.com/tenant");
        assert_eq!(
            places(well_known(&issuer, "oauth-authorization-server", false)),
            ["https://as.example.com/.well-known/oauth-authorization-server/tenant"]
        );
        assert_eq!(appended(&issuer), Some(url("https://as.example.com/tenant/.well-known/openid-configuration")));
        assert_eq!(appended(&url("https://as.example.com")), None);
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
        assert_eq!(scope(None, &["a".to_owned(), "b".to_owned()]).as_deref(), Some("a b"));
        assert_eq!(scope(Some("c".to_owned()), &["a".to_owned()]).as_deref(), Some("c"));
        assert_eq!(scope(None, &[]), None);
    }
}
