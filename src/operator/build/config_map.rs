use k8s_openapi::api::core::v1::ConfigMap;

use super::metadata;
use crate::operator::{mounts, validate::ValidatedProxy};

/// The configuration file that the pods read at start.
pub(super) fn build(proxy: &ValidatedProxy, config: String) -> ConfigMap {
    ConfigMap {
        metadata: metadata(proxy, &proxy.name),
        data: Some([(mounts::CONFIG_FILE.to_owned(), config)].into()),
        ..ConfigMap::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::without_key_secret;
    use crate::{
        config::{ProxyConfig, StoreConfig},
        operator::validate::tests::validated,
    };

    #[test]
    fn config_map_round_trips_the_resource() {
        let proxy = validated(&json!({"tokens": {"accessTTL": "30m"}, "sessions": {"idleTTL": "24h"}}));
        let data = without_key_secret(&proxy).unwrap().config_map.data.unwrap();
        let config: ProxyConfig = serde_yaml::from_str(&data["config.yaml"]).unwrap();
        config.validate().unwrap();
        assert_eq!(config.tokens.access_ttl.as_secs(), 1800);
        assert_eq!(config.sessions.idle_ttl.as_secs(), 86_400);
        assert_eq!(
            config.sessions.store,
            StoreConfig::Kubernetes {
                namespace: "gateway".to_owned(),
                proxy: "mcp".to_owned(),
                uid: proxy.uid.clone()
            }
        );
    }
}
