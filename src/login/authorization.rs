//! The authorization request and response (RFC 6749 §4.1, RFC 7636, RFC 9207).

use aws_lc_rs::constant_time::verify_slices_are_equal;
use secrecy::{ExposeSecret, SecretString};
use thiserror::Error;
use url::{Url, form_urlencoded};

use super::{discovery::Discovered, tokens::printable};
use crate::{crypto::random_token, oauth::pkce};

/// A pending authorization request.
#[derive(Debug)]
pub struct Authorization {
    pub url: Url,
    pub redirect_uri: String,
    /// The PKCE code verifier.
    pub verifier: SecretString,
    state: SecretString,
    issuer: String,
    requires_iss: bool,
}

#[derive(Debug, Error)]
pub enum AuthorizationError {
    /// The response belongs to another request, so this one is still pending.
    #[error("this response does not belong to this login: its state is different")]
    WrongState,
    /// RFC 9207 §2.4.
    #[error("the response has the issuer {found}, expected {expected}: possible impersonation, login refused")]
    WrongIssuer { expected: String, found: String },
    #[error("the login was refused: {0}")]
    Refused(String),
    #[error("the response has no code: log in again")]
    NoCode,
}

impl Authorization {
    /// Returns `None` if the system's random number generator failed.
    pub fn new(server: &Discovered, client_id: &str, port: u16) -> Option<Self> {
        Some(Self::with(server, client_id, port, random_token()?, random_token()?))
    }

    fn with(server: &Discovered, client_id: &str, port: u16, state: String, verifier: String) -> Self {
        let redirect_uri = format!("http://127.0.0.1:{port}/callback");
        let mut url = server.authorization_endpoint.clone();
        url.query_pairs_mut()
            .append_pair("response_type", "code")
            .append_pair("client_id", client_id)
            .append_pair("redirect_uri", &redirect_uri)
            .append_pair("state", &state)
            .append_pair("code_challenge", &pkce::challenge(&verifier))
            .append_pair("code_challenge_method", "S256")
            .append_pair("resource", &server.resource)
            .extend_pairs(server.scope.iter().map(|scope| ("scope", scope)));
        Self {
            url,
            redirect_uri,
            verifier: verifier.into(),
            state: state.into(),
            issuer: server.issuer.clone(),
            requires_iss: server.sends_iss,
        }
    }

    /// Validates the query of the redirect and returns the authorization code.
    pub fn code(&self, query: &str) -> Result<SecretString, AuthorizationError> {
        let get = |name: &str| {
            form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
        };
        let state = get("state").unwrap_or_default();
        verify_slices_are_equal(state.as_bytes(), self.state.expose_secret().as_bytes())
            .map_err(|_| AuthorizationError::WrongState)?;
        let issuer = get("iss");
        if issuer.as_ref().map_or(self.requires_iss, |issuer| *issuer != self.issuer) {
            let found = issuer.as_deref().map_or_else(|| "(missing)".to_owned(), printable);
            return Err(AuthorizationError::WrongIssuer { expected: self.issuer.clone(), found });
        }
        if let Some(error) = get("error") {
            let description = get("error_description").map(|text| format!(" ({})", printable(&text)));
            return Err(AuthorizationError::Refused(printable(&error) + &description.unwrap_or_default()));
        }
        get("code").filter(|code| !code.is_empty()).map(SecretString::from).ok_or(AuthorizationError::NoCode)
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    // RFC 7636, appendix B.
    const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
    const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";

    /// The issuer is https://as.example.com and the state `the-state`.
    pub fn authorization(port: u16) -> Authorization {
        let server = Discovered {
            issuer: "https://as.example.com".to_owned(),
            resource: "https://mcp.example.com/mcp".to_owned(),
            scope: Some("mcp offline_access".to_owned()),
            authorization_endpoint: "https://as.example.com/authorize?tenant=1".parse().unwrap(),
            token_endpoint: "https://as.example.com/token".parse().unwrap(),
            registration_endpoint: None,
            sends_iss: true,
        };
        Authorization::with(&server, "the-client", port, "the-state".to_owned(), VERIFIER.to_owned())
    }

    #[test]
    fn authorization_request_has_the_parameters_of_oauth_2_1_and_mcp() {
        let url = authorization(4711).url;
        let pairs: Vec<_> = url.query_pairs().into_owned().collect();
        let expected = [
            ("tenant", "1"),
            ("response_type", "code"),
            ("client_id", "the-client"),
            ("redirect_uri", "http://127.0.0.1:4711/callback"),
            ("state", "the-state"),
            ("code_challenge", CHALLENGE),
            ("code_challenge_method", "S256"),
            ("resource", "https://mcp.example.com/mcp"),
            ("scope", "mcp offline_access"),
        ];
        assert_eq!(pairs, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }

    #[test]
    fn code_is_accepted_only_with_matching_state_and_issuer() {
        let login = authorization(1);
        let code = login.code("code=c&state=the-state&iss=https%3A%2F%2Fas.example.com").unwrap();
        assert_eq!(code.expose_secret(), "c");
        for query in ["", "code=c", "code=c&state=", "code=c&state=other&iss=https%3A%2F%2Fas.example.com"] {
            assert!(matches!(login.code(query), Err(AuthorizationError::WrongState)), "{query}");
        }
        for query in ["code=c&state=the-state", "code=c&state=the-state&iss=https%3A%2F%2Fas.example.com%2F"] {
            assert!(matches!(login.code(query), Err(AuthorizationError::WrongIssuer { .. })), "{query}");
        }
        // RFC 9207 §2.4: a server that does not advertise `iss` may omit it, but may not send another issuer.
        let without_iss = Authorization { requires_iss: false, ..authorization(1) };
        assert!(without_iss.code("code=c&state=the-state").is_ok());
        assert!(without_iss.code("code=c&state=the-state&iss=https%3A%2F%2Fevil.example.com").is_err());
    }

    #[test]
    fn server_error_description_is_shown() {
        let query = "error=access_denied&error_description=not+you%1B&state=the-state&iss=https%3A%2F%2Fas.example.com";
        let refused = authorization(1).code(query).unwrap_err();
        assert_eq!(refused.to_string(), "the login was refused: access_denied (not you)");
        let empty = "code=&state=the-state&iss=https%3A%2F%2Fas.example.com";
        assert!(matches!(authorization(1).code(empty), Err(AuthorizationError::NoCode)));
    }

    #[test]
    fn state_and_verifier_are_random_and_hidden_from_debug() {
        let (one, other) = (random_token().unwrap(), random_token().unwrap());
        assert!(one.len() == 43 && one != other);
        assert!(!format!("{:?}", authorization(1)).contains(VERIFIER));
    }
}
