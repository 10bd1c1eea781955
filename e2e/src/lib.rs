//! The test bed: real components on one machine, in a network namespace of their own. Used by the `e2e` command, by
//! `make demo`, and by the tests in `e2e/tests`.
//!
//! Layers, from top to bottom; a module uses only modules in layers below its own (`tests/architecture.rs`):
//!
//! 1. `demo`, `testing`, `bench`: the commands `e2e demo`, `e2e test`, `e2e bench` and `e2e soak`.
//! 2. `stage`, `prepare`: a complete bed; everything that is built or fetched once.
//! 3. `operator`: the operator in the cluster.
//! 4. `peers`: the real programs around the operator.
//! 5. `cluster`: the Kubernetes cluster.
//! 6. `image`, `forward`: container images; ports of the loopback that lead into the run's network.
//! 7. `run`, `progress`, `program`: the run with its journal; progress and waiting; programs of the machine.

pub mod bench;
pub mod cluster;
pub mod demo;
pub mod forward;
pub mod image;
pub mod operator;
pub mod peers;
pub mod prepare;
pub mod program;
pub mod progress;
pub mod run;
pub mod stage;
pub mod testing;
