//! A Service for a program outside the pods.

use anyhow::Result;
use serde_json::json;

use super::Cluster;
use crate::run::NODE_ADDRESS;

impl Cluster {
    /// Creates a Service whose `port` leads to a program that listens on the run's address at `target`. Creates its
    /// Kubernetes namespace too.
    pub fn create_service_for(&self, service: &str, namespace: &str, port: u16, target: u16) -> Result<()> {
        let manifest = json!({ "apiVersion": "v1", "kind": "List", "items": [
            { "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": namespace } },
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": { "name": service, "namespace": namespace },
                "spec": { "ports": [{ "name": "http", "port": port, "targetPort": target }] },
            },
            {
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {
                    "name": service,
                    "namespace": namespace,
                    "labels": { "kubernetes.io/service-name": service },
                },
                "addressType": "IPv4",
                "ports": [{ "name": "http", "port": target, "protocol": "TCP" }],
                "endpoints": [{ "addresses": [NODE_ADDRESS], "conditions": { "ready": true } }],
            },
        ]});
        self.kubectl_program().apply(&manifest.to_string())?;
        Ok(())
    }
}
