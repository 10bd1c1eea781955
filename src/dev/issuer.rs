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
use serde_json::{Value, json};
use url::Url;

use crate::{
    crypto::{SigningKeys, SigningKeysError, SigningRing, random_token},
    oauth::pkce,
};

/// An OpenID Connect provider for one relying party. Its login page accepts any e-mail address without a password.
pub struct Issuer {
    url: String,
    redirect_uri: String,
    example_email: String,
    kid: String,
    key: EncodingKey,
    ring: SigningRing,
    /// Logins by authorization code.
    logins: Mutex<HashMap<String, Login>>,
}

/// The authorization request. Hidden fields of the login form repeat it.
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
struct TokenRequest {
    code: String,
    code_verifier: String,
}

#[derive(Template)]
#[template(
    source = r#"<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Log in (development)</title><style>{{ style|safe }}</style></head><body><main><h1>Log in</h1><p class="warning">For development only: anyone can log in as any user that spec.access admits.</p><form method="post" action="/login"><input type="hidden" name="client_id" value="{{ request.client_id }}"><input type="hidden" name="redirect_uri" value="{{ request.redirect_uri }}"><input type="hidden" name="state" value="{{ request.state }}">{% if let Some(nonce) = request.nonce %}<input type="hidden" name="nonce" value="{{ nonce }}">{% endif %}<input type="hidden" name="code_challenge" value="{{ request.code_challenge }}"><label for="email">E-mail address</label> <input id="email" name="email" type="email" required autofocus placeholder="{{ example }}"> <button type="submit" class="primary">Log in</button></form></main></body></html>"#,
    ext = "html"
)]
struct Page<'a> {
    style: &'a str,
    request: &'a Request,
    example: &'a str,
}

impl Issuer {
    /// The login page shows `example_email` as a placeholder.
    pub fn new(url: String, redirect_uri: String, example_email: String) -> Result<Self, SigningKeysError> {
        let keys = SigningKeys::generate(Timestamp::now())?;
        let ring = SigningRing::new(&keys)?;
        let first = keys.keys.first().ok_or(SigningKeysError::NoneUsable)?;
        let (kid, key) = (first.kid.clone(), EncodingKey::from_ec_der(&first.decode()?.0));
        Ok(Self { url, redirect_uri, example_email, kid, key, ring, logins: Mutex::default() })
    }
}

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

async fn discovery(State(issuer): State<Arc<Issuer>>) -> Json<Value> {
    let endpoint = |path: &str| format!("{}{path}", issuer.url);
    Json(json!({
        "issuer": issuer.url,
        "authorization_endpoint": endpoint("/authorize"),
        "token_endpoint": endpoint("/token"),
        "jwks_uri": endpoint("/jwks"),
        "response_types_supported": ["code"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"],
        "code_challenge_methods_supported": ["S256"],
    }))
}

async fn jwks(State(issuer): State<Arc<Issuer>>) -> Response {
    Json(issuer.ring.jwks()).into_response()
}

async fn authorize(State(issuer): State<Arc<Issuer>>, Query(request): Query<Request>) -> Response {
    if request.redirect_uri != issuer.redirect_uri {
        return (StatusCode::BAD_REQUEST, "redirect_uri is not the proxy's").into_response();
    }
    let style = include_str!("../../templates/style.css");
    let page = Page { style, request: &request, example: &issuer.example_email };
    page.render().map(Html).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR).into_response()
}

async fn login(State(issuer): State<Arc<Issuer>>, Form(login): Form<Login>) -> Result<Redirect, StatusCode> {
    let code = random_token().ok_or(StatusCode::INTERNAL_SERVER_ERROR)?;
    let mut redirect = Url::parse(&issuer.redirect_uri).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    redirect.query_pairs_mut().append_pair("code", &code).append_pair("state", &login.request.state);
    issuer.logins.lock().unwrap_or_else(PoisonError::into_inner).insert(code, login);
    Ok(Redirect::to(redirect.as_str()))
}

async fn token(State(issuer): State<Arc<Issuer>>, Form(token): Form<TokenRequest>) -> Response {
    let login = issuer.logins.lock().unwrap_or_else(PoisonError::into_inner).remove(&token.code);
    let is_verified = |login: &Login| pkce::verifies(&token.code_verifier, &login.request.code_challenge);
    let Some(Login { email, request }) = login.filter(is_verified) else {
        return (StatusCode::BAD_REQUEST, Json(json!({"error": "invalid_grant"}))).into_response();
    };
    let now = Timestamp::now().as_second();
    let claims = json!({
        "iss": issuer.url,
        "sub": email,
        "aud": request.client_id,
        "iat": now,
        "exp": now + 300,
        "nonce": request.nonce,
        "email": email,
        "email_verified": true,
    });
    let header = Header { kid: Some(issuer.kid.clone()), ..Header::new(Algorithm::ES256) };
    match jsonwebtoken::encode(&header, &claims, &issuer.key) {
        Ok(id_token) => {
            let tokens =
                json!({"access_token": "unused", "token_type": "Bearer", "expires_in": 300, "id_token": id_token});
            Json(tokens).into_response()
        }
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}
