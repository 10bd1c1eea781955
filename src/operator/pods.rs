//! Asks the pods for what only they can know: they are where the issuer and the upstream are reached from, which the operator
//! may not be.

use std::{net::IpAddr, time::Duration};

use bytes::Bytes;
use futures::future::join_all;
use http::Uri;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::{
    client::legacy::{Client as HttpClient, connect::HttpConnector},
    rt::TokioExecutor,
};
use k8s_openapi::api::core::v1;
use kube::{
    Api, Client,
    api::{ApiResource, ListParams, Object},
};
use serde::Deserialize;

use super::{build::label_selector, mounts, validate::ValidatedProxy};
use crate::config::PodStatus;

/// How long a pod may take to answer.
const TIMEOUT: Duration = Duration::from_secs(2);

/// The largest answer that is read, in bytes.
const MAX_ANSWER: usize = 4096;

/// How many pods are asked: one of many that has seen a login is enough.
const ASKED: usize = 20;

/// The status of the pods that respond. No pod is queried unless the resource needs something that only pods know.
pub(super) async fn fetch(client: &Client, proxy: &ValidatedProxy) -> Vec<PodStatus> {
    if !proxy.config.identity_provider.rechecks() {
        return Vec::new();
    }
    let kind = ApiResource::erase::<v1::Pod>(&());
    let api: Api<Pod> = Api::namespaced_with(client.clone(), &proxy.namespace, &kind);
    let pods = match api.list(&ListParams::default().labels(&label_selector(&proxy.name))).await {
        Ok(pods) => pods,
        Err(error) => {
            // Everything else has been done, and is to be reported.
            tracing::warn!(%error, namespace = proxy.namespace, name = proxy.name, "the pods cannot be listed");
            return Vec::new();
        }
    };
    let http = HttpClient::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build_http();
    let asking = pods.items.iter().filter_map(address).take(ASKED).map(|address| status(&http, address));
    join_all(asking).await.into_iter().flatten().collect()
}

/// What is read of a pod: the code that reads all of it is large.
type Pod = Object<PodSpec, PodNetwork>;

#[derive(Clone, Debug, Deserialize)]
struct PodSpec {
    #[serde(default, rename = "hostNetwork")]
    host_network: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct PodNetwork {
    #[serde(rename = "podIP")]
    address: Option<String>,
}

/// Of a pod with an address of its own: one on its node's network is none of ours.
fn address(pod: &Pod) -> Option<IpAddr> {
    let address = pod.status.as_ref()?.address.as_ref()?;
    if pod.spec.host_network { None } else { address.parse().ok() }
}

async fn status(http: &HttpClient<HttpConnector, Empty<Bytes>>, address: IpAddr) -> Option<PodStatus> {
    let authority = std::net::SocketAddr::new(address, mounts::HEALTH_PORT);
    let uri: Uri = format!("http://{authority}/status").parse().ok()?;
    let asked = async {
        let answer = http.get(uri).await.ok()?;
        let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await.ok()?;
        serde_json::from_slice(&body.to_bytes()).ok()
    };
    tokio::time::timeout(TIMEOUT, asked).await.ok()?
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn only_pods_with_their_own_ip_are_queried() {
        let address = |spec: Value, status: Value| {
            let pod = json!({"metadata": {"name": "mcp-0"}, "spec": spec, "status": status});
            address(&serde_json::from_value(pod).unwrap()).map(|address| address.to_string())
        };
        let status = json!({"podIP": "10.1.2.3"});
        assert_eq!(address(json!({"containers": []}), status.clone()).as_deref(), Some("10.1.2.3"));
        assert_eq!(address(json!({"hostNetwork": true}), status), None);
        assert_eq!(address(json!({}), json!({})), None);
    }
}
