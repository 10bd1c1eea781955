//! Traces of forwarded requests. With the feature `opentelemetry` and an `OTEL_EXPORTER_OTLP_ENDPOINT`, each request is a span
//! that continues the trace of its `traceparent` (W3C Trace Context), and the upstream gets the span's own `traceparent`.
//! Otherwise the client's `traceparent` is forwarded unchanged.

#[cfg(feature = "opentelemetry")]
mod export;
#[cfg(not(feature = "opentelemetry"))]
mod none;

use thiserror::Error;

#[cfg(feature = "opentelemetry")]
pub use export::{Span, Tracer};
#[cfg(not(feature = "opentelemetry"))]
pub use none::{Span, Tracer};

/// One of these variables enables the export (OpenTelemetry, OTLP exporter).
const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];

#[derive(Debug, Error)]
#[error("traces cannot be sent: {0}; see {names}, which is a URL such as http://collector:4318", names = ENDPOINTS[1])]
pub struct TraceError(#[source] Box<dyn std::error::Error + Send + Sync>);

fn is_configured() -> bool {
    ENDPOINTS.iter().any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()))
}
