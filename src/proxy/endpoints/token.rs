use std::{collections::HashMap, sync::Arc};

use axum::{
    Json,
    body::Bytes,
    extract::{State, rejection::BytesRejection},
    http::{HeaderMap, HeaderValue, header},
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD, prelude::BASE64_URL_SAFE_NO_PAD};
use jiff::Timestamp;
use serde_json::Value;
use url::form_urlencoded;

use super::respond::{json_error, no_store, unreadable};
use crate::proxy::{
    crypto::random_bytes,
    identity::{Person, check_access},
    oauth::{
        ErrorCode, OAuthError,
        client::Client,
        client_id_hash,
        code::{self, Activation, Code, Redemption},
        refresh::{self, Refresh, RefreshToken},
        tokens::Mint,
    },
    session::{Ending, Session, SessionId, StoreError, Stored},
    state::{Proxy, Secrets},
};

/// How often a refresh is decided anew when another replica was quicker.
const ATTEMPTS: usize = 5;

/// `POST /token` (RFC 6749 §3.2). Tokens are given only against what the store says now, never from memory.
pub async fn token(
    State(proxy): State<Arc<Proxy>>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let body = match body {
        Ok(body) => body,
        Err(rejection) => return unreadable(&rejection),
    };
    match answer(&proxy, &headers, &body).await {
        Ok(answer) => (no_store(), Json(answer)).into_response(),
        Err(error) => {
            tracing::info!(%error, "token refused");
            let mut response = json_error(&error);
            // RFC 6749 §5.2: who tried by Authorization is told the scheme.
            if error.code == ErrorCode::InvalidClient && headers.contains_key(header::AUTHORIZATION) {
                response
                    .headers_mut()
                    .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"token\""));
            }
            response
        }
    }
}

type Parameters = HashMap<String, String>;

async fn answer(proxy: &Arc<Proxy>, headers: &HeaderMap, body: &[u8]) -> Result<Value, OAuthError> {
    let parameters = parameters(headers, body)?;
    let secrets = proxy.secrets.load_full();
    let get = |name: &str| parameters.get(name).map(String::as_str);
    let client_id = Client::of_token_request(
        basic_credentials(headers)?,
        get("client_id"),
        get("client_secret"),
        &secrets.keyring,
    )?;
    let resource = get("resource").map(|resource| proxy.resources.resolve(Some(resource))).transpose()?;
    match get("grant_type") {
        Some("authorization_code") => redeem_code(proxy, &secrets, &parameters, &client_id, resource.as_deref()).await,
        Some("refresh_token") => refresh(proxy, &secrets, &parameters, &client_id, resource.as_deref()).await,
        Some(_) => Err(OAuthError::unsupported_grant_type("grant_type must be authorization_code or refresh_token")),
        None => Err(OAuthError::invalid_request("grant_type is missing")),
    }
}

/// The parameters of the body, each of which may be there once (RFC 6749 §3.2).
fn parameters(headers: &HeaderMap, body: &[u8]) -> Result<Parameters, OAuthError> {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media_type = content_type.split(';').next().unwrap_or_default().trim();
    if !media_type.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
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
fn basic_credentials(headers: &HeaderMap) -> Result<Option<(String, String)>, OAuthError> {
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

async fn redeem_code(
    proxy: &Arc<Proxy>,
    secrets: &Secrets,
    parameters: &Parameters,
    client_id: &str,
    resource: Option<&str>,
) -> Result<Value, OAuthError> {
    let code = parameters.get("code").ok_or_else(|| OAuthError::invalid_request("code is missing"))?;
    let with = Redemption {
        client_id_hash: &client_id_hash(client_id),
        redirect_uri: parameters.get("redirect_uri").map(String::as_str),
        verifier: parameters.get("code_verifier").map(String::as_str),
        resource,
    };
    let now = proxy.now();
    let redeemed = Code::redeem(code, with, &secrets.keyring, now)?;
    let used = || OAuthError::invalid_grant("the code has been used");
    let stored = read(proxy, redeemed.session).await?.ok_or_else(used)?;
    // Without refresh tokens there is nothing to live on for when the access token has ended.
    let lifetime = if redeemed.refreshes { proxy.idle_ttl() } else { proxy.access_ttl() };
    match code::activate(&stored.session, now, lifetime, proxy.max_ttl()) {
        Activation::First(active) => {
            let answer = tokens(proxy, secrets, &active, client_id, redeemed.refreshes, now)?;
            if !replace(proxy, &stored, &active).await? {
                return Err(used());
            }
            tracing::info!(session = %active.id, user = active.user.email, "tokens given for a code");
            Ok(answer)
        }
        Activation::Lost => Err(used()),
        Activation::Replay => {
            end(proxy, &stored, "its authorization code was used again").await?;
            Err(used())
        }
    }
}

async fn refresh(
    proxy: &Arc<Proxy>,
    secrets: &Secrets,
    parameters: &Parameters,
    client_id: &str,
    resource: Option<&str>,
) -> Result<Value, OAuthError> {
    let token =
        parameters.get("refresh_token").ok_or_else(|| OAuthError::invalid_request("refresh_token is missing"))?;
    let (id, generation) = RefreshToken::open(token, &secrets.keyring).ok_or_else(refresh::ended)?;
    for _ in 0..ATTEMPTS {
        let now = proxy.now();
        let stored = read(proxy, id).await?.ok_or_else(refresh::ended)?;
        let session = &stored.session;
        refresh::check(session, &client_id_hash(client_id), resource, now)?;
        if let Err(denied) = check_access(&proxy.config.access, &person(session)) {
            end(proxy, &stored, &format!("the access rules no longer let this person in: {denied}")).await?;
            return Err(refresh::ended());
        }
        let (grace, idle, max) = (proxy.refresh_grace(), proxy.idle_ttl(), proxy.max_ttl());
        match refresh::decide(session, generation, now, grace, idle, max) {
            Refresh::Rotate(next) => {
                let answer = tokens(proxy, secrets, &next, client_id, true, now)?;
                if replace(proxy, &stored, &next).await? {
                    return Ok(answer);
                }
                // Another replica, or another process of the client, was quicker: what it wrote decides.
            }
            Refresh::Repeat => return tokens(proxy, secrets, session, client_id, true, now),
            Refresh::End(reason) => {
                end(proxy, &stored, reason).await?;
                return Err(refresh::ended());
            }
        }
    }
    Err(OAuthError::temporarily_unavailable("too many refreshes at once: try again"))
}

fn person(session: &Session) -> Person {
    Person {
        issuer: session.user.issuer.clone(),
        subject: session.user.subject.clone(),
        email: session.user.email.clone(),
        email_verified: session.claims.email_verified,
        hosted_domain: session.claims.hosted_domain.clone(),
    }
}

fn tokens(
    proxy: &Proxy,
    secrets: &Secrets,
    session: &Session,
    client_id: &str,
    refreshes: bool,
    now: Timestamp,
) -> Result<Value, OAuthError> {
    let random = random_bytes::<16>()
        .ok_or_else(|| OAuthError::temporarily_unavailable("this server has no randomness to give"))?;
    let mint = Mint {
        signing: &secrets.signing,
        keyring: &secrets.keyring,
        issuer: proxy.public_url.as_str(),
        access_ttl: proxy.config.tokens.access_ttl.as_secs(),
    };
    mint.answer(session, client_id, refreshes, BASE64_URL_SAFE_NO_PAD.encode(random), now)
}

fn unavailable(error: &StoreError) -> OAuthError {
    tracing::error!(%error, "the token endpoint cannot reach the sessions");
    OAuthError::temporarily_unavailable("the sessions cannot be reached: try again")
}

fn shutting_down() -> OAuthError {
    OAuthError::temporarily_unavailable("this server is shutting down")
}

async fn read(proxy: &Proxy, id: SessionId) -> Result<Option<Stored>, OAuthError> {
    let store = proxy.store.clone();
    let read = proxy.on_control(async move { store.get(id).await }).await;
    read.ok_or_else(shutting_down)?.map_err(|error| unavailable(&error))
}

/// Whether it was written; `false` if somebody else was quicker.
async fn replace(proxy: &Proxy, old: &Stored, new: &Session) -> Result<bool, OAuthError> {
    let (store, old, new) = (proxy.store.clone(), old.clone(), new.clone());
    match proxy.on_control(async move { store.replace(&old, &new).await }).await.ok_or_else(shutting_down)? {
        Ok(()) => Ok(true),
        Err(StoreError::Conflict) => Ok(false),
        Err(error) => Err(unavailable(&error)),
    }
}

async fn end(proxy: &Proxy, stored: &Stored, reason: &str) -> Result<(), OAuthError> {
    let (store, stored, reason) = (proxy.store.clone(), stored.clone(), reason.to_owned());
    let ended = proxy.on_control(async move { store.end(&stored, Ending::Because(&reason)).await }).await;
    ended.ok_or_else(shutting_down)?.map_err(|error| unavailable(&error))
}

#[cfg(test)]
mod tests;
