//! What an operator of a proxy sees of it: metrics, the audit log and traces.

pub mod audit;
pub mod metrics;
pub mod traces;
