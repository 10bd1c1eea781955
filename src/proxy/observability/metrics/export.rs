//! Encodes counters and histograms that are not prometheus-client's own, with the values of one scrape.

use std::fmt;

use prometheus_client::{
    encoding::{EncodeMetric, MetricEncoder},
    metrics::{MetricType, exemplar::Exemplar},
};

/// Names and values.
pub type Labels = Vec<(&'static str, &'static str)>;

/// Exemplars would identify single requests.
const NO_EXEMPLAR: Option<&Exemplar<Labels, f64>> = None;

/// A counter for each of these labels.
#[derive(Debug)]
pub struct Counters(pub Vec<(Labels, u64)>);

impl EncodeMetric for Counters {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|(labels, count)| encoder.encode_family(labels)?.encode_counter(count, NO_EXEMPLAR))
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Counter
    }
}

/// A histogram of seconds. Each bucket has its upper bound and its own count.
#[derive(Debug)]
pub struct Histogram {
    pub sum: f64,
    pub buckets: Vec<(f64, u64)>,
}

impl EncodeMetric for Histogram {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let count = self.buckets.iter().map(|(_, count)| count).sum();
        encoder.encode_histogram::<Labels>(self.sum, count, &self.buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}
