//! The token endpoint (RFC 6749 §4.1.3, §6) and registration (RFC 7591), as a public client uses them.

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::Full;
use jiff::{SignedDuration, Timestamp};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::json;
use thiserror::Error;
use url::{Url, form_urlencoded};

use super::http::{Http, HttpError};
use crate::untrusted_text::deceives;

/// What people read at the consent page.
const CLIENT_NAME: &str = "mcp-oauth-operator login";

/// Where the browser is sent back to, at whatever port (RFC 8252 §7.3).
const REDIRECT_URI: &str = "http://127.0.0.1/callback";

/// How long before its end a token is no longer used: it must still be good when it arrives.
const MARGIN: SignedDuration = SignedDuration::from_secs(60);

/// What a login gives.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Tokens {
    /// For the MCP endpoint.
    #[serde(with = "secret")]
    pub access_token: SecretString,
    /// When it ends, if the server says so.
    #[serde(default)]
    pub expires_at: Option<Timestamp>,
    /// For the next access token.
    #[serde(default, with = "optional_secret")]
    pub refresh_token: Option<SecretString>,
}

impl Tokens {
    /// Whether the access token is good for another minute, as far as its end tells.
    pub fn last(&self, now: Timestamp) -> bool {
        self.expires_at.is_none_or(|end| end.duration_since(now) > MARGIN)
    }

    /// Whether the access token is still good at all.
    pub fn live(&self, now: Timestamp) -> bool {
        self.expires_at.is_none_or(|end| end > now)
    }
}

/// Whom tokens are asked of, by whom and for what.
#[derive(Clone, Copy, Debug)]
pub struct Asking<'a> {
    /// The token endpoint.
    pub endpoint: &'a Url,
    /// The client's id.
    pub client_id: &'a str,
    /// The MCP endpoint, as it calls itself.
    pub resource: &'a str,
}

/// Why there are no tokens.
#[derive(Debug, Error)]
pub enum TokenError {
    /// The server did not answer.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// `invalid_grant`: the code or refresh token is not, or no longer, good.
    #[error("the server no longer accepts the login ({0}): log in again")]
    InvalidGrant(String),
    /// `invalid_client`: the server does not know the client.
    #[error("the server does not know this client ({0}): log in again, without --client-id or with one that it knows")]
    InvalidClient(String),
    /// Another error of RFC 6749 §5.2 or RFC 7591 §3.2.2.
    #[error("{url} refuses: {message}")]
    Refused {
        /// The endpoint.
        url: String,
        /// The server's words.
        message: String,
    },
    /// An answer that is none.
    #[error("the answer of {url} cannot be used: {message}")]
    Answer {
        /// The endpoint.
        url: String,
        /// What is wrong.
        message: &'static str,
    },
    /// Nobody can register.
    #[error(
        "the authorization server lets no client register itself: ask whoever runs it for a client id, and give it with --client-id"
    )]
    NoRegistration,
}

impl Asking<'_> {
    /// The tokens for a code.
    ///
    /// # Errors
    /// Why there are none.
    pub async fn redeem(
        &self,
        http: &Http,
        code: &SecretString,
        verifier: &SecretString,
        redirect_uri: &str,
        now: Timestamp,
    ) -> Result<Tokens, TokenError> {
        let grant = [
            ("grant_type", "authorization_code"),
            ("code", code.expose_secret()),
            ("code_verifier", verifier.expose_secret()),
            ("redirect_uri", redirect_uri),
        ];
        self.tokens(http, &grant, now).await
    }

    /// The next tokens. The refresh token stays the same where the server gives no other.
    ///
    /// # Errors
    /// Why there are none.
    pub async fn refresh(&self, http: &Http, refresh: &SecretString, now: Timestamp) -> Result<Tokens, TokenError> {
        let grant = [("grant_type", "refresh_token"), ("refresh_token", refresh.expose_secret())];
        let mut tokens = self.tokens(http, &grant, now).await?;
        tokens.refresh_token.get_or_insert_with(|| refresh.clone());
        Ok(tokens)
    }

    /// Whether the server still knows the client, learned from how it refuses a refresh token of nobody: at the
    /// authorization endpoint it would tell the person, and not us.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn is_known(&self, http: &Http, now: Timestamp) -> Result<bool, HttpError> {
        let grant = [("grant_type", "refresh_token"), ("refresh_token", "none")];
        match self.tokens(http, &grant, now).await {
            Err(TokenError::InvalidClient(_)) => Ok(false),
            Err(TokenError::Http(error)) => Err(error),
            _ => Ok(true),
        }
    }

    async fn tokens(&self, http: &Http, grant: &[(&str, &str)], now: Timestamp) -> Result<Tokens, TokenError> {
        let form = form_urlencoded::Serializer::new(String::new())
            .extend_pairs(grant)
            .append_pair("client_id", self.client_id)
            .append_pair("resource", self.resource)
            .finish();
        let request = Request::post(self.endpoint.as_str())
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(header::ACCEPT, "application/json")
            .body(Full::from(form));
        read(self.endpoint, &http.exchange(request.map_err(HttpError::from)?).await?, now)
    }
}

/// Registers this program; the answer is its client id.
///
/// # Errors
/// Why it has none.
pub async fn register(http: &Http, endpoint: Option<&Url>) -> Result<String, TokenError> {
    #[derive(Deserialize)]
    struct Registered {
        client_id: String,
    }

    let endpoint = endpoint.ok_or(TokenError::NoRegistration)?;
    let wish = json!({
        "client_name": CLIENT_NAME,
        "redirect_uris": [REDIRECT_URI],
        "token_endpoint_auth_method": "none",
        "grant_types": ["authorization_code", "refresh_token"],
        "response_types": ["code"],
        "application_type": "native",
    });
    let request = Request::post(endpoint.as_str())
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::ACCEPT, "application/json")
        .body(Full::from(wish.to_string()));
    let answer = http.exchange(request.map_err(HttpError::from)?).await?;
    if !answer.status().is_success() {
        return Err(refusal(endpoint, &answer));
    }
    let registered: Registered = serde_json::from_slice(answer.body()).map_err(|_| TokenError::Answer {
        url: endpoint.to_string(),
        message: "it is not a registration of RFC 7591",
    })?;
    Ok(registered.client_id)
}

/// Reads the answer of a token endpoint (RFC 6749 §5).
fn read(endpoint: &Url, answer: &Response<Bytes>, now: Timestamp) -> Result<Tokens, TokenError> {
    #[derive(Deserialize)]
    struct Answer {
        access_token: String,
        token_type: String,
        expires_in: Option<u32>,
        refresh_token: Option<String>,
    }

    if answer.status() != StatusCode::OK {
        return Err(refusal(endpoint, answer));
    }
    let unusable = |message| TokenError::Answer { url: endpoint.to_string(), message };
    // Not serde's own words, which may repeat a token.
    let answer: Answer =
        serde_json::from_slice(answer.body()).map_err(|_| unusable("it is not a token response of RFC 6749"))?;
    if !answer.token_type.eq_ignore_ascii_case("Bearer") {
        return Err(unusable("its token is not of the type Bearer"));
    }
    if answer.access_token.is_empty() || !answer.access_token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(unusable("its token has characters that no token may have"));
    }
    Ok(Tokens {
        access_token: answer.access_token.into(),
        expires_at: answer.expires_in.map(|seconds| now + SignedDuration::from_secs(seconds.into())),
        refresh_token: answer.refresh_token.map(SecretString::from),
    })
}

/// Reads an error (RFC 6749 §5.2).
fn refusal(endpoint: &Url, answer: &Response<Bytes>) -> TokenError {
    #[derive(Deserialize)]
    struct Refusal {
        error: String,
        #[serde(default)]
        error_description: String,
    }

    let Ok(refusal) = serde_json::from_slice::<Refusal>(answer.body()) else {
        return TokenError::Refused { url: endpoint.to_string(), message: answer.status().to_string() };
    };
    let (error, description) = (said(&refusal.error), said(&refusal.error_description));
    let message = if description.is_empty() { error.clone() } else { format!("{error}: {description}") };
    match error.as_str() {
        "invalid_grant" => TokenError::InvalidGrant(message),
        "invalid_client" => TokenError::InvalidClient(message),
        _ => TokenError::Refused { url: endpoint.to_string(), message },
    }
}

/// A server's words as they may be shown in a terminal: not long, and with nothing that moves its cursor.
pub fn said(words: &str) -> String {
    words.chars().filter(|character| !deceives(*character)).take(300).collect()
}

mod secret {
    use secrecy::{ExposeSecret, SecretString};
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(secret: &SecretString, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(secret.expose_secret())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SecretString, D::Error> {
        String::deserialize(deserializer).map(SecretString::from)
    }
}

mod optional_secret {
    use secrecy::{ExposeSecret, SecretString};
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<S: Serializer>(secret: &Option<SecretString>, serializer: S) -> Result<S::Ok, S::Error> {
        secret.as_ref().map(ExposeSecret::expose_secret).serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SecretString>, D::Error> {
        Ok(Option::<String>::deserialize(deserializer)?.map(SecretString::from))
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::constant(1_800_000_000, 0);

    /// Tokens that end so many seconds after 1970.
    pub fn tokens(access: &str, ends: i64) -> Tokens {
        Tokens {
            access_token: access.into(),
            expires_at: Some(Timestamp::from_second(ends).unwrap()),
            refresh_token: Some("refresh-secret".into()),
        }
    }

    fn answer(status: u16, body: &str) -> Result<Tokens, TokenError> {
        let endpoint = "https://as.example.com/token".parse().unwrap();
        read(&endpoint, &Response::builder().status(status).body(Bytes::copy_from_slice(body.as_bytes())).unwrap(), NOW)
    }

    #[test]
    fn token_is_used_until_one_minute_before_expiry() {
        let tokens = tokens("a", NOW.as_second() + 100);
        let after = |seconds| NOW + SignedDuration::from_secs(seconds);
        assert!(tokens.last(NOW) && tokens.last(after(39)));
        assert!(!tokens.last(after(40)) && tokens.live(after(99)));
        assert!(!tokens.live(after(100)));
        assert!(Tokens { expires_at: None, ..tokens }.last(after(1_000_000)));
    }

    #[test]
    fn token_response_of_rfc_6749_is_parsed() {
        let read =
            answer(200, r#"{"access_token":"a","token_type":"bearer","expires_in":1800,"refresh_token":"r"}"#).unwrap();
        assert_eq!(read.access_token.expose_secret(), "a");
        assert_eq!(read.expires_at, Some(NOW + SignedDuration::from_secs(1800)));
        assert_eq!(read.refresh_token.unwrap().expose_secret(), "r");
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
            let error = answer(200, body).unwrap_err();
            assert!(matches!(error, TokenError::Answer { .. }), "{body}");
            assert!(!format!("{error} {error:?}").contains("secret"));
        }
    }

    #[test]
    fn token_errors_are_classified_and_escaped() {
        let refused = answer(400, r#"{"error":"invalid_grant","error_description":"gone\u001b[2J"}"#).unwrap_err();
        assert!(matches!(&refused, TokenError::InvalidGrant(words) if words == "invalid_grant: gone[2J"), "{refused}");
        assert!(matches!(answer(401, r#"{"error":"invalid_client"}"#), Err(TokenError::InvalidClient(_))));
        assert!(matches!(answer(503, "<html>"), Err(TokenError::Refused { .. })));
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
