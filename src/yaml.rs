//! YAML files whose errors name the field and the line.

use serde::{Deserializer, de::DeserializeOwned};
use thiserror::Error;

/// The text is not YAML of the expected shape.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct InvalidYaml(String);

/// Parses a document.
///
/// # Errors
/// The field, what is wrong and the line.
pub fn parse<T: DeserializeOwned>(text: &str) -> Result<T, InvalidYaml> {
    parse_document(serde_yaml::Deserializer::from_str(text))
}

/// Parses one document of several.
///
/// # Errors
/// The field, what is wrong and the line.
pub fn parse_document<'de, T, D>(document: D) -> Result<T, InvalidYaml>
where
    T: DeserializeOwned,
    D: Deserializer<'de, Error = serde_yaml::Error>,
{
    serde_path_to_error::deserialize(document).map_err(|error| {
        let (field, message) = (error.path().to_string(), error.inner().to_string());
        // serde_yaml names the map around a value that a type of ours refuses, not the value.
        let message = match message.split_once(": ") {
            Some((outer, rest)) if field.starts_with(outer) => rest,
            _ => &message,
        };
        InvalidYaml(if field == "." { message.to_owned() } else { format!("{field}: {message}") })
    })
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;
    use crate::api::Bounded;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only errors are of interest")]
    struct File {
        list: Vec<Item>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only errors are of interest")]
    struct Item {
        number: Bounded<1, 9>,
    }

    #[test]
    fn error_names_the_field_and_the_line() {
        for (text, expected) in [
            ("list:\n- number: 1\n- number: 10\n", "list[1].number: 10 must lie between 1 and 9 at line 3 column 3"),
            (
                "list:\n- number: many\n",
                "list[0].number: invalid type: string \"many\", expected i64 at line 2 column 11",
            ),
            ("list:\n- nummer: 1\n", "list[0].nummer: unknown field `nummer`, expected `number` at line 2 column 3"),
            ("list: []\nlists: 1\n", "lists: unknown field `lists`, expected `list` at line 2 column 1"),
            ("{}", "missing field `list`"),
        ] {
            assert_eq!(parse::<File>(text).unwrap_err().to_string(), expected);
        }
    }
}
