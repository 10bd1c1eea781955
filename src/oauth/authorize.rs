//! The authorization request (RFC 6749 §4.1.1).

use serde::{Deserialize, Serialize};

use super::{
    OAuthError, OFFLINE_ACCESS, client_id_hash, client_registry::ResolvedClient, parameters::Parameters, pkce,
    redirect_uri, resource::Resources,
};
use crate::api::{SessionClient, proxy::Redirects};

/// A checked authorization request. It is sealed into the consent form and, once approved, into a cookie.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct AuthorizationRequest {
    #[serde(rename = "n")]
    pub client_name: String,
    #[serde(rename = "c")]
    pub client_id_hash: String,
    #[serde(rename = "r")]
    pub redirect_uri: String,
    #[serde(rename = "s", default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// The PKCE challenge, S256.
    #[serde(rename = "p")]
    pub challenge: String,
    /// The audience of the tokens.
    #[serde(rename = "a")]
    pub resource: String,
    /// Whether the client gets refresh tokens.
    #[serde(rename = "f")]
    pub refreshes: bool,
}

impl AuthorizationRequest {
    pub fn session_client(&self) -> SessionClient {
        SessionClient {
            name: self.client_name.clone(),
            id_hash: self.client_id_hash.clone(),
            redirect_host: redirect_uri::host(&self.redirect_uri),
        }
    }
}

/// Why an authorization request is refused, by where the error is reported.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum AuthorizationError {
    /// On a page: the redirect URI is not proven to be the client's (RFC 6749 §4.1.2.1).
    Page(OAuthError),
    /// By a redirect to the client.
    Redirect { redirect_uri: String, state: Option<String>, error: OAuthError },
}

impl From<OAuthError> for AuthorizationError {
    fn from(error: OAuthError) -> Self {
        Self::Page(error)
    }
}

pub fn check(
    query: &Parameters,
    resolved: &ResolvedClient,
    rules: &Redirects,
    resources: &Resources,
) -> Result<AuthorizationRequest, AuthorizationError> {
    let (client, client_id) = (resolved.client(), query.required("client_id")?);
    let redirect_uri = match (query.get("redirect_uri"), client.redirect_uris.as_slice()) {
        (Some(requested), _) if client.allows(requested) => requested,
        (None, [only]) => only.as_str(),
        (Some(_), _) => {
            return Err(OAuthError::invalid_request("redirect_uri is not registered for this client").into());
        }
        (None, _) => return Err(OAuthError::missing("redirect_uri").into()),
    };
    if !matches!(resolved, ResolvedClient::Static(_)) {
        // The rules may have become stricter since the registration.
        redirect_uri::check(redirect_uri, rules).map_err(OAuthError::invalid_request)?;
    }
    let state = query.get("state").map(str::to_owned);
    let refuse =
        |error| AuthorizationError::Redirect { redirect_uri: redirect_uri.to_owned(), state: state.clone(), error };
    if let Some(name) = &query.repeated {
        return Err(refuse(if name == "resource" {
            OAuthError::invalid_target("only one resource can be requested at a time")
        } else {
            OAuthError::invalid_request("a parameter must not be repeated")
        }));
    }
    match query.get("response_type") {
        Some("code") => {}
        Some(_) => return Err(refuse(OAuthError::unsupported_response_type("response_type must be code"))),
        None => return Err(refuse(OAuthError::invalid_request("response_type is missing: it must be code"))),
    }
    let (challenge, method) = (query.get("code_challenge"), query.get("code_challenge_method"));
    let scopes = query.get("scope").unwrap_or_default();
    Ok(AuthorizationRequest {
        client_name: client.name.clone(),
        client_id_hash: client_id_hash(client_id),
        redirect_uri: redirect_uri.to_owned(),
        challenge: pkce::check_challenge(challenge, method).map_err(refuse)?,
        resource: resources.resolve(query.get("resource")).map_err(refuse)?,
        refreshes: client.refreshes || scopes.split(' ').any(|scope| scope == OFFLINE_ACCESS),
        state,
    })
}

#[cfg(test)]
pub mod tests {
    use serde_json::json;
    use url::form_urlencoded;

    use super::super::{
        ErrorCode,
        client::{Client, tests::register},
        resource::tests::resources,
    };
    use super::*;
    use crate::testing::keyring;

    pub const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";

    fn client() -> Client {
        register(&json!({"client_name": "Test", "redirect_uris": ["http://localhost/callback"], "token_endpoint_auth_method": "none"}))
            .unwrap()
    }

    fn query(changes: &[(&str, Option<&str>)]) -> Vec<(String, String)> {
        let mut query: Vec<(String, String)> = [
            ("response_type", "code"),
            ("client_id", &client().id(&keyring()).unwrap()),
            ("redirect_uri", "http://localhost:1234/callback"),
            ("state", "client-state"),
            ("code_challenge", CHALLENGE),
            ("code_challenge_method", "S256"),
            ("resource", "https://mcp.example.com/mcp"),
            ("prompt", "consent"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec();
        for (name, value) in changes {
            query.retain(|(known, _)| known != name);
            query.extend(value.map(|value| ((*name).to_owned(), value.to_owned())));
        }
        query
    }

    fn parse(query: &[(String, String)]) -> Parameters {
        Parameters::parse(form_urlencoded::Serializer::new(String::new()).extend_pairs(query).finish().as_bytes())
    }

    fn check(query: &[(String, String)]) -> Result<AuthorizationRequest, AuthorizationError> {
        super::check(&parse(query), &ResolvedClient::Registered(client()), &Redirects::default(), &resources())
    }

    #[test]
    fn valid_authorization_request_is_parsed() {
        let request = check(&query(&[])).unwrap();
        assert_eq!(request.redirect_uri, "http://localhost:1234/callback");
        assert_eq!(request.resource, "https://mcp.example.com/mcp");
        assert_eq!(request.session_client().redirect_host, "localhost");
    }

    #[test]
    fn a8_unregistered_redirect_uri_is_never_redirected_to() {
        for changes in [
            [("client_id", None)],
            [("redirect_uri", Some("https://evil.example.com/"))],
            [("redirect_uri", Some("http://localhost:1234/other"))],
        ] {
            assert!(matches!(check(&query(&changes)), Err(AuthorizationError::Page(_))), "{changes:?}");
        }
    }

    #[test]
    fn static_client_redirect_uri_is_exempt_from_redirect_rules() {
        let elsewhere = Client { redirect_uris: vec!["https://chat.internal/callback".to_owned()], ..client() };
        let query = query(&[("redirect_uri", Some("https://chat.internal/callback"))]);
        let check = |client| super::check(&parse(&query), &client, &Redirects::default(), &resources());
        assert!(check(ResolvedClient::Static(elsewhere.clone())).is_ok());
        assert!(matches!(check(ResolvedClient::Registered(elsewhere)), Err(AuthorizationError::Page(_))));
    }

    #[test]
    fn authorization_errors_are_redirected_to_client_with_state() {
        for (changes, expected) in [
            ([("response_type", Some("token"))], ErrorCode::UnsupportedResponseType),
            ([("response_type", None)], ErrorCode::InvalidRequest),
            ([("code_challenge", None)], ErrorCode::InvalidRequest),
            ([("code_challenge_method", Some("plain"))], ErrorCode::InvalidRequest),
            ([("resource", Some("https://evil.example.com/mcp"))], ErrorCode::InvalidTarget),
        ] {
            let Err(AuthorizationError::Redirect { redirect_uri, state, error }) = check(&query(&changes)) else {
                panic!("{changes:?}")
            };
            assert_eq!(error.code, expected, "{changes:?}");
            assert_eq!(redirect_uri, "http://localhost:1234/callback");
            assert_eq!(state.as_deref(), Some("client-state"));
        }
        let mut twice = query(&[]);
        twice.push(("resource".to_owned(), "https://mcp.example.com/servers/a/mcp".to_owned()));
        assert!(
            matches!(check(&twice), Err(AuthorizationError::Redirect { error, .. }) if error.code == ErrorCode::InvalidTarget)
        );
    }

    #[test]
    fn missing_resource_defaults_to_first_path() {
        assert_eq!(check(&query(&[("resource", None)])).unwrap().resource, "https://mcp.example.com/mcp");
    }
}
