//! A proxy for one test, beside the shared one: it can be restarted, and its requests are counted.

use std::{collections::BTreeSet, fs};

use e2e::{
    forward::free_port,
    peers::{
        edge::Edge,
        standalone::{Proxy, ProxyOptions},
    },
    run::Run,
};
use serde_json::Value;
use url::Url;

use crate::bed::Bed;

pub struct DedicatedProxy {
    run: Run,
    edge: Edge,
    proxy: Proxy,
}

impl DedicatedProxy {
    /// Starts the proxy in front of a host and port, with its own edge, database and keys.
    pub async fn up(bed: &Bed, name: &str, upstream: &str) -> Self {
        Self::with(bed, name, upstream, &[]).await
    }

    /// Like [`Self::up`], with additional configuration.
    pub async fn with(bed: &Bed, name: &str, upstream: &str, settings: &[(&str, Value)]) -> Self {
        let listen = format!("127.0.0.1:{}", free_port().unwrap());
        let edge = Edge::up(&bed.run, name, free_port().unwrap(), &listen).await.unwrap();
        let provider = &bed.provider;
        let options = ProxyOptions {
            public_url: &edge.url,
            provider,
            upstream,
            recheck_on_refresh: false,
            documents: None,
            settings,
        };
        let proxy = Proxy::up(&bed.run, &format!("proxy-{name}"), &listen, options).await.unwrap();
        Self { run: bed.run.clone(), edge, proxy }
    }

    /// The MCP endpoint's URL.
    pub fn url(&self) -> String {
        format!("{}/mcp", self.edge.url)
    }

    /// Host and port of the proxy behind its edge.
    pub fn address(&self) -> &str {
        &self.edge.target
    }

    pub async fn restart(&self) {
        self.proxy.restart().await.unwrap();
    }

    pub fn process(&self) -> &Proxy {
        &self.proxy
    }

    /// Deletes all sessions and returns their number.
    pub async fn delete_sessions(&self) -> usize {
        self.proxy.delete_sessions().await.unwrap()
    }

    /// The number of registrations.
    pub fn registrations(&self) -> usize {
        self.requests().iter().filter(|request| request.starts_with("POST /register ")).count()
    }

    /// The number of token requests, with a code or a refresh token.
    pub fn token_requests(&self) -> usize {
        self.requests().iter().filter(|request| request.starts_with("POST /token ")).count()
    }

    /// The ids of clients that have requested a login.
    pub fn clients(&self) -> BTreeSet<String> {
        let requests = self.requests();
        let paths = requests.iter().filter_map(|request| request.strip_prefix("GET ")?.split(' ').next());
        let urls = paths.filter_map(|path| Url::parse(&self.edge.url).ok()?.join(path).ok());
        urls.filter(|url| url.path() == "/authorize")
            .filter_map(|url| url.query_pairs().find(|(name, _)| name == "client_id").map(|(_, id)| id.into_owned()))
            .collect()
    }

    /// The request lines in the edge's log: `POST /token HTTP/1.1`.
    fn requests(&self) -> Vec<String> {
        let log = fs::read_to_string(self.run.log(&format!("edge-{}", self.edge.name))).unwrap();
        log.lines().filter_map(|line| line.split('"').nth(1)).map(str::to_owned).collect()
    }
}
