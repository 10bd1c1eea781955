use std::{collections::HashMap, sync::Arc};

use axum::{
    Json,
    body::Bytes,
    extract::State,
    http::{HeaderMap, header},
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use url::form_urlencoded;

use super::respond::{json_error, no_store};
use crate::{
    api::SessionPhase,
    proxy::{
        crypto::{AccessClaims, now_seconds, random_bytes},
        identity::{Person, check_access},
        oauth::{
            OAuthError,
            client::Client,
            client_id_hash,
            code::{self, Activation, Code, Redemption},
            refresh::{self, Refresh, RefreshToken},
        },
        session::{Session, SessionId, StoreError, Stored},
        state::{Proxy, Secrets},
    },
};

/// How often a refresh is decided anew when another replica was quicker.
const ATTEMPTS: usize = 5;

/// `POST /token` (RFC 6749 §3.2). Tokens are given only against what the store says now, never from memory.
pub async fn token(State(proxy): State<Arc<Proxy>>, headers: HeaderMap, body: Bytes) -> Response {
    match answer(&proxy, &headers, &body).await {
        Ok(answer) => (no_store(), Json(answer)).into_response(),
        Err(error) => {
            tracing::info!(%error, "token refused");
            json_error(&error)
        }
    }
}

type Parameters = HashMap<String, String>;

async fn answer(proxy: &Arc<Proxy>, headers: &HeaderMap, body: &[u8]) -> Result<Value, OAuthError> {
    let parameters = parameters(headers, body)?;
    let secrets = proxy.secrets.load_full();
    let client_id = authenticated_client(headers, &parameters, &secrets)?;
    let resource = match parameters.get("resource") {
        Some(resource) => Some(proxy.resources.resolve(Some(resource))?),
        None => None,
    };
    match parameters.get("grant_type").map(String::as_str) {
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

/// The id of the client, which has proved that it is itself. Basic and body may both name it if they agree: the Python
/// SDK sends both.
fn authenticated_client(headers: &HeaderMap, parameters: &Parameters, secrets: &Secrets) -> Result<String, OAuthError> {
    let basic = basic_credentials(headers)?;
    let (in_body, secret_in_body) = (parameters.get("client_id"), parameters.get("client_secret"));
    let (id, secret) = match (&basic, in_body) {
        (Some((id, _)), Some(named)) if id != named => {
            return Err(OAuthError::invalid_client("Authorization and client_id name two clients"));
        }
        (Some((id, secret)), _) => (id, Some(secret)),
        (None, Some(id)) => (id, secret_in_body),
        (None, None) => return Err(OAuthError::invalid_client("client_id is missing")),
    };
    let client = Client::from_id(id, &secrets.keyring)
        .ok_or_else(|| OAuthError::invalid_client("this server does not know the client: register again"))?;
    // Some clients send an empty secret for none.
    let secret = secret.map(String::as_str).filter(|secret| !secret.is_empty());
    client.authenticate(id, secret, &secrets.keyring)?;
    Ok(id.clone())
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
    match code::activate(&stored.session, now, proxy.idle_ttl(), proxy.max_ttl()) {
        Activation::First(active) => match replace(proxy, &stored, &active).await? {
            true => {
                tracing::info!(session = %active.id, user = active.user.email, "tokens given for a code");
                tokens(proxy, secrets, &active, client_id, redeemed.refreshes)
            }
            false => Err(used()),
        },
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
    let ended = || OAuthError::invalid_grant("the session has ended: log in again");
    let token =
        parameters.get("refresh_token").ok_or_else(|| OAuthError::invalid_request("refresh_token is missing"))?;
    let (id, generation) = RefreshToken::open(token, &secrets.keyring).ok_or_else(ended)?;
    for _ in 0..ATTEMPTS {
        let now = proxy.now();
        let stored = read(proxy, id).await?.ok_or_else(ended)?;
        let session = &stored.session;
        if session.client.id_hash != client_id_hash(client_id) {
            return Err(OAuthError::invalid_grant("the refresh token was issued to another client"));
        }
        // Before anything is written: a wrong resource must not cost the client its token.
        if resource.is_some_and(|resource| resource != session.resource) {
            return Err(OAuthError::invalid_target("resource is not the one of the login"));
        }
        if session.phase == SessionPhase::Pending || session.expires_at <= now {
            return Err(ended());
        }
        if let Err(denied) = check_access(&proxy.config.access, &person(session)) {
            end(proxy, &stored, &format!("the access rules no longer let this person in: {denied}")).await?;
            return Err(ended());
        }
        let (grace, idle, max) = (proxy.refresh_grace(), proxy.idle_ttl(), proxy.max_ttl());
        match refresh::decide(session, generation, now, grace, idle, max) {
            Refresh::Rotate(next) => {
                if replace(proxy, &stored, &next).await? {
                    return tokens(proxy, secrets, &next, client_id, true);
                }
                // Another replica, or another process of the client, was quicker: what it wrote decides.
            }
            Refresh::Repeat => return tokens(proxy, secrets, session, client_id, true),
            Refresh::End(reason) => {
                end(proxy, &stored, reason).await?;
                return Err(ended());
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

/// The answer of RFC 6749 §5.1 for the session as it now is.
fn tokens(
    proxy: &Proxy,
    secrets: &Secrets,
    session: &Session,
    client_id: &str,
    refreshes: bool,
) -> Result<Value, OAuthError> {
    let unavailable = || OAuthError::temporarily_unavailable("no token can be signed now");
    let now = proxy.now();
    let issued = now_seconds(now);
    let expires = (issued + proxy.config.tokens.access_ttl.as_secs()).min(now_seconds(session.expires_at));
    let scope = session.scopes.join(" ");
    let claims = AccessClaims {
        iss: proxy.public_url.as_str().to_owned(),
        sub: session.user.subject.clone(),
        aud: session.resource.clone(),
        exp: expires,
        iat: issued,
        jti: BASE64_URL_SAFE_NO_PAD.encode(random_bytes::<16>().ok_or_else(unavailable)?),
        client_id: client_id.to_owned(),
        sid: session.id.to_string(),
        scope: scope.clone(),
    };
    let access_token = secrets.signing.sign(&claims, now).map_err(|error| {
        tracing::error!(%error, "no token can be signed");
        unavailable()
    })?;
    let mut answer = json!({
        "access_token": access_token,
        "token_type": "Bearer",
        "expires_in": expires.saturating_sub(issued),
        "scope": scope,
    });
    if refreshes {
        answer["refresh_token"] = RefreshToken::current(session, &secrets.keyring).ok_or_else(unavailable)?.into();
    }
    Ok(answer)
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
    let ended = proxy.on_control(async move { store.end(&stored, Some(&reason)).await }).await;
    ended.ok_or_else(shutting_down)?.map_err(|error| unavailable(&error))
}
