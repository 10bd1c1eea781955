//! What a client sends to an endpoint at which it proves itself (RFC 6749 §3.2, RFC 7009 §2.1).

use std::{collections::HashMap, convert::Infallible, net::IpAddr, sync::Arc};

use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Request},
    http::{HeaderMap, HeaderValue, header, request::Parts},
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use url::form_urlencoded;

use super::respond::unreadable;
use crate::media_type::has_media_type;
use crate::{
    oauth::{ErrorCode, OAuthError},
    proxy::{authorization_server::AuthorizationServer, client_ip::client_ip_of, secrets::Secrets},
};

pub type Parameters = HashMap<String, String>;

/// The parameters of a client that has proved that it is itself.
pub struct ClientRequest {
    /// The client's id.
    pub client_id: String,
    /// What the client was checked with: the answer is made with the same.
    pub secrets: Arc<Secrets>,
    /// Where it comes from.
    pub from: Option<IpAddr>,
    parameters: Parameters,
    by_authorization: bool,
}

/// Why a request is not looked at any further: the client has not proved that it is itself, or said nothing that can be read.
pub struct Rejected {
    /// What is wrong.
    pub error: OAuthError,
    /// Where the request comes from.
    pub from: Option<IpAddr>,
    response: Response,
}

impl IntoResponse for Rejected {
    fn into_response(self) -> Response {
        self.response
    }
}

impl FromRequest<Arc<AuthorizationServer>> for ClientRequest {
    type Rejection = Rejected;

    async fn from_request(request: Request, proxy: &Arc<AuthorizationServer>) -> Result<Self, Rejected> {
        let headers = request.headers().clone();
        let from = client_ip_of(request.extensions(), &headers, &proxy.config.trusted_proxies);
        let body = Bytes::from_request(request, proxy).await.map_err(|rejection| Rejected {
            error: OAuthError::invalid_request("the body cannot be read"),
            from,
            response: unreadable(&rejection),
        })?;
        let by_authorization = headers.contains_key(header::AUTHORIZATION);
        Self::parse(&headers, &body, proxy, from).map_err(|error| Rejected {
            response: refusal(by_authorization, &error),
            error,
            from,
        })
    }
}

/// Where a request comes from, if the listener said so.
pub struct From(pub Option<IpAddr>);

impl FromRequestParts<Arc<AuthorizationServer>> for From {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, proxy: &Arc<AuthorizationServer>) -> Result<Self, Infallible> {
        Ok(Self(client_ip_of(&parts.extensions, &parts.headers, &proxy.config.trusted_proxies)))
    }
}

impl ClientRequest {
    fn parse(
        headers: &HeaderMap,
        body: &[u8],
        proxy: &AuthorizationServer,
        from: Option<IpAddr>,
    ) -> Result<Self, OAuthError> {
        let secrets = proxy.secrets.load_full();
        let parameters = parameters(headers, body)?;
        let get = |name: &str| parameters.get(name).map(String::as_str);
        let basic = basic_credentials(headers)?;
        let by_authorization = basic.is_some();
        let known = proxy.known_clients(&secrets);
        let client_id = known.authenticate(basic, get("client_id"), get("client_secret"))?;
        Ok(Self { client_id, secrets, from, parameters, by_authorization })
    }

    /// The answer when the request is refused.
    pub fn refuse(&self, error: &OAuthError) -> Response {
        refusal(self.by_authorization, error)
    }

    /// A parameter.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(String::as_str)
    }
}

fn refusal(by_authorization: bool, error: &OAuthError) -> Response {
    let mut response = error.clone().into_response();
    // RFC 6749 §5.2: who tried by Authorization is told the scheme.
    if error.code == ErrorCode::InvalidClient && by_authorization {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"token\""));
    }
    response
}

/// The parameters of the body, each of which may be there once (RFC 6749 §3.2).
pub fn parameters(headers: &HeaderMap, body: &[u8]) -> Result<Parameters, OAuthError> {
    if !has_media_type(headers, "application/x-www-form-urlencoded") {
        return Err(OAuthError::invalid_request("the body must be application/x-www-form-urlencoded"));
    }
    let mut parameters = Parameters::new();
    for (name, value) in form_urlencoded::parse(body) {
        if !value.is_empty() && parameters.insert(name.into_owned(), value.into_owned()).is_some() {
            return Err(OAuthError::invalid_request("a parameter may be sent once only"));
        }
    }
    Ok(parameters)
}

/// HTTP Basic, whose parts are form-encoded (RFC 6749 §2.3.1).
pub fn basic_credentials(headers: &HeaderMap) -> Result<Option<(String, String)>, OAuthError> {
    let Some(value) = headers.get(header::AUTHORIZATION) else { return Ok(None) };
    let decode = || {
        let (scheme, encoded) = value.to_str().ok()?.split_once(' ')?;
        let text = scheme.eq_ignore_ascii_case("basic").then(|| STANDARD.decode(encoded.trim()).ok())??;
        let (id, secret) = std::str::from_utf8(&text).ok()?.split_once(':')?;
        let plain = |part: &str| {
            form_urlencoded::parse(format!("x={part}").as_bytes()).next().map(|(_, value)| value.into_owned())
        };
        Some((plain(id)?, plain(secret)?))
    };
    decode().map(Some).ok_or_else(|| OAuthError::invalid_client("Authorization must be Basic with id and secret"))
}
