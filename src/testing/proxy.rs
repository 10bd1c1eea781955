use std::{path::Path, sync::Arc};

use arc_swap::ArcSwap;
use jiff::Timestamp;
use tokio::runtime::Handle;

use super::record_keys;
use crate::{
    config::{ProxyConfig, StoreConfig},
    crypto::{AccessClaims, SigningKeys, now_seconds},
    oauth::resource::Resources,
    proxy::{
        authorization_server::{AuthorizationServer, ClientDocuments},
        clock::Clock,
        identity_provider::{Issuer, http_client},
        observability::traces::Tracer,
        runtime::proxy::{Proxy, access_rules},
        secrets::{EncryptionKey, Secrets},
        sessions::{LiveSet, Sessions, SqliteStore},
    },
    session::Session,
};

/// The configuration of a proxy at https://mcp.example.com for `upstream`, with SQLite and new files in the folder `at`.
pub fn config(at: &Path, upstream: &str) -> ProxyConfig {
    let signing = SigningKeys::generate(Timestamp::UNIX_EPOCH).unwrap();
    for (file, text) in [
        ("OAUTH_CLIENT_ID", "client"),
        ("OAUTH_CLIENT_SECRET", "secret"),
        ("ENCRYPTION_KEY", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="),
        ("keys.json", &signing.to_json().unwrap()),
    ] {
        std::fs::write(at.join(file), text).unwrap();
    }
    serde_yaml::from_str(&format!(
        "
publicURL: https://mcp.example.com
workers: 1
identityProvider: {{issuerURL: https://accounts.google.com}}
credentials: {{directory: {0}}}
signingKeys: {0}/keys.json
access: {{domains: [example.com]}}
upstream: {{url: '{upstream}'}}
sessions: {{store: {{type: SQLite, path: {0}/sessions.db}}}}
",
        at.display()
    ))
    .unwrap()
}

/// A proxy with a changed [`config`]. Its session set is incomplete, and nothing serves it yet.
pub async fn proxy(config: ProxyConfig, clock: Clock) -> Proxy {
    let StoreConfig::Sqlite { path } = &config.sessions.store else { panic!("the store is not SQLite") };
    let store = Arc::new(SqliteStore::open(path, record_keys()).await.unwrap());
    let secrets = Secrets::load(&config, EncryptionKey::Current).unwrap();
    let public_url = config.public_url.clone();
    let http = http_client(&config.identity_provider, None).unwrap();
    let rules = Arc::new(access_rules(&config, Timestamp::MAX));
    let server = AuthorizationServer {
        issuer: Arc::new(Issuer::new(&config, &public_url, http).unwrap()),
        documents: Arc::new(ClientDocuments::new(&config.clients.redirects)),
        resources: Resources::new(public_url.clone(), config.upstream.paths.clone()),
        public_url,
        secrets: Arc::new(ArcSwap::from_pointee(secrets)),
        sessions: Arc::new(Sessions::new(
            Arc::new(LiveSet::default()),
            store.clone(),
            Handle::current(),
            rules.clone(),
        )),
        rules,
        store,
        control: Handle::current(),
        metrics: Arc::default(),
        clock,
        config,
    };
    Proxy::new(server, record_keys(), Tracer::default())
}

/// A [`proxy`] for http://upstream with its folder.
#[cfg(test)]
pub(crate) async fn temporary_proxy(clock: Clock) -> (tempfile::TempDir, Proxy) {
    let folder = tempfile::tempdir().unwrap();
    let proxy = proxy(config(folder.path(), "http://upstream"), clock).await;
    (folder, proxy)
}

/// A token of a session, valid for ten minutes.
pub fn access_token(proxy: &Proxy, session: &Session, audience: &str) -> String {
    let now = proxy.authorization_server.now();
    let claims = AccessClaims {
        iss: proxy.authorization_server.public_url.as_str().into(),
        sub: "subject".into(),
        aud: audience.into(),
        exp: now_seconds(now) + 600,
        iat: now_seconds(now),
        jti: "jti".into(),
        client_id: "client".into(),
        sid: session.id.to_string().into(),
        scope: "mcp".into(),
    };
    proxy.authorization_server.secrets.load().signing.sign(&claims, now).unwrap()
}

/// Reads the files of the secrets again.
pub fn reload_secrets(proxy: &Proxy) {
    let server = &proxy.authorization_server;
    server.secrets.store(Arc::new(Secrets::load(&server.config, EncryptionKey::Current).unwrap()));
}

/// Sends traces to the collector at `endpoint`.
#[cfg(feature = "opentelemetry")]
pub fn export_traces(proxy: Proxy, endpoint: &str) -> Proxy {
    let server = Arc::into_inner(proxy.authorization_server).unwrap();
    let tracer = Tracer::exporting(Some(endpoint), &server.control).unwrap();
    Proxy::new(server, proxy.record_keys, tracer)
}
