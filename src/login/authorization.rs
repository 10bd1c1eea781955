//! The request that a person takes to the authorization server, and the check of the answer they come back with.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use secrecy::{ExposeSecret, SecretString};
use thiserror::Error;
use url::{Url, form_urlencoded};

use super::{discovery::Server, tokens::said};
use crate::{crypto::random_token, oauth::pkce};

/// A login that waits for its answer.
#[derive(Debug)]
pub struct Authorization {
    /// What to open in a browser.
    pub url: Url,
    /// Where the browser is sent back to.
    pub redirect_uri: String,
    /// PKCE (RFC 7636): shown with the code, and to nobody before.
    pub verifier: SecretString,
    state: SecretString,
    issuer: String,
    answers_with_iss: bool,
}

/// Why an answer brings no code.
#[derive(Debug, Error)]
pub enum AnswerError {
    /// It belongs to another login, or to none. The wait goes on.
    #[error("this is not the answer to this login: its state is another one")]
    Foreign,
    /// RFC 9207 §2.4: another server's answer.
    #[error("the answer is not from {expected} but from {found}: somebody may be impersonating it, so no login")]
    Issuer {
        /// Who was asked.
        expected: String,
        /// Who answered.
        found: String,
    },
    /// The server or the person said no.
    #[error("the login was refused: {0}")]
    Refused(String),
    /// Neither a code nor an error.
    #[error("the answer has no code: log in again")]
    NoCode,
}

/// The system gave no randomness.
#[derive(Debug, Error)]
#[error("the system gives no randomness")]
pub struct NoRandomness;

impl Authorization {
    /// A login at a server for a client whose browser is sent back to this port of this machine.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub fn new(server: &Server, client_id: &str, port: u16) -> Result<Self, NoRandomness> {
        Ok(Self::with(
            server,
            client_id,
            port,
            random_token().ok_or(NoRandomness)?,
            random_token().ok_or(NoRandomness)?,
        ))
    }

    fn with(server: &Server, client_id: &str, port: u16, state: String, verifier: String) -> Self {
        let redirect_uri = format!("http://127.0.0.1:{port}/callback");
        let challenge = pkce::challenge(&verifier);
        let mut url = server.authorization_endpoint.clone();
        url.query_pairs_mut()
            .append_pair("response_type", "code")
            .append_pair("client_id", client_id)
            .append_pair("redirect_uri", &redirect_uri)
            .append_pair("state", &state)
            .append_pair("code_challenge", &challenge)
            .append_pair("code_challenge_method", "S256")
            .append_pair("resource", &server.resource)
            .extend_pairs(server.scope.iter().map(|scope| ("scope", scope)));
        Self {
            url,
            redirect_uri,
            verifier: verifier.into(),
            state: state.into(),
            issuer: server.issuer.clone(),
            answers_with_iss: server.answers_with_iss,
        }
    }

    /// The code in the query that the browser came back with.
    ///
    /// # Errors
    /// Why there is none. [`AnswerError::Foreign`] says nothing of this login.
    pub fn code(&self, query: &str) -> Result<SecretString, AnswerError> {
        let get = |name: &str| {
            form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
        };
        let state = get("state").unwrap_or_default();
        verify_slices_are_equal(state.as_bytes(), self.state.expose_secret().as_bytes())
            .map_err(|_| AnswerError::Foreign)?;
        let issuer = get("iss");
        if issuer.as_ref().map_or(self.answers_with_iss, |issuer| *issuer != self.issuer) {
            let found = issuer.as_deref().map_or_else(|| "a server that does not say who it is".to_owned(), said);
            return Err(AnswerError::Issuer { expected: self.issuer.clone(), found });
        }
        if let Some(error) = get("error") {
            let description = get("error_description").map(|words| format!(" ({})", said(&words))).unwrap_or_default();
            return Err(AnswerError::Refused(said(&error) + &description));
        }
        get("code").filter(|code| !code.is_empty()).map(SecretString::from).ok_or(AnswerError::NoCode)
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    // RFC 7636, appendix B.
    const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
    const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";

    /// A login with the state `the-state` at https://as.example.com.
    pub fn authorization(port: u16) -> Authorization {
        let server = Server {
            issuer: "https://as.example.com".to_owned(),
            resource: "https://mcp.example.com/mcp".to_owned(),
            scope: Some("mcp offline_access".to_owned()),
            authorization_endpoint: "https://as.example.com/authorize?tenant=1".parse().unwrap(),
            token_endpoint: "https://as.example.com/token".parse().unwrap(),
            registration_endpoint: None,
            answers_with_iss: true,
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
        for foreign in ["", "code=c", "code=c&state=", "code=c&state=other&iss=https%3A%2F%2Fas.example.com"] {
            assert!(matches!(login.code(foreign), Err(AnswerError::Foreign)), "{foreign}");
        }
        for query in ["code=c&state=the-state", "code=c&state=the-state&iss=https%3A%2F%2Fas.example.com%2F"] {
            assert!(matches!(login.code(query), Err(AnswerError::Issuer { .. })), "{query}");
        }
        // RFC 9207 §2.4: a server that does not promise it may leave it out, but not name another.
        let silent = Authorization { answers_with_iss: false, ..authorization(1) };
        assert!(silent.code("code=c&state=the-state").is_ok());
        assert!(silent.code("code=c&state=the-state&iss=https%3A%2F%2Fevil.example.com").is_err());
    }

    #[test]
    fn server_error_description_is_shown() {
        let query = "error=access_denied&error_description=not+you%1B&state=the-state&iss=https%3A%2F%2Fas.example.com";
        let refused = authorization(1).code(query).unwrap_err();
        assert_eq!(refused.to_string(), "the login was refused: access_denied (not you)");
        let empty = "code=&state=the-state&iss=https%3A%2F%2Fas.example.com";
        assert!(matches!(authorization(1).code(empty), Err(AnswerError::NoCode)));
    }

    #[test]
    fn state_and_verifier_are_random_and_hidden_from_debug() {
        let (one, other) = (random_token().unwrap(), random_token().unwrap());
        assert!(one.len() == 43 && one != other);
        assert!(!format!("{:?}", authorization(1)).contains(VERIFIER));
    }
}
