//! A bed for tests of the authorization server, without a network and with a clock that tests set.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use axum::{body::Body, http::Request, response::Response};
use http_body_util::BodyExt;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tower::ServiceExt;
use url::form_urlencoded;

use super::{config, proxy, session};
use crate::{
    api::proxy::Redirects,
    config::ProxyConfig,
    oauth::{authorize, client::Client, client_registry::ResolvedClient, code::Code, parameters::Parameters},
    proxy::{
        authorization_server::{AuthorizationServer, http::router},
        runtime::proxy::Proxy,
    },
    session::Session,
};

const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";
const REDIRECT_URI: &str = "http://localhost:1234/callback";

/// A proxy, a registered client, a pending session with its code, and a clock.
pub struct Bed {
    directory: tempfile::TempDir,
    pub proxy: Arc<Proxy>,
    pub server: Arc<AuthorizationServer>,
    clock: Arc<AtomicI64>,
    pub client_id: String,
    pub session: Session,
    pub code: String,
}

impl Bed {
    pub async fn new(grant_types: &[&str]) -> Self {
        Self::with(grant_types, |_| ()).await
    }

    /// A bed with a changed configuration.
    pub async fn with(grant_types: &[&str], change: impl FnOnce(&mut ProxyConfig)) -> Self {
        let begin = session("a").created_at;
        let clock = Arc::new(AtomicI64::new(begin.as_second()));
        let reading = clock.clone();
        let now = move || Timestamp::from_second(reading.load(Ordering::SeqCst)).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let mut config = config(directory.path(), "http://upstream");
        change(&mut config);
        let proxy = proxy(config, Arc::new(now)).await;
        let keyring = proxy.authorization_server.secrets.load().keyring.clone();
        let registration = json!({
            "redirect_uris": ["http://localhost/callback"],
            "token_endpoint_auth_method": "none",
            "grant_types": grant_types,
        });
        let client = Client::register(registration.to_string().as_bytes(), &Redirects::default(), begin).unwrap();
        let client_id = client.id(&keyring).unwrap();
        let query = [
            ("response_type", "code"),
            ("client_id", client_id.as_str()),
            ("redirect_uri", REDIRECT_URI),
            ("code_challenge", CHALLENGE),
            ("code_challenge_method", "S256"),
        ];
        let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(query).finish();
        let (query, client) = (Parameters::parse(query.as_bytes()), ResolvedClient::Registered(client));
        let request =
            authorize::check(&query, &client, &Redirects::default(), &proxy.authorization_server.resources).unwrap();
        let session = Session { client: request.session_client(), ..session("a") };
        proxy.authorization_server.store.create(&session).await.unwrap();
        let code = Code::seal(session.id, &request, &keyring, begin).unwrap();
        let server = proxy.authorization_server.clone();
        Self { directory, proxy: Arc::new(proxy), server, clock, client_id, session, code }
    }

    /// The path of an authorization request with changed or, with `None`, removed parameters.
    pub fn authorize(&self, changes: &[(&str, Option<&str>)]) -> String {
        let mut query = vec![
            ("response_type", "code"),
            ("client_id", self.client_id.as_str()),
            ("redirect_uri", REDIRECT_URI),
            ("state", "the-state"),
            ("code_challenge", CHALLENGE),
            ("code_challenge_method", "S256"),
        ];
        query.retain(|(name, _)| !changes.iter().any(|(changed, _)| changed == name));
        query.extend(changes.iter().filter_map(|(name, value)| Some((*name, (*value)?))));
        format!("/authorize?{}", form_urlencoded::Serializer::new(String::new()).extend_pairs(query).finish())
    }

    pub async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Response {
        let mut request = Request::get(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        router(self.server.clone()).oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
    }

    /// Contains the database and the keys.
    pub fn directory(&self) -> &std::path::Path {
        self.directory.path()
    }

    pub fn wait(&self, time: SignedDuration) {
        self.clock.fetch_add(time.as_secs(), Ordering::SeqCst);
    }

    pub async fn post_token(&self, parameters: &[(&str, &str)]) -> (u16, Value) {
        self.post("/token", parameters).await
    }

    /// Returns the id of another client.
    pub fn register_another(&self) -> String {
        let keyring = self.proxy.authorization_server.secrets.load().keyring.clone();
        let other = json!({"redirect_uris": ["http://localhost/x"], "token_endpoint_auth_method": "none"});
        let registered = Client::register(other.to_string().as_bytes(), &Redirects::default(), self.session.created_at);
        registered.unwrap().id(&keyring).unwrap()
    }

    /// Posts parameters, by default with the client's id, and returns status and body.
    pub async fn post(&self, path: &str, parameters: &[(&str, &str)]) -> (u16, Value) {
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.extend_pairs(parameters);
        if !parameters.iter().any(|(name, _)| *name == "client_id") {
            form.append_pair("client_id", &self.client_id);
        }
        let request = Request::post(path)
            .header("content-type", "application/x-www-form-urlencoded")
            .body(Body::from(form.finish()))
            .unwrap();
        let response = router(self.server.clone()).oneshot(request).await.unwrap();
        assert_eq!(response.headers()["cache-control"], "no-store");
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).unwrap() })
    }

    pub async fn redeem(&self) -> (u16, Value) {
        self.post_token(&[("grant_type", "authorization_code"), ("code", &self.code), ("code_verifier", VERIFIER)])
            .await
    }

    pub async fn refresh(&self, token: &Value) -> (u16, Value) {
        self.post_token(&[("grant_type", "refresh_token"), ("refresh_token", token.as_str().unwrap())]).await
    }

    pub async fn stored(&self) -> Option<Session> {
        self.proxy.authorization_server.store.get(self.session.id).await.unwrap().map(|stored| stored.session)
    }
}

pub fn error((status, body): &(u16, Value)) -> (u16, &str) {
    (*status, body["error"].as_str().unwrap())
}

/// The grant types of clients that get refresh tokens.
pub const REFRESHES: [&str; 2] = ["authorization_code", "refresh_token"];

pub async fn text(response: Response) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}
