use http::{HeaderMap, StatusCode, request::Parts};
use tokio::runtime::Handle;

use super::{TraceError, is_configured};
use crate::proxy::observability::metrics::Outcome;

/// Exports nothing.
#[derive(Debug, Default)]
pub struct Tracer(());

pub struct Span;

impl Tracer {
    pub fn from_environment(_: &Handle) -> Result<Self, TraceError> {
        if is_configured() {
            tracing::warn!("no traces are sent: this program was built without its feature opentelemetry");
        }
        Ok(Self(()))
    }

    pub fn begin(&self, _: &Parts) -> Span {
        Span
    }

    pub async fn shut_down(&self) {}
}

impl Span {
    pub fn headers(&self) -> HeaderMap {
        HeaderMap::new()
    }

    pub fn end(self, _: Outcome, _: StatusCode) {}
}
