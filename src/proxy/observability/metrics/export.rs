//! Encodes metrics in the `OpenMetrics` text format.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, text::encode},
    metrics::{MetricType, exemplar::Exemplar},
    registry::{Registry, Unit},
};

/// The metrics of one scrape.
#[derive(Debug, Default)]
pub struct Page(Vec<Family>);

#[derive(Debug)]
struct Family {
    name: &'static str,
    help: &'static str,
    unit: Option<Unit>,
    samples: Vec<(Labels, Value)>,
}

/// Names and values.
pub type Labels = Vec<(&'static str, &'static str)>;

#[derive(Debug)]
enum Value {
    Counter(u64),
    Gauge(i64),
    Histogram { sum: f64, buckets: Vec<(f64, u64)> },
    Info,
}

impl Value {
    const fn kind(&self) -> MetricType {
        match self {
            Self::Counter(_) => MetricType::Counter,
            Self::Gauge(_) => MetricType::Gauge,
            Self::Histogram { .. } => MetricType::Histogram,
            Self::Info => MetricType::Info,
        }
    }
}

impl Page {
    fn add(&mut self, name: &'static str, help: &'static str, unit: Option<Unit>, samples: Vec<(Labels, Value)>) {
        self.0.push(Family { name, help, unit, samples });
    }

    /// The encoder adds `_total` to the name.
    pub fn counters(
        &mut self,
        name: &'static str,
        help: &'static str,
        samples: impl IntoIterator<Item = (Labels, u64)>,
    ) {
        let samples = samples.into_iter().map(|(labels, count)| (labels, Value::Counter(count))).collect();
        self.add(name, help, None, samples);
    }

    pub fn gauge(&mut self, name: &'static str, help: &'static str, value: i64) {
        self.add(name, help, None, vec![(Labels::new(), Value::Gauge(value))]);
    }

    /// The encoder adds `_seconds` to the name.
    pub fn timestamp(&mut self, name: &'static str, help: &'static str, seconds: i64) {
        self.add(name, help, Some(Unit::Seconds), vec![(Labels::new(), Value::Gauge(seconds))]);
    }

    /// A histogram of seconds; each bucket has its upper bound and its own count. The encoder adds `_seconds` to the name.
    pub fn seconds(&mut self, name: &'static str, help: &'static str, sum: f64, buckets: Vec<(f64, u64)>) {
        self.add(name, help, Some(Unit::Seconds), vec![(Labels::new(), Value::Histogram { sum, buckets })]);
    }

    pub fn info(&mut self, name: &'static str, help: &'static str, labels: Labels) {
        self.add(name, help, None, vec![(labels, Value::Info)]);
    }

    pub fn text(self, prefix: &str) -> Result<String, fmt::Error> {
        let mut registry = Registry::with_prefix(prefix);
        registry.register_collector(Box::new(self));
        let mut text = String::new();
        encode(&mut text, &registry)?;
        Ok(text)
    }
}

/// Exemplars would identify single requests.
const NO_EXEMPLAR: Option<&Exemplar<Labels, f64>> = None;

impl Collector for Page {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for Family { name, help, unit, samples } in &self.0 {
            let Some((_, first)) = samples.first() else { continue };
            let mut family = encoder.encode_descriptor(name, help, unit.as_ref(), first.kind())?;
            for (labels, value) in samples {
                match value {
                    Value::Counter(count) => family.encode_family(labels)?.encode_counter(count, NO_EXEMPLAR)?,
                    Value::Gauge(value) => family.encode_gauge(value)?,
                    Value::Histogram { sum, buckets } => {
                        let count = buckets.iter().map(|(_, count)| count).sum();
                        family.encode_histogram::<Labels>(*sum, count, buckets, None)?;
                    }
                    Value::Info => family.encode_info(labels)?,
                }
            }
        }
        Ok(())
    }
}
