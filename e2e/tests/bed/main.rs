//! End-to-end tests on the test bed. `make test` starts the environment, runs these tests and removes it; without an
//! environment they fail.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod access;
mod changes;
mod children;
mod credentials;
mod documents;
mod install;
mod login;
mod one_password;
mod outages;
mod protocol;
mod recheck;
mod refusals;
mod replica;
mod rotation;
mod secrets;
mod sessions;
mod static_clients;
mod support;
mod validation;
mod watch;
