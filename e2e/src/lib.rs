//! The test bed: real components on one machine, in a network namespace of their own. Used by the command `e2e`, by
//! `make demo`, and by the tests in `e2e/tests`.

pub mod bench;
pub mod cluster;
pub mod demo;
pub mod forward;
pub mod image;
pub mod operator;
pub mod peers;
pub mod prepare;
pub mod progress;
pub mod run;
pub mod stage;
pub mod testing;
