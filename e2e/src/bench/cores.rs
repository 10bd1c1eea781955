//! Which core runs what, so that the load does not compete with the measured processes.

/// The core of the measured processes.
pub const MEASURED_CORE: &str = "0";

/// The core of the load and of the upstream.
pub const LOAD_CORE: &str = "1";
