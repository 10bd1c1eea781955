//! Traces of forwarded requests. Built with the feature `opentelemetry` and given an `OTEL_EXPORTER_OTLP_ENDPOINT`, each request
//! is a span that goes on with the trace of its `traceparent` (W3C Trace Context), whose own `traceparent` the upstream gets.
//! Otherwise the client's goes to the upstream as it is, and nothing here costs anything.

#[cfg(feature = "opentelemetry")]
mod export;
#[cfg(not(feature = "opentelemetry"))]
mod none;

use thiserror::Error;

#[cfg(feature = "opentelemetry")]
pub use export::{Span, Tracer};
#[cfg(not(feature = "opentelemetry"))]
pub use none::{Span, Tracer};

/// Where traces are sent to: one of these has to be set (OpenTelemetry, OTLP exporter).
const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];

/// Why no traces can be sent.
#[derive(Debug, Error)]
#[error("traces cannot be sent: {0}; see {names}, which is a URL such as http://collector:4318", names = ENDPOINTS[1])]
pub struct TraceError(#[source] Box<dyn std::error::Error + Send + Sync>);

/// Whether somebody wants traces.
fn are_wanted() -> bool {
    ENDPOINTS.iter().any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()))
}
