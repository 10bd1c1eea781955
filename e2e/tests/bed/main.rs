//! What the product promises, shown on the real parts of the bed. `make test` sets the stage, runs these and ends it;
//! without a stage they fail and say so.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod access;
mod changes;
mod children;
mod credentials;
mod documents;
mod install;
mod listed_clients;
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
mod support;
mod validation;
mod watch;
