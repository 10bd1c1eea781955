use std::{
    collections::HashMap,
    net::TcpListener,
    sync::{Arc, Mutex, PoisonError},
};

use askama::Template;
use axum::{
    Form, Json, Router,
    extract::{Query, State},
    http::StatusCode,
    response::{Html, IntoResponse, Redirect, Response},
    routing::{get, post},
};
use jiff::Timestamp;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::Deserialize;
use serde_json::json;
use url::Url;

use crate::{
    crypto::{SigningKeys, SigningKeysError},
    crypto::{SigningRing, random_token},
    oauth::pkce,
};

/// An OpenID Connect provider for one relying party, whose login page takes any e-mail address and no password.
pub struct Issuer {
    url: String,
    redirect_uri: String,
    example: String,
    kid: String,
    key: EncodingKey,
    jwks: serde_json::Value,
    codes: Mutex<HashMap<String, Granted>>,
}

struct Granted {
    email: String,
    client_id: String,
    nonce: Option<String>,
    challenge: String,
}

/// The authorization request, which the login form carries along.
#[derive(Clone, Deserialize)]
struct Request {
    client_id: String,
    redirect_uri: String,
    state: String,
    #[serde(default)]
    nonce: Option<String>,
    code_challenge: String,
}

#[derive(Deserialize)]
struct Login {
    email: String,
    #[serde(flatten)]
    request: Request,
}

#[derive(Deserialize)]
struct Redemption {
    code: String,
    code_verifier: String,
}

#[derive(Template)]
#[template(
    source = r#"<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Log in (development)</title><style>{{ style|safe }}</style></head><body><main><h1>Log in</h1><p class="warning">This page is for development: anybody may log in as anybody whom spec.access lets in.</p><form method="post" action="/login"><input type="hidden" name="client_id" value="{{ request.client_id }}"><input type="hidden" name="redirect_uri" value="{{ request.redirect_uri }}"><input type="hidden" name="state" value="{{ request.state }}">{% if let Some(nonce) = request.nonce %}<input type="hidden" name="nonce" value="{{ nonce }}">{% endif %}<input type="hidden" name="code_challenge" value="{{ request.code_challenge }}"><label for="email">E-mail address</label> <input id="email" name="email" type="email" required autofocus placeholder="{{ example }}"> <button type="submit" class="primary">Log in</button></form></main></body></html>"#,
    ext = "html"
)]
struct Page<'a> {
    style: &'a str,
    request: &'a Request,
    example: &'a str,
}

impl Issuer {
    /// The provider at `url`, which sends people back to `redirect_uri` only. Its page shows `example` as an address.
    pub fn new(url: String, redirect_uri: String, example: String) -> Result<Self, SigningKeysError> {
        let keys = SigningKeys::generate(Timestamp::now())?;
        let jwks = SigningRing::new(&keys)?.jwks();
        let first = keys.keys.first().ok_or(SigningKeysError::NoneUsable)?;
        let (pkcs8, _) = first.decode()?;
        Ok(Self {
            url,
            redirect_uri,
            example,
            kid: first.kid.clone(),
            key: EncodingKey::from_ec_der(&pkcs8),
            jwks,
            codes: Mutex::default(),
        })
    }
}

/// Serves the provider until the task is dropped.
pub async fn serve(listener: TcpListener, issuer: Issuer) -> std::io::Result<()> {
    let router = Router::new()
        .route("/.well-known/openid-configuration", get(discovery))
        .route("/jwks", get(jwks))
        .route("/authorize", get(authorize))
        .route("/login", post(login))
        .route("/token", post(token))
        .with_state(Arc::new(issuer));
    axum::serve(tokio::net::TcpListener::from_std(listener)?, router).await
}

async fn discovery(State(issuer): State<Arc<Issuer>>) -> Response {
    let at = |path: &str| format!("{}{path}", issuer.url);
    Json(json!({
        "issuer": issuer.url,
        "authorization_endpoint": at("/authorize"),
        "token_endpoint": at("/token"),
        "jwks_uri": at("/jwks"),
        "response_types_supported": ["code"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"],
        "code_challenge_methods_supported": ["S256"],
    }))
    .into_response()
}

async fn jwks(State(issuer): State<Arc<Issuer>>) -> Response {
    Json(issuer.jwks.clone()).into_response()
}

async fn authorize(State(issuer): State<Arc<Issuer>>, Query(request): Query<Request>) -> Response {
    if request.redirect_uri != issuer.redirect_uri {
        return (StatusCode::BAD_REQUEST, "redirect_uri is not the proxy's").into_response();
    }
    let page = Page { style: include_str!("../../templates/style.css"), request: &request, example: &issuer.example };
    page.render().map_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response(), |html| Html(html).into_response())
}

async fn login(State(issuer): State<Arc<Issuer>>, Form(login): Form<Login>) -> Response {
    let Login { email, request } = login;
    let (Some(code), Ok(mut back)) = (random_token(), Url::parse(&issuer.redirect_uri)) else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    back.query_pairs_mut().append_pair("code", &code).append_pair("state", &request.state);
    let granted =
        Granted { email, client_id: request.client_id, nonce: request.nonce, challenge: request.code_challenge };
    issuer.codes.lock().unwrap_or_else(PoisonError::into_inner).insert(code, granted);
    Redirect::to(back.as_str()).into_response()
}

async fn token(State(issuer): State<Arc<Issuer>>, Form(redemption): Form<Redemption>) -> Response {
    let granted = issuer.codes.lock().unwrap_or_else(PoisonError::into_inner).remove(&redemption.code);
    let Some(granted) = granted.filter(|granted| pkce::verifies(&redemption.code_verifier, &granted.challenge)) else {
        return (StatusCode::BAD_REQUEST, Json(json!({"error": "invalid_grant"}))).into_response();
    };
    let now = Timestamp::now().as_second();
    let claims = json!({
        "iss": issuer.url,
        "sub": granted.email,
        "aud": granted.client_id,
        "iat": now,
        "exp": now + 300,
        "nonce": granted.nonce,
        "email": granted.email,
        "email_verified": true,
    });
    let mut header = Header::new(Algorithm::ES256);
    header.kid = Some(issuer.kid.clone());
    match jsonwebtoken::encode(&header, &claims, &issuer.key) {
        Ok(id_token) => Json(json!({
            "access_token": "unused",
            "token_type": "Bearer",
            "expires_in": 300,
            "id_token": id_token,
        }))
        .into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}
