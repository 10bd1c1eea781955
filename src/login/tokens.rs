//! The token endpoint (RFC 6749 §4.1.3, §6) and client registration (RFC 7591), for a public client.

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use jiff::{SignedDuration, Timestamp};
use openidconnect::{AccessToken, RefreshToken};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use url::{Url, form_urlencoded};

use super::{
    authorization::Authorization,
    http::{Http, HttpError},
};
use crate::untrusted_text::is_deceptive;

/// The consent page shows this name.
const CLIENT_NAME: &str = "mcp-oauth-operator login";

/// A loopback redirect URI matches at any port (RFC 8252 §7.3).
const REDIRECT_URI: &str = "http://127.0.0.1/callback";

/// A token that expires within this time is refreshed: it must still be valid when it arrives.
const MARGIN: SignedDuration = SignedDuration::from_secs(60);

/// A stored login. When it has ended, only the client registration remains.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Login {
    /// The MCP endpoint.
    pub url: Url,
    pub issuer: String,
    pub token_endpoint: Url,
    /// The resource indicator (RFC 8707).
    pub resource: String,
    pub client_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<Tokens>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Tokens {
    pub access_token: AccessToken,
    /// `None` if the server does not specify the expiry.
    #[serde(default)]
    pub expires_at: Option<Timestamp>,
    #[serde(default)]
    pub refresh_token: Option<RefreshToken>,
}

impl Tokens {
    /// Whether the access token is valid for at least another minute.
    pub fn is_fresh(&self, now: Timestamp) -> bool {
        self.expires_at.is_none_or(|expiry| expiry.duration_since(now) > MARGIN)
    }

    pub fn is_valid(&self, now: Timestamp) -> bool {
        self.expires_at.is_none_or(|expiry| expiry > now)
    }
}

#[derive(Debug, Error)]
pub enum TokenError {
    #[error(transparent)]
    Http(#[from] HttpError),
    #[error("the server no longer accepts the login ({0}): log in again")]
    InvalidGrant(String),
    #[error("the server does not know this client ({0}): log in again, without --client-id or with one that it knows")]
    InvalidClient(String),
    /// Another error code of RFC 6749 §5.2 or RFC 7591 §3.2.2.
    #[error("{url} refused the request: {message}")]
    Refused { url: String, message: String },
    #[error("the response of {url} is invalid: {message}")]
    InvalidResponse { url: String, message: &'static str },
    #[error("the server does not support client registration: ask its administrator for a client id (--client-id)")]
    NoRegistration,
}

impl Login {
    pub async fn redeem(
        &self,
        http: &Http,
        code: &SecretString,
        authorization: &Authorization,
        now: Timestamp,
    ) -> Result<Tokens, TokenError> {
        let grant = [
            ("grant_type", "authorization_code"),
            ("code", code.expose_secret()),
            ("code_verifier", authorization.verifier.expose_secret()),
            ("redirect_uri", authorization.redirect_uri.as_str()),
        ];
        self.request_tokens(http, &grant, now).await
    }

    /// Returns the same refresh token if the server issues no new one.
    pub async fn refresh(&self, http: &Http, token: &RefreshToken, now: Timestamp) -> Result<Tokens, TokenError> {
        let grant = [("grant_type", "refresh_token"), ("refresh_token", token.secret().as_str())];
        let mut tokens = self.request_tokens(http, &grant, now).await?;
        tokens.refresh_token.get_or_insert_with(|| token.clone());
        Ok(tokens)
    }

    /// Whether the server still knows the client. Sends an invalid refresh token and inspects the error, because the
    /// authorization endpoint would report an unknown client only to the user.
    pub async fn is_client_known(&self, http: &Http, now: Timestamp) -> Result<bool, HttpError> {
        let grant = [("grant_type", "refresh_token"), ("refresh_token", "none")];
        match self.request_tokens(http, &grant, now).await {
            Err(TokenError::InvalidClient(_)) => Ok(false),
            Err(TokenError::Http(error)) => Err(error),
            _ => Ok(true),
        }
    }

    async fn request_tokens(&self, http: &Http, grant: &[(&str, &str)], now: Timestamp) -> Result<Tokens, TokenError> {
        let form = form_urlencoded::Serializer::new(String::new())
            .extend_pairs(grant)
            .append_pair("client_id", &self.client_id)
            .append_pair("resource", &self.resource)
            .finish();
        let response = post(http, &self.token_endpoint, "application/x-www-form-urlencoded", form).await?;
        parse_tokens(&self.token_endpoint, &response, now)
    }
}

/// Client metadata (RFC 7591 §2; `application_type`: OpenID Connect Registration §2).
#[derive(Serialize)]
struct RegistrationRequest {
    client_name: &'static str,
    redirect_uris: [&'static str; 1],
    token_endpoint_auth_method: &'static str,
    grant_types: [&'static str; 2],
    response_types: [&'static str; 1],
    application_type: &'static str,
}

/// Registers this program as a client and returns its client id.
pub async fn register(http: &Http, endpoint: Option<&Url>) -> Result<String, TokenError> {
    #[derive(Deserialize)]
    struct RegistrationResponse {
        client_id: String,
    }

    let endpoint = endpoint.ok_or(TokenError::NoRegistration)?;
    let request = RegistrationRequest {
        client_name: CLIENT_NAME,
        redirect_uris: [REDIRECT_URI],
        token_endpoint_auth_method: "none",
        grant_types: ["authorization_code", "refresh_token"],
        response_types: ["code"],
        application_type: "native",
    };
    // It contains only strings, so serialization cannot fail.
    let request = serde_json::to_string(&request).unwrap_or_default();
    let response = post(http, endpoint, "application/json", request).await?;
    if !response.status().is_success() {
        return Err(parse_error(endpoint, &response));
    }
    let message = "not a client registration (RFC 7591)";
    let invalid = |_| TokenError::InvalidResponse { url: endpoint.to_string(), message };
    Ok(serde_json::from_slice::<RegistrationResponse>(response.body()).map_err(invalid)?.client_id)
}

async fn post(http: &Http, endpoint: &Url, content_type: &str, body: String) -> Result<Response<Bytes>, HttpError> {
    let request = Request::post(endpoint.as_str())
        .header(header::CONTENT_TYPE, content_type)
        .header(header::ACCEPT, "application/json");
    http.send(request, body).await
}

/// RFC 6749 §5.1.
fn parse_tokens(endpoint: &Url, response: &Response<Bytes>, now: Timestamp) -> Result<Tokens, TokenError> {
    #[derive(Deserialize)]
    struct TokenResponse {
        access_token: AccessToken,
        token_type: String,
        expires_in: Option<u32>,
        refresh_token: Option<RefreshToken>,
    }

    if response.status() != StatusCode::OK {
        return Err(parse_error(endpoint, response));
    }
    let invalid = |message| TokenError::InvalidResponse { url: endpoint.to_string(), message };
    // serde's message may quote a token.
    let TokenResponse { access_token, token_type, expires_in, refresh_token } =
        serde_json::from_slice(response.body()).map_err(|_| invalid("not a token response (RFC 6749)"))?;
    if !token_type.eq_ignore_ascii_case("Bearer") {
        return Err(invalid("token_type is not Bearer"));
    }
    if access_token.secret().is_empty() || !access_token.secret().bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(invalid("the access token contains invalid characters"));
    }
    let expires_at = expires_in.map(|seconds| now + SignedDuration::from_secs(seconds.into()));
    Ok(Tokens { access_token, expires_at, refresh_token })
}

/// RFC 6749 §5.2.
fn parse_error(endpoint: &Url, response: &Response<Bytes>) -> TokenError {
    #[derive(Deserialize)]
    struct ErrorResponse {
        error: String,
        #[serde(default)]
        error_description: String,
    }

    let Ok(response) = serde_json::from_slice::<ErrorResponse>(response.body()) else {
        return TokenError::Refused { url: endpoint.to_string(), message: response.status().to_string() };
    };
    let (error, description) = (printable(&response.error), printable(&response.error_description));
    let message = if description.is_empty() { error.clone() } else { format!("{error}: {description}") };
    match error.as_str() {
        "invalid_grant" => TokenError::InvalidGrant(message),
        "invalid_client" => TokenError::InvalidClient(message),
        _ => TokenError::Refused { url: endpoint.to_string(), message },
    }
}

/// Server text for a terminal: at most 300 characters, without control characters.
pub fn printable(text: &str) -> String {
    text.chars().filter(|character| !is_deceptive(*character)).take(300).collect()
}

#[cfg(test)]
pub mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::constant(1_800_000_000, 0);

    pub fn tokens(access: &str, expires_at: i64) -> Tokens {
        Tokens {
            access_token: AccessToken::new(access.to_owned()),
            expires_at: Some(Timestamp::from_second(expires_at).unwrap()),
            refresh_token: Some(RefreshToken::new("refresh-secret".to_owned())),
        }
    }

    fn parse(status: u16, body: &str) -> Result<Tokens, TokenError> {
        let endpoint = "https://as.example.com/token".parse().unwrap();
        parse_tokens(
            &endpoint,
            &Response::builder().status(status).body(Bytes::copy_from_slice(body.as_bytes())).unwrap(),
            NOW,
        )
    }

    #[test]
    fn token_is_used_until_one_minute_before_expiry() {
        let tokens = tokens("a", NOW.as_second() + 100);
        let after = |seconds| NOW + SignedDuration::from_secs(seconds);
        assert!(tokens.is_fresh(NOW) && tokens.is_fresh(after(39)));
        assert!(!tokens.is_fresh(after(40)) && tokens.is_valid(after(99)));
        assert!(!tokens.is_valid(after(100)));
        assert!(Tokens { expires_at: None, ..tokens }.is_fresh(after(1_000_000)));
    }

    #[test]
    fn token_response_of_rfc_6749_is_parsed() {
        let tokens =
            parse(200, r#"{"access_token":"a","token_type":"bearer","expires_in":1800,"refresh_token":"r"}"#).unwrap();
        assert_eq!(tokens.access_token.secret(), "a");
        assert_eq!(tokens.expires_at, Some(NOW + SignedDuration::from_secs(1800)));
        assert_eq!(tokens.refresh_token.unwrap().secret(), "r");
    }

    #[test]
    fn invalid_token_response_is_rejected_without_quoting_it() {
        for body in [
            r#"{"access_token":"secret","token_type":"DPoP"}"#,
            r#"{"access_token":"sec ret","token_type":"Bearer"}"#,
            r#"{"access_token":["secret"],"token_type":"Bearer"}"#,
            r#"{"token_type":"Bearer"}"#,
            "secret",
        ] {
            let error = parse(200, body).unwrap_err();
            assert!(matches!(error, TokenError::InvalidResponse { .. }), "{body}");
            assert!(!format!("{error} {error:?}").contains("secret"));
        }
    }

    #[test]
    fn token_errors_are_classified_and_escaped() {
        let error = parse(400, r#"{"error":"invalid_grant","error_description":"gone\u001b[2J"}"#).unwrap_err();
        assert!(matches!(&error, TokenError::InvalidGrant(text) if text == "invalid_grant: gone[2J"), "{error}");
        assert!(matches!(parse(401, r#"{"error":"invalid_client"}"#), Err(TokenError::InvalidClient(_))));
        assert!(matches!(parse(503, "<html>"), Err(TokenError::Refused { .. })));
    }

    #[test]
    fn token_debug_output_is_redacted() {
        let shown = format!("{:?}", tokens("access-secret", 0));
        assert!(
            !shown.contains("secret\"") && !shown.contains("access-secret") && !shown.contains("refresh-secret"),
            "{shown}"
        );
    }
}
