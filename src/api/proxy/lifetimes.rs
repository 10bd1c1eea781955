use jiff::Timestamp;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::{
    Bounded, Duration,
    duration::{HOUR, MINUTE},
    rules,
};

/// Idle timeout or maximum lifetime of a session: a year at most.
pub type SessionTtl = Duration<{ 5 * MINUTE }, { 8784 * HOUR }>;

/// Lifetimes of tokens.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Tokens {
    /// Lifetime of an access token, 2m to 24h. Clients refresh it without user interaction. Default: 1h.
    #[serde(default = "default_access_ttl", rename = "accessTTL")]
    pub access_ttl: Duration<{ 2 * MINUTE }, { 24 * HOUR }>,

    /// Grace period, 5m at most, during which a rotated refresh token is accepted after its successor has been used: for
    /// clients that lost a response or run as several processes. Default: 60s.
    #[serde(default = "default_refresh_grace")]
    pub refresh_grace: Duration<0, { 5 * MINUTE }>,

    /// How long a stream may stay open after the access token that opened it has expired, 24h at most. Clients then reconnect.
    /// Default: 300s.
    #[serde(default = "default_stream_grace")]
    pub stream_grace: Duration<0, { 24 * HOUR }>,
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
#[x_kube(validation = rules::IDLE_TTL_WITHIN_MAX_TTL.schema())]
pub struct Sessions {
    /// Idle timeout of a session: it ends if the client does not refresh its tokens for this long. 5m at least. Default: 720h
    /// (30 days).
    #[serde(default = "default_idle_ttl", rename = "idleTTL")]
    pub idle_ttl: SessionTtl,

    /// Maximum lifetime of a session, 8784h (a year) at most. Default: 2160h (90 days).
    #[serde(default = "default_max_ttl", rename = "maxTTL")]
    pub max_ttl: SessionTtl,

    /// Maximum number of sessions per user. A further login ends the session with the oldest refresh. Default: 20.
    #[serde(default = "default_max_per_user")]
    pub max_per_user: Bounded<1, 1000>,

    /// Maximum number of sessions of this proxy. When it is reached, new logins are refused. Default: 10000.
    #[serde(default = "default_max")]
    pub max: Bounded<1, 10_000>,

    /// Sessions created before this time, such as 2026-11-23T00:00:00Z, end at once. Set it to log everyone out, for example
    /// after restoring a backup, which restores ended sessions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", length(max = 40))]
    #[x_kube(
        validation = Rule::new("self.matches('^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}([.][0-9]+)?(Z|[+-][0-9]{2}:[0-9]{2})$')")
            .message("notBefore must be a time with its zone, such as 2026-11-23T00:00:00Z")
    )]
    pub not_before: Option<Timestamp>,
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
pub(crate) fn default_idle_ttl() -> SessionTtl {
    Duration::from_hours(720)
}

/// 90 days.
pub(crate) fn default_max_ttl() -> SessionTtl {
    Duration::from_hours(2160)
}

pub(crate) const fn default_max_per_user() -> Bounded<1, 1000> {
    Bounded::of::<20>()
}

pub(crate) const fn default_max() -> Bounded<1, 10_000> {
    Bounded::of::<10_000>()
}

fn default_access_ttl() -> Duration<{ 2 * MINUTE }, { 24 * HOUR }> {
    Duration::from_hours(1)
}

/// Long enough to finish a tool call that started before the token expired.
fn default_stream_grace() -> Duration<0, { 24 * HOUR }> {
    Duration::from_secs(300)
}

fn default_refresh_grace() -> Duration<0, { 5 * MINUTE }> {
    Duration::from_secs(60)
}
