use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A whole number from `MIN` to `MAX`.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(try_from = "i64", into = "i64")]
pub struct Bounded<const MIN: u32, const MAX: u32>(u32);

#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[error("{written} must lie between {min} and {max}")]
pub struct OutOfBounds {
    written: i64,
    min: u32,
    max: u32,
}

impl<const MIN: u32, const MAX: u32> Bounded<MIN, MAX> {
    /// The compiler checks the bounds.
    #[must_use]
    pub const fn of<const NUMBER: u32>() -> Self {
        const { assert!(MIN <= NUMBER && NUMBER <= MAX, "out of bounds") }
        Self(NUMBER)
    }

    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl<const MIN: u32, const MAX: u32> TryFrom<i64> for Bounded<MIN, MAX> {
    type Error = OutOfBounds;

    fn try_from(written: i64) -> Result<Self, OutOfBounds> {
        let number = u32::try_from(written).ok().filter(|number| (MIN..=MAX).contains(number));
        number.map(Self).ok_or(OutOfBounds { written, min: MIN, max: MAX })
    }
}

impl<const MIN: u32, const MAX: u32> From<Bounded<MIN, MAX>> for i64 {
    fn from(number: Bounded<MIN, MAX>) -> Self {
        number.0.into()
    }
}

impl<const MIN: u32, const MAX: u32> schemars::JsonSchema for Bounded<MIN, MAX> {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        format!("Bounded{MIN}To{MAX}").into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"type": "integer", "minimum": MIN, "maximum": MAX})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_within_the_bounds_parse() {
        type Percent = Bounded<1, 100>;
        for number in [1, 100] {
            assert_eq!(i64::from(serde_json::from_str::<Percent>(&number.to_string()).unwrap()), number);
        }
        for number in [i64::MIN, -1, 0, 101, i64::MAX] {
            let error = serde_json::from_str::<Percent>(&number.to_string()).unwrap_err().to_string();
            assert!(error.contains("must lie between 1 and 100"), "{error}");
        }
    }
}
