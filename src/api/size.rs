use std::{fmt, str::FromStr};

use regex_lite::Regex;
use serde_with::{DeserializeFromStr, SerializeDisplay};
use thiserror::Error;

/// A size in bytes in the notation of Kubernetes (`64Ki`, `16Mi`), 1Ki to 1Gi. Keeps the original text.
#[derive(Clone, Debug, DeserializeFromStr, Eq, PartialEq, SerializeDisplay)]
pub struct Size {
    written: String,
    bytes: u64,
}

/// The text is not a valid size.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[error("{0:?} is not a size: write a number of Ki or Mi, such as 512Ki or 16Mi, 1Gi at most")]
pub struct InvalidSize(String);

impl Size {
    /// The pattern for the CRD schema. Larger numbers use the next unit.
    pub(super) const PATTERN: &str = "^([1-9][0-9]{0,3}Ki|[1-9][0-9]{0,2}Mi|1Gi)$";

    #[must_use]
    pub fn from_mebibytes(mebibytes: u32) -> Self {
        Self { written: format!("{mebibytes}Mi"), bytes: u64::from(mebibytes) << 20 }
    }

    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// The number of bytes, unless the syntax is invalid.
fn bytes(written: &str) -> Option<u64> {
    let size = Regex::new(Size::PATTERN).ok()?.find(written)?;
    let (number, unit) = size.as_str().split_at(size.len().checked_sub(2)?);
    let shift = [("Ki", 10), ("Mi", 20), ("Gi", 30)].into_iter().find(|(name, _)| *name == unit)?.1;
    Some(number.parse::<u64>().ok()? << shift)
}

impl FromStr for Size {
    type Err = InvalidSize;

    fn from_str(written: &str) -> Result<Self, Self::Err> {
        let bytes = bytes(written).ok_or_else(|| InvalidSize(written.chars().take(64).collect()))?;
        Ok(Self { written: written.to_owned(), bytes })
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written)
    }
}

impl schemars::JsonSchema for Size {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Size".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"type": "string", "pattern": Self::PATTERN, "maxLength": 6})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_parse_as_kubernetes_quantities() {
        for (written, bytes) in [("1Ki", 1024), ("9999Ki", 9999 * 1024), ("16Mi", 16 << 20), ("1Gi", 1 << 30)] {
            let size: Size = written.parse().unwrap();
            assert_eq!((size.bytes(), size.to_string().as_str()), (bytes, written));
        }
        assert_eq!(Size::from_mebibytes(16), "16Mi".parse().unwrap());
    }

    #[test]
    fn invalid_size_error_shows_valid_examples() {
        for written in
            ["", "Mi", "0Mi", "01Mi", "1", "1024", "10000Ki", "1000Mi", "2Gi", "1M", "-1Mi", "1.5Mi", "1 Mi", "١Mi"]
        {
            let error = written.parse::<Size>().unwrap_err().to_string();
            assert!(error.contains("such as 512Ki or 16Mi"), "{written}: {error}");
        }
    }
}
