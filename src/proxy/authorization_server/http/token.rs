use std::{net::IpAddr, sync::Arc};

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use jiff::Timestamp;
use serde_json::Value;

use super::{
    client_request::{ClientRequest, Rejected},
    recheck,
    respond::no_store,
    stored::{end, read, replace},
};
use crate::reasons::SessionEnd;
use crate::{
    access::Verdict,
    crypto::random_bytes,
    oauth::{
        OAuthError, client_id_hash,
        code::{self, Activation, Code, Redemption},
        refresh::{self, Refresh, RefreshToken},
        tokens::Mint,
    },
    proxy::{
        authorization_server::AuthorizationServer,
        observability::{
            audit,
            metrics::{Answer, Grant},
        },
        secrets::Secrets,
        sessions::Stored,
    },
    session::Session,
};

/// How often a refresh is decided anew when another replica was quicker.
const ATTEMPTS: usize = 5;

/// `POST /token` (RFC 6749 §3.2). Tokens are given only against what the store says now, never from memory.
pub async fn token(
    State(proxy): State<Arc<AuthorizationServer>>,
    request: Result<ClientRequest, Rejected>,
) -> Response {
    let request = match request {
        Ok(request) => request,
        Err(rejected) => {
            proxy.metrics.count_token_request(Grant::Other, Answer(Some(rejected.error.code)));
            audit::tokens_refused(Grant::Other, None, None, &rejected.error, rejected.from);
            return rejected.into_response();
        }
    };
    let grant = match request.get("grant_type") {
        Some("authorization_code") => Grant::AuthorizationCode,
        Some("refresh_token") => Grant::RefreshToken,
        _ => Grant::Other,
    };
    let answered = answer(&proxy, &request.secrets, &request, grant).await;
    proxy.metrics.count_token_request(grant, Answer::of(&answered));
    match answered {
        Ok(answer) => (no_store(), Json(answer)).into_response(),
        Err(error) => {
            let token = request.get("refresh_token").and_then(|t| RefreshToken::open(t, &request.secrets.keyring));
            let (client, session) = (client_id_hash(&request.client_id), token.map(|(session, _)| session));
            audit::tokens_refused(grant, Some(&client), session, &error, request.from);
            request.refuse(&error)
        }
    }
}

async fn answer(
    proxy: &Arc<AuthorizationServer>,
    secrets: &Arc<Secrets>,
    request: &ClientRequest,
    grant: Grant,
) -> Result<Value, OAuthError> {
    let resource = request.get("resource").map(|resource| proxy.resources.resolve(Some(resource))).transpose()?;
    request.required("grant_type")?;
    match grant {
        Grant::AuthorizationCode => redeem_code(proxy, secrets, request, resource.as_deref()).await,
        Grant::RefreshToken => refresh(proxy, secrets, request, resource.as_deref()).await,
        Grant::Other => {
            Err(OAuthError::unsupported_grant_type("grant_type must be authorization_code or refresh_token"))
        }
    }
}

async fn redeem_code(
    proxy: &Arc<AuthorizationServer>,
    secrets: &Secrets,
    request: &ClientRequest,
    resource: Option<&str>,
) -> Result<Value, OAuthError> {
    let (code, client_id) = (request.required("code")?, request.client_id.as_str());
    let with = Redemption {
        client_id_hash: &client_id_hash(client_id),
        redirect_uri: request.get("redirect_uri"),
        verifier: request.get("code_verifier"),
        resource,
    };
    let now = proxy.now();
    let redeemed = Code::redeem(code, with, &secrets.keyring, now)?;
    let used = || OAuthError::invalid_grant("the code has been used");
    let stored = read(proxy, redeemed.session).await?.ok_or_else(used)?;
    may_go_on(proxy, &stored, request.from).await?;
    // Without refresh tokens there is nothing to live on for when the access token has ended.
    let lifetime = if redeemed.refreshes { proxy.idle_ttl() } else { proxy.access_ttl() };
    match code::activate(&stored.session, now, lifetime, proxy.max_ttl()) {
        Activation::First(active) => {
            let answer = tokens(proxy, secrets, &active, client_id, redeemed.refreshes, now)?;
            if !replace(proxy, &stored, &active).await? {
                return Err(used());
            }
            audit::tokens(&active, Grant::AuthorizationCode, request.from);
            Ok(answer)
        }
        Activation::Lost => Err(used()),
        Activation::Replay => {
            end(proxy, &stored, SessionEnd::Replay, "its authorization code was used again", request.from).await?;
            Err(used())
        }
    }
}

async fn refresh(
    proxy: &Arc<AuthorizationServer>,
    secrets: &Arc<Secrets>,
    request: &ClientRequest,
    resource: Option<&str>,
) -> Result<Value, OAuthError> {
    let (token, client_id) = (request.required("refresh_token")?, request.client_id.as_str());
    let (id, generation) = RefreshToken::open(token, &secrets.keyring).ok_or_else(refresh::ended)?;
    for _ in 0..ATTEMPTS {
        let now = proxy.now();
        let stored = read(proxy, id).await?.ok_or_else(refresh::ended)?;
        let session = &stored.session;
        refresh::check(session, &client_id_hash(client_id), resource, now)?;
        may_go_on(proxy, &stored, request.from).await?;
        let (grace, idle, max) = (proxy.refresh_grace(), proxy.idle_ttl(), proxy.max_ttl());
        let next = match refresh::decide(session, generation, now, grace, idle, max) {
            Refresh::Rotate(next) => *next,
            Refresh::Repeat if recheck::is_due(proxy, session, now) => session.clone(),
            Refresh::Repeat => {
                let answer = tokens(proxy, secrets, session, client_id, true, now)?;
                audit::tokens(session, Grant::RefreshToken, request.from);
                return Ok(answer);
            }
            Refresh::End(reason) => {
                end(proxy, &stored, SessionEnd::Replay, reason, request.from).await?;
                return Err(refresh::ended());
            }
        };
        // First the tokens: without randomness for them nothing is written.
        let answer = tokens(proxy, secrets, &next, client_id, true, now)?;
        if recheck::write(proxy, secrets, stored, next.clone(), request.from).await? {
            audit::tokens(&next, Grant::RefreshToken, request.from);
            return Ok(answer);
        }
        // Another replica, or another process of the client, was quicker: what it wrote decides.
    }
    Err(OAuthError::temporarily_unavailable("too many refreshes at once: try again"))
}

/// Ends a session that the rules no longer let go on.
async fn may_go_on(proxy: &AuthorizationServer, stored: &Stored, from: Option<IpAddr>) -> Result<(), OAuthError> {
    match proxy.evaluate(&stored.session) {
        Verdict::Allow => Ok(()),
        Verdict::Withhold => {
            Err(OAuthError::temporarily_unavailable("the access rules are being changed: try again in a minute"))
        }
        Verdict::End(reason) => {
            end(proxy, stored, SessionEnd::Rules, &reason, from).await?;
            Err(refresh::ended())
        }
    }
}

fn tokens(
    proxy: &AuthorizationServer,
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

#[cfg(test)]
mod tests;
