//! Test support. Production code must not use it (`tests/architecture.rs`). Tests in `src` use all of it; those in `tests` use its
//! public part (feature `testing`), and so do the fuzz targets (feature `fuzzing`).

#![expect(clippy::unwrap_used, reason = "tests")]

#[cfg(test)]
pub(crate) mod authorization_server;
#[cfg(any(test, feature = "fuzzing"))]
mod differential;
#[cfg(test)]
mod fake_api;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod log;
mod proxy;
mod samples;
#[cfg(test)]
mod wakes;

#[cfg(feature = "opentelemetry")]
pub use self::proxy::export_traces;
#[cfg(test)]
pub(crate) use self::{fake_api::FakeApi, proxy::temporary_proxy, wakes::Wakes};
pub use self::{
    log::Log,
    proxy::{access_token, config, proxy, reload_secrets},
    samples::{active_session, keyring, record_keys, ring, session},
};
pub use crate::{
    proxy::{
        clock::{Clock, wall_clock},
        resource_server::KEEPALIVE_IDLE,
        runtime::{
            health::router as health_router,
            proxy::Proxy,
            server::{ServeError, request_head::MAX_HEAD, serve},
        },
        sessions::SessionEvent,
    },
    session::Session,
};
