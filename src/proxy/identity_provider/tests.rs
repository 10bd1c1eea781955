//! Tests with a malicious issuer (OIDC Core §3.1.3.7).

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use axum::{
    Json, Router,
    routing::{get, post},
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use http::StatusCode;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

use super::{discovery::FAILURE_VALID, *};
use crate::{
    crypto::{SigningKeys, SigningRing},
    oauth::login::tests::request,
    testing::{config, wall_clock},
};

/// The state of the malicious issuer.
struct MaliciousIssuer {
    key: Mutex<(String, EncodingKey, Value)>,
    id_token: Mutex<String>,
    key_sets: AtomicUsize,
    /// The metadata endpoint responds with 503.
    is_down: AtomicBool,
}

impl MaliciousIssuer {
    fn new() -> Self {
        let (key, id_token) = (Mutex::new(key()), Mutex::default());
        Self { key, id_token, key_sets: AtomicUsize::default(), is_down: AtomicBool::default() }
    }

    /// Returns an ID token with these claims.
    fn sign(&self, claims: &Value) -> String {
        let key = self.key.lock().unwrap();
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(key.0.clone());
        jsonwebtoken::encode(&header, claims, &key.1).unwrap()
    }
}

/// A key id, the key and its JWK set.
fn key() -> (String, EncodingKey, Value) {
    let keys = SigningKeys::generate(Timestamp::UNIX_EPOCH).unwrap();
    let jwks = serde_json::to_value(SigningRing::new(&keys).unwrap().jwks()).unwrap();
    (keys.keys[0].kid.clone(), EncodingKey::from_ec_der(&keys.keys[0].decode().unwrap().0), jwks)
}

struct Bed {
    server: Arc<MaliciousIssuer>,
    issuer: Issuer,
    login: Login,
    url: String,
    _directory: tempfile::TempDir,
}

impl Bed {
    async fn new() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = Arc::new(MaliciousIssuer::new());
        let (discovery, metadata, keys, tokens) = (url.clone(), server.clone(), server.clone(), server.clone());
        let router = Router::new()
            .route(
                "/.well-known/openid-configuration",
                get(async move || {
                    if metadata.is_down.load(Ordering::SeqCst) {
                        return Err(StatusCode::SERVICE_UNAVAILABLE);
                    }
                    Ok(Json(json!({
                        "issuer": discovery,
                        "authorization_endpoint": format!("{discovery}/authorize"),
                        "token_endpoint": format!("{discovery}/token"),
                        "jwks_uri": format!("{discovery}/jwks"),
                        "response_types_supported": ["code"],
                        "subject_types_supported": ["public"],
                        "id_token_signing_alg_values_supported": ["ES256"],
                    })))
                }),
            )
            .route(
                "/jwks",
                get(async move || {
                    keys.key_sets.fetch_add(1, Ordering::SeqCst);
                    Json(keys.key.lock().unwrap().2.clone())
                }),
            )
            .route(
                "/token",
                post(async move || {
                    let id_token = tokens.id_token.lock().unwrap().clone();
                    Json(json!({"access_token": "x", "token_type": "Bearer", "id_token": id_token, "refresh_token": "next"}))
                }),
            );
        tokio::spawn(async move { axum::serve(listener, router).await });
        let directory = tempfile::tempdir().unwrap();
        let mut config = config(directory.path(), "http://upstream");
        config.identity_provider.issuer_url = url.parse().unwrap();
        let http = http_client(&config.identity_provider, None).unwrap();
        let issuer = Issuer::new(&config, &config.public_url, http).unwrap();
        let login = Login::new(request(), "state".to_owned(), "nonce".to_owned(), "v".repeat(43), wall_clock()());
        Self { server, issuer, login, url, _directory: directory }
    }

    /// Valid claims.
    fn claims(&self) -> Value {
        let now = wall_clock()().as_second();
        json!({
            "iss": self.url, "sub": "ada", "aud": "client", "iat": now, "exp": now + 300, "nonce": "nonce",
            "email": "ada@example.com", "email_verified": true,
        })
    }

    async fn finish(&self, id_token: String) -> Result<UserClaims, IssuerError> {
        *self.server.id_token.lock().unwrap() = id_token;
        let secret = SecretString::from("secret");
        let credentials = ClientCredentials { client_id: "client", client_secret: &secret };
        Ok(self.issuer.redeem_code("code".to_owned(), &self.login, &credentials, wall_clock()()).await?.user)
    }
}

#[tokio::test]
async fn a17_id_token_of_another_login_is_rejected() {
    let bed = Bed::new().await;
    let user = bed.finish(bed.server.sign(&bed.claims())).await.unwrap();
    assert_eq!((user.subject.as_str(), user.email_verified), ("ada", true));
    let now = wall_clock()().as_second();
    for (claim, value) in [
        ("nonce", json!("of another login")),
        ("nonce", Value::Null),
        ("aud", json!("another client")),
        ("aud", json!(["client", "another client"])),
        ("iss", json!("https://evil.example")),
        ("iss", json!(format!("{}/", bed.url))),
        ("exp", json!(now - 60)),
        ("sub", Value::Null),
    ] {
        let mut claims = bed.claims();
        claims[claim] = value;
        let refused = bed.finish(bed.server.sign(&claims)).await;
        assert!(matches!(refused, Err(IssuerError::Refused(_) | IssuerError::Unavailable(_))), "{claims}");
    }
}

#[tokio::test]
async fn a16_only_boolean_true_marks_an_email_as_verified() {
    let bed = Bed::new().await;
    for (value, verified) in [(json!(true), true), (json!(false), false), (Value::Null, false), (json!("yes"), false)] {
        let mut claims = bed.claims();
        claims["email_verified"] = value.clone();
        let user = bed.finish(bed.server.sign(&claims)).await;
        assert_eq!(user.is_ok_and(|user| user.email_verified), verified, "{value}");
    }
}

#[tokio::test]
async fn a17_id_token_without_a_valid_signature_is_rejected() {
    let bed = Bed::new().await;
    let good = bed.server.sign(&bed.claims());
    let (_, rest) = good.split_once('.').unwrap();
    let (payload, signature) = rest.split_once('.').unwrap();
    let header = |text: &str| BASE64_URL_SAFE_NO_PAD.encode(text);
    let public = bed.server.key.lock().unwrap().2.to_string();
    let mut hmac = Header::new(Algorithm::HS256);
    hmac.kid = Some(bed.server.key.lock().unwrap().0.clone());
    let with_secret =
        |secret: &[u8]| jsonwebtoken::encode(&hmac, &bed.claims(), &EncodingKey::from_secret(secret)).unwrap();
    let mut flipped = signature.to_owned();
    flipped.replace_range(..1, if signature.starts_with('A') { "B" } else { "A" });
    for forged in [
        format!("{}.{payload}.", header(r#"{"alg":"none"}"#)),
        format!("{}.{payload}.{signature}", header(r#"{"alg":"none"}"#)),
        with_secret(public.as_bytes()),
        with_secret(b"secret"),
        good.replace(signature, &flipped),
        String::new(),
    ] {
        assert!(bed.finish(forged.clone()).await.is_err(), "{forged}");
    }
    assert!(bed.finish(good).await.is_ok());
}

#[tokio::test]
async fn a17_unknown_key_id_refetches_keys_within_the_rate_limit() {
    let bed = Bed::new().await;
    bed.finish(bed.server.sign(&bed.claims())).await.unwrap();
    assert_eq!(bed.server.key_sets.load(Ordering::SeqCst), 1);
    // A foreign key: the keys are fetched at most every ten seconds.
    let other = MaliciousIssuer::new();
    for _ in 0..20 {
        assert!(bed.finish(other.sign(&bed.claims())).await.is_err());
    }
    assert_eq!(bed.server.key_sets.load(Ordering::SeqCst), 1, "the keys were fetched within ten seconds");
    // The issuer rotates its key, and ten seconds pass.
    *bed.server.key.lock().unwrap() = key();
    bed.issuer.discovery.age(REFETCH_AFTER).await;
    bed.finish(bed.server.sign(&bed.claims())).await.unwrap();
    assert_eq!(bed.server.key_sets.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn logins_fail_until_the_issuer_responds() {
    let bed = Bed::new().await;
    let secret = SecretString::from("secret");
    let credentials = ClientCredentials { client_id: "client", client_secret: &secret };
    bed.server.is_down.store(true, Ordering::SeqCst);
    let error = bed.issuer.login_url(&bed.login, &credentials).await.unwrap_err();
    assert!(matches!(error, IssuerError::Unavailable(_)), "{error}");
    bed.server.is_down.store(false, Ordering::SeqCst);
    bed.issuer.discovery.age(FAILURE_VALID).await;
    assert!(bed.issuer.login_url(&bed.login, &credentials).await.unwrap().starts_with(&bed.url));
}

#[tokio::test]
async fn failed_recheck_keeps_the_rotated_refresh_token() {
    let bed = Bed::new().await;
    let secret = SecretString::from("secret");
    let credentials = ClientCredentials { client_id: "client", client_secret: &secret };
    let user = bed.finish(bed.server.sign(&bed.claims())).await.unwrap();
    let recheck = async |claims: &Value| {
        *bed.server.id_token.lock().unwrap() = bed.server.sign(claims);
        bed.issuer.recheck(&SecretString::from("first"), user.clone(), &credentials).await
    };
    let mut claims = bed.claims();
    claims["email_verified"] = false.into();
    let again = recheck(&claims).await.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!((again.user.email_verified, again.refresh_token.unwrap().expose_secret()), (false, "next"));
    for (claim, value) in [("sub", "somebody else"), ("aud", "another client"), ("iss", "https://evil.example")] {
        let mut claims = bed.claims();
        claims[claim] = value.into();
        let Err(RecheckError::Failed { refresh_token, .. }) = recheck(&claims).await else {
            panic!("{claim} is accepted")
        };
        assert_eq!(refresh_token.unwrap().expose_secret(), "next");
    }
}
