//! Metrics, the audit log and traces of a proxy.

pub mod audit;
pub mod metrics;
pub mod traces;
