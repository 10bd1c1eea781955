use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::api::{Duration, Size};

/// How long is waited, for the upstream and for clients.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Timeouts {
    /// How long connecting to the upstream may take, 100ms to 1m. The client gets 502; when it has failed five times in a row,
    /// 503 at once until a connection is made again.
    #[serde(default = "default_connect")]
    #[x_kube(
        validation = Rule::new("duration(self) >= duration('100ms') && duration(self) <= duration('1m')")
            .message("timeouts.connect must lie between 100ms and 1m")
    )]
    pub connect: Duration,

    /// How long the upstream may take to begin its answer, and pause in one that is no stream, 1s to 1h. The client gets 504.
    #[serde(default = "default_response_head")]
    #[x_kube(
        validation = Rule::new("duration(self) >= duration('1s') && duration(self) <= duration('1h')")
            .message("timeouts.responseHead must lie between 1s and 1h")
    )]
    pub response_head: Duration,

    /// How long the upstream may say nothing in a stream, 1s to 24h. Then it is ended, and the client opens another.
    #[serde(default = "default_stream_idle")]
    #[x_kube(
        validation = Rule::new("duration(self) >= duration('1s') && duration(self) <= duration('24h')")
            .message("timeouts.streamIdle must lie between 1s and 24h")
    )]
    pub stream_idle: Duration,

    /// How long a client may pause within the body of a request, 1s to 10m: then it gets 408. Who takes nothing of an answer
    /// for as long is disconnected.
    #[serde(default = "default_request_body")]
    #[x_kube(
        validation = Rule::new("duration(self) >= duration('1s') && duration(self) <= duration('10m')")
            .message("timeouts.requestBody must lie between 1s and 10m")
    )]
    pub request_body: Duration,

    /// How long answers and streams that are open when a pod has to end may go on, 1h at most.
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
    /// The rules of the schema, for a configuration that met no API server.
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

/// How much is let through. What is too much is refused at once and never waits. All but requestBody hold for each pod.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Limits {
    /// The most bytes that the body of a request may have, such as 512Ki or 16Mi, 1Gi at most. A larger one gets 413.
    #[serde(default = "default_request_size")]
    pub request_body: Size,

    /// How many requests may be under way, streams apart; one user may have half of them. One more gets 503.
    #[serde(default = "default_concurrency")]
    #[schemars(range(min = 1, max = 100000))]
    pub concurrency: u32,

    /// How many streams (GET) may be open. One more gets 503. By default as many as there is memory for: one for each 64Ki
    /// of the pod's limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000000))]
    pub streams: Option<u32>,

    /// How many streams one user may have open. One more gets 503.
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
    /// The rules of the schema, for a configuration that met no API server.
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

/// Tools may take their time; what is before us is mostly less patient.
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
