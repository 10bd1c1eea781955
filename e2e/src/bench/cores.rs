//! The CPU cores of load and measured processes, kept apart so that they do not compete.

pub const MEASURED_CORE: &str = "0";

/// The core of the load generator and the upstream.
pub const LOAD_CORE: &str = "1";
