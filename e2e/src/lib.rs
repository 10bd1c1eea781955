//! The test bed: real components on one machine, in a network namespace of their own. Used by the `e2e` command, by
//! `make demo`, and by the tests in `e2e/tests`.
//!
//! Layers, from top to bottom; a module uses only modules in layers below its own (`tests/architecture.rs`):
//!
//! 1. `demo`, `testing`, `bench`: the commands `e2e demo`, `e2e test`, `e2e bench` and `e2e soak`.
//! 2. `environment`, `prepare`: the complete environment; building and downloading of cached components.
//! 3. `operator`: installs the operator in the cluster.
//! 4. `peers`: the programs around the operator.
//! 5. `cluster`: the Kubernetes cluster.
//! 6. `image`, `forward`: container images; loopback ports that are forwarded into the run's namespace.
//! 7. `run`, `progress`, `program`, `tls`: the run with its journal; progress and waiting; required programs; the TLS
//!    library's setting. `reference`: generates docs/reference.md.

pub mod bench;
pub mod cluster;
pub mod demo;
pub mod environment;
pub mod forward;
pub mod image;
pub mod operator;
pub mod peers;
pub mod prepare;
pub mod program;
pub mod progress;
pub mod reference;
pub mod run;
pub mod testing;
pub mod tls;
