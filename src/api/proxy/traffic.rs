use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::api::{Duration, Size};

/// How long is waited, for the upstream and for clients.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Timeouts {
    /// How long a client may pause within the body of a request, 1s to 10m. Then it gets 408.
    #[serde(default = "default_request_body")]
    #[x_kube(
        validation = Rule::new("duration(self) >= duration('1s') && duration(self) <= duration('10m')")
            .message("timeouts.requestBody must lie between 1s and 10m")
    )]
    pub request_body: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { request_body: default_request_body() }
    }
}

impl Timeouts {
    /// The rules of the schema, for a configuration that met no API server.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        let Self { request_body } = self;
        let rules = [(lies_between(request_body, 1, 600), "upstream.timeouts.requestBody must lie between 1s and 10m")];
        rules.into_iter().find(|(holds, _)| !holds).map_or(Ok(()), |(_, message)| Err(message))
    }
}

/// How much is let through.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Limits {
    /// The most bytes that the body of a request may have, such as 512Ki or 16Mi, 1Gi at most. A larger one gets 413.
    #[serde(default = "default_request_size")]
    pub request_body: Size,
}

impl Default for Limits {
    fn default() -> Self {
        Self { request_body: default_request_size() }
    }
}

fn lies_between(duration: &Duration, least: u64, most: u64) -> bool {
    let second = std::time::Duration::from_secs;
    (second(least)..=second(most)).contains(&duration.get())
}

fn default_request_body() -> Duration {
    Duration::from_secs(30)
}

fn default_request_size() -> Size {
    Size::from_mebibytes(16)
}
