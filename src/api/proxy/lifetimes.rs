use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::api::Duration;

/// Lifetimes of tokens.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Tokens {
    /// Lifetime of an access token, 2m to 24h. Clients refresh it without user interaction. Default: 1h.
    #[serde(default = "default_access_ttl", rename = "accessTTL")]
    #[x_kube(
        validation = Rule::new("duration(self) >= duration('2m') && duration(self) <= duration('24h')")
            .message("accessTTL must lie between 2m and 24h")
    )]
    pub access_ttl: Duration,

    /// Grace period, 5m at most, during which a rotated refresh token is accepted after its successor has been used: for
    /// clients that lost a response or run as several processes. Default: 60s.
    #[serde(default = "default_refresh_grace")]
    #[x_kube(
        validation = Rule::new("duration(self) <= duration('5m')").message("refreshGrace may be 5m at most")
    )]
    pub refresh_grace: Duration,

    /// How long a stream may stay open after the access token that opened it has expired, 24h at most. Clients then reconnect.
    /// Default: 300s.
    #[serde(default = "default_stream_grace")]
    #[x_kube(
        validation = Rule::new("duration(self) <= duration('24h')").message("streamGrace may be 24h at most")
    )]
    pub stream_grace: Duration,
}

impl Default for Tokens {
    fn default() -> Self {
        Self {
            access_ttl: default_access_ttl(),
            refresh_grace: default_refresh_grace(),
            stream_grace: default_stream_grace(),
        }
    }
}

/// Lifetimes and number of sessions.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("duration(self.idleTTL) <= duration(self.maxTTL)")
        .message("idleTTL may not be longer than maxTTL")
)]
pub struct Sessions {
    /// Idle timeout of a session: it ends if the client does not refresh its tokens for this long. 5m at least. Default: 720h
    /// (30 days).
    #[serde(default = "default_idle_ttl", rename = "idleTTL")]
    #[x_kube(
        validation = Rule::new("duration(self) >= duration('5m')").message("idleTTL must be 5m or longer")
    )]
    pub idle_ttl: Duration,

    /// Maximum lifetime of a session, 8784h (a year) at most. Default: 2160h (90 days).
    #[serde(default = "default_max_ttl", rename = "maxTTL")]
    #[x_kube(
        validation = Rule::new("duration(self) <= duration('8784h')").message("maxTTL may be 8784h (a year) at most")
    )]
    pub max_ttl: Duration,

    /// Maximum number of sessions per person. A further login ends the session with the oldest refresh. Default: 20.
    #[serde(default = "default_max_per_user")]
    #[schemars(range(min = 1, max = 1000))]
    pub max_per_user: u32,

    /// Maximum number of sessions of this proxy. When it is reached, new logins are refused. Default: 10000.
    #[serde(default = "default_max")]
    #[schemars(range(min = 1, max = 10000))]
    pub max: u32,

    /// Sessions created before this time, such as 2026-11-23T00:00:00Z, end at once. Set it to log everyone out, for example
    /// after restoring a backup, which restores ended sessions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 40))]
    #[x_kube(
        validation = Rule::new("self.matches('^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}([.][0-9]+)?(Z|[+-][0-9]{2}:[0-9]{2})$')")
            .message("notBefore must be a time with its zone, such as 2026-11-23T00:00:00Z")
    )]
    pub not_before: Option<String>,
}

impl Default for Sessions {
    fn default() -> Self {
        Self {
            idle_ttl: default_idle_ttl(),
            max_ttl: default_max_ttl(),
            max_per_user: default_max_per_user(),
            max: default_max(),
            not_before: None,
        }
    }
}

/// 30 days.
pub(crate) fn default_idle_ttl() -> Duration {
    Duration::from_hours(720)
}

/// 90 days.
pub(crate) fn default_max_ttl() -> Duration {
    Duration::from_hours(2160)
}

pub(crate) const fn default_max_per_user() -> u32 {
    20
}

pub(crate) const fn default_max() -> u32 {
    10_000
}

fn default_access_ttl() -> Duration {
    Duration::from_hours(1)
}

/// Long enough to finish a tool call that started before the token expired.
fn default_stream_grace() -> Duration {
    Duration::from_secs(300)
}

fn default_refresh_grace() -> Duration {
    Duration::from_secs(60)
}
