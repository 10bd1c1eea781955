//! Requests that a client must authenticate (RFC 6749 §3.2, RFC 7009 §2.1).

use std::{convert::Infallible, net::IpAddr, sync::Arc};

use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Request, rejection::BytesRejection},
    http::{HeaderMap, HeaderValue, header, request::Parts},
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use url::form_urlencoded;

use super::respond::unreadable;
use crate::media_type::has_media_type;
use crate::{
    oauth::{ErrorCode, OAuthError, parameters::Parameters},
    proxy::{
        authorization_server::{AuthenticatedClient, AuthorizationServer},
        client_ip::client_ip_of,
    },
};

/// The IP address of the client; `None` if the listener did not provide the peer's address.
pub struct ClientIp(pub Option<IpAddr>);

impl FromRequestParts<Arc<AuthorizationServer>> for ClientIp {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, server: &Arc<AuthorizationServer>) -> Result<Self, Infallible> {
        Ok(Self(client_ip_of(&parts.extensions, &parts.headers, &server.config.trusted_proxies)))
    }
}

/// A request of a client that must authenticate.
pub struct ClientRequest {
    pub ip: Option<IpAddr>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
}

impl FromRequest<Arc<AuthorizationServer>> for ClientRequest {
    type Rejection = Infallible;

    async fn from_request(request: Request, server: &Arc<AuthorizationServer>) -> Result<Self, Infallible> {
        let ip = client_ip_of(request.extensions(), request.headers(), &server.config.trusted_proxies);
        let headers = request.headers().clone();
        Ok(Self { ip, headers, body: Bytes::from_request(request, server).await })
    }
}

/// The error response to a client, and its cause for the audit log.
pub struct ClientRequestError {
    pub cause: OAuthError,
    response: Box<Response>,
}

impl IntoResponse for ClientRequestError {
    fn into_response(self) -> Response {
        *self.response
    }
}

impl ClientRequest {
    /// Reads the parameters and authenticates the client.
    pub fn authenticate(
        &self,
        server: &AuthorizationServer,
    ) -> Result<(AuthenticatedClient, Parameters), ClientRequestError> {
        let body = self.body.as_ref().map_err(|rejection| ClientRequestError {
            cause: OAuthError::invalid_request("the body cannot be read"),
            response: Box::new(unreadable(rejection)),
        })?;
        let secrets = server.secrets.load_full();
        let result = parameters(&self.headers, body).and_then(|parameters| {
            let (basic, get) = (basic_credentials(&self.headers)?, |name: &str| parameters.get(name));
            let id = server.client_registry(&secrets).authenticate(basic, get("client_id"), get("client_secret"))?;
            Ok((id, parameters))
        });
        let (id, parameters) = result.map_err(|error| self.error(error))?;
        Ok((AuthenticatedClient { id, secrets, ip: self.ip }, parameters))
    }

    /// Names the scheme to a client that used `Authorization` (RFC 6749 §5.2).
    pub fn error(&self, cause: OAuthError) -> ClientRequestError {
        let mut response = cause.clone().into_response();
        if cause.code == ErrorCode::InvalidClient && self.headers.contains_key(header::AUTHORIZATION) {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"token\""));
        }
        ClientRequestError { cause, response: Box::new(response) }
    }
}

/// The parameters of the body, none of them repeated (RFC 6749 §3.2).
pub fn parameters(headers: &HeaderMap, body: &[u8]) -> Result<Parameters, OAuthError> {
    if !has_media_type(headers, "application/x-www-form-urlencoded") {
        return Err(OAuthError::invalid_request("the body must be application/x-www-form-urlencoded"));
    }
    let parameters = Parameters::parse(body);
    if parameters.repeated.is_some() {
        return Err(OAuthError::invalid_request("a parameter must not be repeated"));
    }
    Ok(parameters)
}

/// The form-encoded id and secret of HTTP Basic (RFC 6749 §2.3.1).
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
