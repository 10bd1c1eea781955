//! The server of the proxy over TCP: a real listener with one worker, between a client and an upstream on this machine.

#![expect(clippy::expect_used, clippy::unwrap_used, reason = "tests")]

mod bed;
mod draining;
mod forwarding;
mod http2;
mod limits;
mod mcp;
mod metrics;
mod raw;
mod redirects;
mod slow;
mod smuggling;
mod streams;
mod tokens;
#[cfg(feature = "opentelemetry")]
mod traces;
mod upstreams;

// What most modules use.
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::{SinkExt, StreamExt, channel::mpsc as channel};
use http::{Request, StatusCode, header::WWW_AUTHENTICATE};
use http_body_util::{BodyExt, Full};
use hyper::body::Frame;
use hyper_util::rt::TokioIo;
use mcp_oauth_operator::testing::{Session, SessionEvent, session};
use tokio::task::JoinHandle;

use self::bed::{Bed, in_time, text};
