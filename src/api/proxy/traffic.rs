use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::{
    Bounded, Duration, Size,
    duration::{HOUR, MINUTE, SECOND},
};

/// Timeouts of the upstream and of clients.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Timeouts {
    /// Timeout for connecting to the upstream, 100ms to 1m. The client receives 502. After five consecutive failures clients
    /// receive 503 immediately until a connection succeeds. Default: 5s.
    #[serde(default = "default_connect")]
    pub connect: Duration<100, MINUTE>,

    /// Timeout for the upstream's response head, and for pauses in a response that is not a stream, 1s to 1h. The client
    /// receives 504. Default: 300s.
    #[serde(default = "default_response_head")]
    pub response_head: Duration<SECOND, HOUR>,

    /// Idle timeout of a stream: the proxy closes it if the upstream sends nothing for this long, 1s to 24h. The client then
    /// reconnects. Default: 1h.
    #[serde(default = "default_stream_idle")]
    pub stream_idle: Duration<SECOND, { 24 * HOUR }>,

    /// Timeout for pauses in a request body, 1s to 10m. The client receives 408. A client that reads nothing of a response
    /// for this long is disconnected. Default: 30s.
    #[serde(default = "default_request_body")]
    pub request_body: Duration<SECOND, { 10 * MINUTE }>,

    /// How long responses and streams in flight may continue during graceful shutdown of a pod, 1h at most. Default: 25s.
    #[serde(default = "default_drain")]
    pub drain: Duration<0, HOUR>,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: default_connect(),
            response_head: default_response_head(),
            stream_idle: default_stream_idle(),
            request_body: default_request_body(),
            drain: default_drain(),
        }
    }
}

/// Limits on requests and streams. Requests beyond a limit are rejected immediately, not queued. All limits except
/// requestBody apply per pod.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Limits {
    /// Maximum size of a request body, such as 512Ki, 1Gi at most. Larger requests receive 413. Default: 16Mi.
    #[serde(default = "default_request_size")]
    pub request_body: Size,

    /// Maximum number of concurrent requests, streams excluded. One user may use half of it. Further requests receive 503.
    /// Default: 500.
    #[serde(default = "default_concurrency")]
    pub concurrency: Bounded<1, 100_000>,

    /// Maximum number of open streams (GET). Further streams receive 503. Default: one per 64Ki of the pod's memory limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub streams: Option<Bounded<1, 1_000_000>>,

    /// Maximum number of open streams per user. Further streams receive 503. Default: 100.
    #[serde(default = "default_streams_per_user")]
    pub streams_per_user: Bounded<1, 1_000_000>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            request_body: default_request_size(),
            concurrency: default_concurrency(),
            streams: None,
            streams_per_user: default_streams_per_user(),
        }
    }
}

fn default_connect() -> Duration<100, MINUTE> {
    Duration::from_secs(5)
}

/// Tool calls can be slow. Load balancers in front of the proxy usually have shorter timeouts.
fn default_response_head() -> Duration<SECOND, HOUR> {
    Duration::from_secs(300)
}

fn default_stream_idle() -> Duration<SECOND, { 24 * HOUR }> {
    Duration::from_hours(1)
}

fn default_request_body() -> Duration<SECOND, { 10 * MINUTE }> {
    Duration::from_secs(30)
}

fn default_drain() -> Duration<0, HOUR> {
    Duration::from_secs(25)
}

fn default_request_size() -> Size {
    Size::from_mebibytes(16)
}

const fn default_concurrency() -> Bounded<1, 100_000> {
    Bounded::of::<500>()
}

const fn default_streams_per_user() -> Bounded<1, 1_000_000> {
    Bounded::of::<100>()
}
