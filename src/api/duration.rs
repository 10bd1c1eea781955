use std::{fmt, str::FromStr};

use regex_lite::Regex;
use serde_with::{DeserializeFromStr, SerializeDisplay};
use thiserror::Error;

/// A GEP-2257 duration (`1h`, `90s`, `2h30m`, `500ms`) from `MIN` to `MAX` milliseconds. Keeps the original text.
///
/// Source: <https://gateway-api.sigs.k8s.io/geps/gep-2257/>.
#[derive(Clone, Debug, DeserializeFromStr, Eq, PartialEq, SerializeDisplay)]
pub struct Duration<const MIN: u64, const MAX: u64> {
    written: String,
    length: std::time::Duration,
}

#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum InvalidDuration {
    #[error("{0:?} is not a duration: write up to four numbers with a unit h, m, s or ms, such as 1h, 90s or 2h30m")]
    Syntax(String),
    #[error("{written} {bounds}")]
    OutOfBounds { written: String, bounds: String },
}

/// In milliseconds, for the bounds.
pub(super) const SECOND: u64 = 1000;
pub(super) const MINUTE: u64 = 60 * SECOND;
pub(super) const HOUR: u64 = 60 * MINUTE;

/// The pattern of GEP-2257.
const PATTERN: &str = r"^([0-9]{1,5}(h|m|s|ms)){1,4}$";

/// The text of a bound, in one unit.
fn bound(milliseconds: u64) -> String {
    match milliseconds {
        hours if hours.is_multiple_of(HOUR) && hours > 0 => format!("{}h", hours / HOUR),
        minutes if minutes.is_multiple_of(MINUTE) && minutes > 0 => format!("{}m", minutes / MINUTE),
        seconds if seconds.is_multiple_of(SECOND) => format!("{}s", seconds / SECOND),
        milliseconds => format!("{milliseconds}ms"),
    }
}

fn bounds(min: u64, max: u64) -> String {
    match min {
        0 => format!("must be {} at most", bound(max)),
        _ => format!("must lie between {} and {}", bound(min), bound(max)),
    }
}

impl<const MIN: u64, const MAX: u64> Duration<MIN, MAX> {
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

/// The length of a duration, unless its syntax is invalid.
fn milliseconds(written: &str) -> Option<u64> {
    let (duration, part) = (Regex::new(PATTERN).ok()?, Regex::new("([0-9]+)(h|ms|m|s)").ok()?);
    let parts = duration.is_match(written).then(|| part.captures_iter(written))?;
    let lengths = parts.map(|part| {
        let (_, [number, unit]) = part.extract();
        let unit = match unit {
            "h" => HOUR,
            "m" => MINUTE,
            "s" => SECOND,
            _ => 1,
        };
        Some(number.parse::<u64>().ok()? * unit)
    });
    lengths.sum()
}

impl<const MIN: u64, const MAX: u64> FromStr for Duration<MIN, MAX> {
    type Err = InvalidDuration;

    fn from_str(written: &str) -> Result<Self, Self::Err> {
        let Some(milliseconds) = milliseconds(written) else {
            return Err(InvalidDuration::Syntax(written.chars().take(64).collect()));
        };
        if !(MIN..=MAX).contains(&milliseconds) {
            return Err(InvalidDuration::OutOfBounds { written: written.to_owned(), bounds: bounds(MIN, MAX) });
        }
        Ok(Self { written: written.to_owned(), length: std::time::Duration::from_millis(milliseconds) })
    }
}

impl<const MIN: u64, const MAX: u64> fmt::Display for Duration<MIN, MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written)
    }
}

impl<const MIN: u64, const MAX: u64> schemars::JsonSchema for Duration<MIN, MAX> {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        format!("Duration{MIN}To{MAX}").into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let least = if MIN == 0 { String::new() } else { format!("duration(self) >= duration('{}') && ", bound(MIN)) };
        let rule = format!("{least}duration(self) <= duration('{}')", bound(MAX));
        schemars::json_schema!({
            "type": "string",
            "pattern": PATTERN,
            "maxLength": 28,
            "x-kubernetes-validations": [{"rule": rule, "message": bounds(MIN, MAX)}],
        })
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
            let duration: Duration<0, { 24 * HOUR }> = written.parse().unwrap();
            assert_eq!(duration.get().as_millis(), milliseconds, "{written}");
            assert_eq!(duration.to_string(), written);
        }
    }

    #[test]
    fn invalid_duration_error_shows_valid_examples() {
        for written in ["", "1", "h", "1d", "1.5h", "-1s", "123456s", "1h1h1h1h1h", "1 h", "١h"] {
            let error = written.parse::<Duration<0, HOUR>>().unwrap_err().to_string();
            assert!(error.contains("such as 1h, 90s or 2h30m"), "{written}: {error}");
        }
    }

    #[test]
    fn durations_out_of_bounds_are_invalid() {
        for (written, bounds) in [("99ms", "100ms and 1m"), ("1m1ms", "100ms and 1m")] {
            let error = written.parse::<Duration<100, MINUTE>>().unwrap_err().to_string();
            assert_eq!(error, format!("{written} must lie between {bounds}"));
        }
        let error = "25h".parse::<Duration<0, { 24 * HOUR }>>().unwrap_err().to_string();
        assert_eq!(error, "25h must be 24h at most");
    }
}
