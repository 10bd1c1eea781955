//! The authorization request (RFC 6749 §4.1.1): what a client asks for before a person is asked.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::{
    OAuthError, OFFLINE_ACCESS, SCOPE, client_id_hash, known_clients::Asking, pkce, redirect_uri, resource::Resources,
};
use crate::api::{SessionClient, proxy::Redirects};

/// A checked authorization request. It is sealed into the consent form and, once approved, into a cookie.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct AuthorizationRequest {
    /// The client's name.
    #[serde(rename = "n")]
    pub client_name: String,
    /// SHA-256 of its id.
    #[serde(rename = "c")]
    pub client_id_hash: String,
    /// Where the browser goes in the end.
    #[serde(rename = "r")]
    pub redirect_uri: String,
    /// The client's own state.
    #[serde(rename = "s", default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// The S256 challenge.
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
    /// The client, as sessions remember it.
    pub fn session_client(&self) -> SessionClient {
        SessionClient {
            name: self.client_name.clone(),
            id_hash: self.client_id_hash.clone(),
            redirect_host: redirect_uri::host(&self.redirect_uri),
        }
    }
}

/// What cannot be granted, and to whom it is said.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Refusal {
    /// To the person, on a page: nothing says that the redirect URI is the client's (RFC 6749 §4.1.2.1).
    Page(OAuthError),
    /// To the client, by its redirect URI.
    Redirect {
        /// The client's redirect URI, which it registered.
        redirect_uri: String,
        /// The client's state.
        state: Option<String>,
        /// What is wrong.
        error: OAuthError,
    },
}

/// The parameters of an authorization request.
pub struct Query<'a> {
    parameters: HashMap<&'a str, &'a str>,
    repeated: Option<&'a str>,
}

impl<'a> Query<'a> {
    /// Gathers them.
    pub fn new(pairs: &'a [(String, String)]) -> Self {
        let (mut parameters, mut repeated) = (HashMap::new(), None);
        for (name, value) in pairs {
            // RFC 6749 §3.1: an empty value is as if it were left out.
            if !value.is_empty() && parameters.insert(name.as_str(), value.as_str()).is_some() {
                repeated = Some(name.as_str());
            }
        }
        Self { parameters, repeated }
    }

    /// Which client asks. It decides where errors go, so it comes first.
    ///
    /// # Errors
    /// On a page: nobody can be told otherwise.
    pub fn client_id(&self) -> Result<&'a str, Refusal> {
        self.get("client_id").ok_or_else(|| Refusal::Page(OAuthError::invalid_request("client_id is missing")))
    }

    fn get(&self, name: &str) -> Option<&'a str> {
        self.parameters.get(name).copied()
    }
}

/// Checks what a client asks for.
///
/// # Errors
/// Whom to tell what.
pub fn check(
    query: &Query<'_>,
    asking: &Asking,
    rules: &Redirects,
    resources: &Resources,
) -> Result<AuthorizationRequest, Refusal> {
    let (client, client_id) = (asking.client(), query.client_id()?);
    let get = |name: &str| query.get(name);
    let redirect_uri = match (get("redirect_uri"), client.redirect_uris.as_slice()) {
        (Some(requested), _) if client.allows(requested) => requested,
        (None, [only]) => only.as_str(),
        (Some(_), _) => {
            return Err(Refusal::Page(OAuthError::invalid_request(
                "redirect_uri is not one that the client registered",
            )));
        }
        (None, _) => return Err(Refusal::Page(OAuthError::invalid_request("redirect_uri is missing"))),
    };
    if !matches!(asking, Asking::Listed(_)) {
        // The rules may have become stricter since the client registered.
        redirect_uri::check(redirect_uri, rules).map_err(|why| Refusal::Page(OAuthError::invalid_request(why)))?;
    }
    let state = get("state").map(str::to_owned);
    let refuse = |error| Refusal::Redirect { redirect_uri: redirect_uri.to_owned(), state: state.clone(), error };
    if let Some(name) = query.repeated {
        return Err(refuse(if name == "resource" {
            OAuthError::invalid_target("one resource at a time: ask for each endpoint by itself")
        } else {
            OAuthError::invalid_request("a parameter may be sent once only")
        }));
    }
    match get("response_type") {
        Some("code") => {}
        Some(_) => return Err(refuse(OAuthError::unsupported_response_type("response_type must be code"))),
        None => return Err(refuse(OAuthError::invalid_request("response_type is missing: it must be code"))),
    }
    let challenge = pkce::check_challenge(get("code_challenge"), get("code_challenge_method")).map_err(refuse)?;
    let resource = resources.resolve(get("resource")).map_err(refuse)?;
    Ok(AuthorizationRequest {
        client_name: client.name.clone(),
        client_id_hash: client_id_hash(client_id),
        redirect_uri: redirect_uri.to_owned(),
        state: state.clone(),
        challenge,
        resource,
        refreshes: client.refreshes
            || get("scope").is_some_and(|scope| scope.split(' ').any(|scope| scope == OFFLINE_ACCESS)),
    })
}

/// The scopes that every request is narrowed to.
pub fn granted_scopes() -> Vec<String> {
    vec![SCOPE.to_owned()]
}

#[cfg(test)]
pub mod tests {
    use serde_json::json;

    use super::super::{
        ErrorCode,
        client::{Client, tests::register},
        resource::tests::resources,
    };
    use super::*;
    use crate::crypto::testing::keyring;

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

    fn check(query: &[(String, String)]) -> Result<AuthorizationRequest, Refusal> {
        super::check(&Query::new(query), &Asking::Registered(client()), &Redirects::default(), &resources())
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
            assert!(matches!(check(&query(&changes)), Err(Refusal::Page(_))), "{changes:?}");
        }
    }

    #[test]
    fn listed_client_redirect_uri_is_exempt_from_redirect_rules() {
        let elsewhere = Client { redirect_uris: vec!["https://chat.internal/callback".to_owned()], ..client() };
        let query = query(&[("redirect_uri", Some("https://chat.internal/callback"))]);
        let check = |asking| super::check(&Query::new(&query), &asking, &Redirects::default(), &resources());
        assert!(check(Asking::Listed(elsewhere.clone())).is_ok());
        assert!(matches!(check(Asking::Registered(elsewhere)), Err(Refusal::Page(_))));
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
            let Err(Refusal::Redirect { redirect_uri, state, error }) = check(&query(&changes)) else {
                panic!("{changes:?}")
            };
            assert_eq!(error.code, expected, "{changes:?}");
            assert_eq!(redirect_uri, "http://localhost:1234/callback");
            assert_eq!(state.as_deref(), Some("client-state"));
        }
        let mut twice = query(&[]);
        twice.push(("resource".to_owned(), "https://mcp.example.com/servers/a/mcp".to_owned()));
        assert!(
            matches!(check(&twice), Err(Refusal::Redirect { error, .. }) if error.code == ErrorCode::InvalidTarget)
        );
    }

    #[test]
    fn missing_resource_defaults_to_first_path() {
        assert_eq!(check(&query(&[("resource", None)])).unwrap().resource, "https://mcp.example.com/mcp");
    }
}
