use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A GEP-2257 duration (`1h`, `90s`, `2h30m`, `500ms`). Keeps the original text.
///
/// Source: <https://gateway-api.sigs.k8s.io/geps/gep-2257/>.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Duration {
    written: String,
    length: std::time::Duration,
}

/// The text is not a GEP-2257 duration.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[error("{0:?} is not a duration: write up to four numbers with a unit h, m, s or ms, such as 1h, 90s or 2h30m")]
pub struct InvalidDuration(String);

impl Duration {
    /// The pattern of GEP-2257, for the CRD schema.
    pub(super) const PATTERN: &str = r"^([0-9]{1,5}(h|m|s|ms)){1,4}$";

    /// The same for arithmetic with timestamps.
    pub fn signed(&self) -> jiff::SignedDuration {
        jiff::SignedDuration::try_from(self.get()).unwrap_or(jiff::SignedDuration::MAX)
    }

    #[must_use]
    pub fn from_secs(seconds: u64) -> Self {
        Self { written: format!("{seconds}s"), length: std::time::Duration::from_secs(seconds) }
    }

    #[must_use]
    pub fn from_hours(hours: u64) -> Self {
        Self { written: format!("{hours}h"), length: std::time::Duration::from_secs(hours * 3600) }
    }

    #[must_use]
    pub const fn get(&self) -> std::time::Duration {
        self.length
    }

    /// Whole seconds, rounded down, for `expires_in` and cookies.
    #[must_use]
    pub const fn as_secs(&self) -> u64 {
        self.length.as_secs()
    }
}

impl FromStr for Duration {
    type Err = InvalidDuration;

    fn from_str(written: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidDuration(written.chars().take(64).collect());
        let mut rest = written;
        let mut milliseconds: u64 = 0;
        let mut parts = 0;
        while !rest.is_empty() {
            let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            if !(1..=5).contains(&digits) || parts == 4 {
                return Err(invalid());
            }
            let number: u64 = rest[..digits].parse().map_err(|_| invalid())?;
            rest = &rest[digits..];
            let (unit, length) = match rest.as_bytes() {
                [b'm', b's', ..] => (1, 2),
                [b'h', ..] => (3_600_000, 1),
                [b'm', ..] => (60_000, 1),
                [b's', ..] => (1_000, 1),
                _ => return Err(invalid()),
            };
            rest = &rest[length..];
            milliseconds += number * unit;
            parts += 1;
        }
        if parts == 0 {
            return Err(invalid());
        }
        Ok(Self { written: written.to_owned(), length: std::time::Duration::from_millis(milliseconds) })
    }
}

impl TryFrom<String> for Duration {
    type Error = InvalidDuration;

    fn try_from(written: String) -> Result<Self, Self::Error> {
        written.parse()
    }
}

impl From<Duration> for String {
    fn from(duration: Duration) -> Self {
        duration.written
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written)
    }
}

impl schemars::JsonSchema for Duration {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Duration".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"type": "string", "pattern": Self::PATTERN, "maxLength": 28})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gep_2257_durations_parse_and_keep_their_text() {
        for (written, milliseconds) in
            [("1h", 3_600_000), ("90s", 90_000), ("2h30m", 9_000_000), ("500ms", 500), ("1m1ms", 60_001)]
        {
            let duration: Duration = written.parse().unwrap();
            assert_eq!(duration.get().as_millis(), milliseconds, "{written}");
            assert_eq!(duration.to_string(), written);
        }
    }

    #[test]
    fn invalid_duration_error_shows_valid_examples() {
        for written in ["", "1", "h", "1d", "1.5h", "-1s", "123456s", "1h1h1h1h1h", "1 h", "١h"] {
            let error = written.parse::<Duration>().unwrap_err().to_string();
            assert!(error.contains("such as 1h, 90s or 2h30m"), "{written}: {error}");
        }
    }
}
