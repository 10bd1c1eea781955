use std::time::Duration;

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{
        counter::Counter,
        family::Family,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

/// Metrics of the operator. No label contains a resource name, because the number of resources is unbounded.
#[derive(Debug)]
pub(super) struct Metrics {
    registry: Registry,
    reconciles: Counter,
    errors: Family<ErrorLabels, Counter>,
    watch_errors: Counter,
    duration: Histogram,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct ErrorLabels {
    category: &'static str,
}

impl Default for Metrics {
    fn default() -> Self {
        let metrics = Self {
            registry: Registry::with_prefix("mcp_oauth_operator"),
            reconciles: Counter::default(),
            errors: Family::default(),
            watch_errors: Counter::default(),
            duration: Histogram::new(exponential_buckets(0.005, 2.0, 12)),
        };
        let Self { mut registry, reconciles, errors, watch_errors, duration } = metrics;
        registry.register("reconciles", "Reconciles", reconciles.clone());
        registry.register("reconcile_errors", "Failed reconciles by category", errors.clone());
        registry.register("watch_errors", "Watches that failed and were restarted", watch_errors.clone());
        registry.register("reconcile_duration_seconds", "Duration of a reconcile", duration.clone());
        Self { registry, reconciles, errors, watch_errors, duration }
    }
}

impl Metrics {
    pub(super) fn reconciled(&self, duration: Duration) {
        self.reconciles.inc();
        self.duration.observe(duration.as_secs_f64());
    }

    pub(super) fn failed(&self, category: &'static str) {
        self.errors.get_or_create(&ErrorLabels { category }).inc();
    }

    pub(super) fn watch_failed(&self) {
        self.watch_errors.inc();
    }

    /// Encodes all metrics in the OpenMetrics text format.
    pub(super) fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reconcile_errors_are_counted_by_category() {
        let metrics = Metrics::default();
        metrics.failed("forbidden");
        metrics.reconciled(Duration::from_millis(3));
        let text = metrics.encode();
        assert!(text.contains(r#"mcp_oauth_operator_reconcile_errors_total{category="forbidden"} 1"#), "{text}");
        assert!(text.contains("mcp_oauth_operator_reconciles_total 1"), "{text}");
    }

    #[test]
    fn alerts_and_dashboard_use_existing_metrics() {
        let metrics = Metrics::default();
        metrics.failed("forbidden");
        let text = metrics.encode();
        let files = [
            include_str!("../../config/monitoring/alerts.yaml"),
            include_str!("../../config/monitoring/dashboard.json"),
        ];
        let words = files.iter().flat_map(|file| file.split(|c: char| !c.is_ascii_alphanumeric() && c != '_'));
        let referenced: Vec<&str> = words.filter(|word| word.starts_with("mcp_oauth_operator_")).collect();
        assert!(referenced.len() > 3, "{referenced:?}");
        for name in referenced {
            assert!(text.contains(&format!("\n{name}")), "{name}");
        }
    }
}
