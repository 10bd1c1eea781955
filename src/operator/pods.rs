//! Queries the pods for what only they know: whether the issuer returns refresh tokens. The operator may be unable to reach the
//! issuer.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use bytes::Bytes;
use futures::future::join_all;
use http::Request;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client, api::ListParams};

use super::{build::label_selector, mounts, validate::ValidatedProxy};
use crate::{
    config::PodStatus,
    http_client::{HttpClient, Schemes, Settings, all_addresses},
};

/// Timeout of a query.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Maximum size of a response, in bytes.
const MAX_RESPONSE: usize = 4096;

/// Maximum number of queried pods: one pod that has seen a login is enough.
const MAX_PODS: usize = 20;

/// The status of the pods that respond. No pod is queried unless the resource needs something that only pods know.
pub(super) async fn fetch(client: &Client, proxy: &ValidatedProxy) -> Vec<PodStatus> {
    if !proxy.config.identity_provider.rechecks() {
        return Vec::new();
    }
    let api: Api<Pod> = Api::namespaced(client.clone(), &proxy.namespace);
    let pods = match api.list(&ListParams::default().labels(&label_selector(&proxy.name))).await {
        Ok(pods) => pods,
        Err(error) => {
            // The reconcile continues: everything else can still be applied and reported.
            tracing::warn!(%error, namespace = proxy.namespace, name = proxy.name, "cannot list the pods");
            return Vec::new();
        }
    };
    let http = HttpClient::new(Settings {
        schemes: Schemes::Http,
        timeout: TIMEOUT,
        max_body: MAX_RESPONSE,
        addresses: all_addresses,
        pooled: false,
    });
    let Ok(http) = http else { return Vec::new() };
    let queries = pods.items.iter().filter_map(address).take(MAX_PODS).map(|address| status(&http, address));
    join_all(queries).await.into_iter().flatten().collect()
}

/// The IP of a pod that has its own. Pods of the Deployment never use the host network.
fn address(pod: &Pod) -> Option<IpAddr> {
    if pod.spec.as_ref()?.host_network == Some(true) {
        return None;
    }
    pod.status.as_ref()?.pod_ip.as_ref()?.parse().ok()
}

async fn status(http: &HttpClient, address: IpAddr) -> Option<PodStatus> {
    let authority = SocketAddr::new(address, mounts::HEALTH_PORT);
    let request = Request::get(format!("http://{authority}/status")).body(Bytes::new()).ok()?;
    serde_json::from_slice(http.send(request).await.ok()?.body()).ok()
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
        assert_eq!(address(json!({"containers": [], "hostNetwork": true}), status), None);
        assert_eq!(address(json!({}), json!({})), None);
    }
}
