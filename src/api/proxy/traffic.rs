use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::api::{Duration, Size};

/// Timeouts of the upstream and of clients.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Timeouts {
    /// Timeout for connecting to the upstream, 100ms to 1m. The client receives 502. After five consecutive failures clients
    /// receive 503 immediately until a connection succeeds. Default: 5s.
    #[serde(default = "default_connect")]
    #[x_kube(
        validation = Rule::new("duration(self) >= duration('100ms') && duration(self) <= duration('1m')")
            .message("timeouts.connect must lie between 100ms and 1m")
    )]
    pub connect: Duration,

    /// Timeout for the upstream's response head, and for pauses in a response that is not a stream, 1s to 1h. The client
    /// receives 504. Default: 300s.
    #[serde(default = "default_response_head")]
    #[x_kube(
        validation = Rule::new("duration(self) >= duration('1s') && duration(self) <= duration('1h')")
            .message("timeouts.responseHead must lie between 1s and 1h")
    )]
    pub response_head: Duration,

    /// Idle timeout of a stream: the proxy closes it if the upstream sends nothing for this long, 1s to 24h. The client then
    /// reconnects. Default: 1h.
    #[serde(default = "default_stream_idle")]
    #[x_kube(
        validation = Rule::new("duration(self) >= duration('1s') && duration(self) <= duration('24h')")
            .message("timeouts.streamIdle must lie between 1s and 24h")
    )]
    pub stream_idle: Duration,

    /// Timeout for pauses in a request body, 1s to 10m. The client receives 408. A client that reads nothing of a response
    /// for this long is disconnected. Default: 30s.
    #[serde(default = "default_request_body")]
    #[x_kube(
        validation = Rule::new("duration(self) >= duration('1s') && duration(self) <= duration('10m')")
            .message("timeouts.requestBody must lie between 1s and 10m")
    )]
    pub request_body: Duration,

    /// How long responses and streams in flight may continue during graceful shutdown of a pod, 1h at most. Default: 25s.
    #[serde(default = "default_drain")]
    #[x_kube(validation = Rule::new("duration(self) <= duration('1h')").message("timeouts.drain may be 1h at most"))]
    pub drain: Duration,
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

impl Timeouts {
    /// Applies the CRD's rules to a configuration file.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        let Self { connect, response_head, stream_idle, request_body, drain } = self;
        let lies_between = |duration: &Duration, least: u64, most: u64| {
            (u128::from(least) * 1000..=u128::from(most) * 1000).contains(&duration.get().as_millis())
        };
        let connects = (100..=60_000).contains(&connect.get().as_millis());
        let rules = [
            (connects, "upstream.timeouts.connect must lie between 100ms and 1m"),
            (lies_between(response_head, 1, 3600), "upstream.timeouts.responseHead must lie between 1s and 1h"),
            (lies_between(stream_idle, 1, 86_400), "upstream.timeouts.streamIdle must lie between 1s and 24h"),
            (lies_between(request_body, 1, 600), "upstream.timeouts.requestBody must lie between 1s and 10m"),
            (lies_between(drain, 0, 3600), "upstream.timeouts.drain may be 1h at most"),
        ];
        first_broken(rules)
    }
}

/// Limits on requests and streams. Requests beyond a limit are rejected immediately, not queued. All limits except
/// requestBody apply per pod.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Limits {
    /// Maximum size of a request body, such as 512Ki, 1Gi at most. Larger requests receive 413. Default: 16Mi.
    #[serde(default = "default_request_size")]
    pub request_body: Size,

    /// Maximum number of concurrent requests, streams excluded. One user may use half of it. Further requests receive 503.
    /// Default: 500.
    #[serde(default = "default_concurrency")]
    #[schemars(range(min = 1, max = 100000))]
    pub concurrency: u32,

    /// Maximum number of open streams (GET). Further streams receive 503. Default: one per 64Ki of the pod's memory limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000000))]
    pub streams: Option<u32>,

    /// Maximum number of open streams per user. Further streams receive 503. Default: 100.
    #[serde(default = "default_streams_per_user")]
    #[schemars(range(min = 1, max = 1000000))]
    pub streams_per_user: u32,
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

impl Limits {
    /// Applies the CRD's rules to a configuration file.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        let Self { request_body: _, concurrency, streams, streams_per_user } = self;
        let rules = [
            ((1..=100_000).contains(concurrency), "upstream.limits.concurrency must lie between 1 and 100000"),
            (
                streams.is_none_or(|streams| (1..=1_000_000).contains(&streams)),
                "upstream.limits.streams must lie between 1 and 1000000",
            ),
            (
                (1..=1_000_000).contains(streams_per_user),
                "upstream.limits.streamsPerUser must lie between 1 and 1000000",
            ),
        ];
        first_broken(rules)
    }
}

fn first_broken<const N: usize>(rules: [(bool, &'static str); N]) -> Result<(), &'static str> {
    rules.into_iter().find(|(holds, _)| !holds).map_or(Ok(()), |(_, message)| Err(message))
}

fn default_connect() -> Duration {
    Duration::from_secs(5)
}

/// Tool calls can be slow. Load balancers in front of the proxy usually have shorter timeouts.
fn default_response_head() -> Duration {
    Duration::from_secs(300)
}

fn default_stream_idle() -> Duration {
    Duration::from_hours(1)
}

fn default_request_body() -> Duration {
    Duration::from_secs(30)
}

fn default_drain() -> Duration {
    Duration::from_secs(25)
}

fn default_request_size() -> Size {
    Size::from_mebibytes(16)
}

const fn default_concurrency() -> u32 {
    500
}

const fn default_streams_per_user() -> u32 {
    100
}
