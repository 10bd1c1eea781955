//! `docs/reference.md`: every field of the custom resources, from their definitions.

use std::{fmt::Write, fs, path::PathBuf};

use anyhow::{Context, Result};
use mcp_oauth_operator::api::crds;
use serde_json::{Map, Value};

/// Types of Kubernetes itself, whose members its own documentation describes.
const KUBERNETES_TYPES: [&str; 5] = [
    "spec.pod.affinity",
    "spec.pod.imagePullSecrets",
    "spec.pod.resources",
    "spec.pod.tolerations",
    "spec.pod.topologySpreadConstraints",
];

const HEADER: &str = "# Reference

Every field of the custom resources. Generated from the CRDs by `make generate`; do not edit. `kubectl explain mop.spec` shows the
same. Fields without a default are optional unless marked as required.
";

#[derive(clap::Args)]
pub struct Args {
    file: PathBuf,
}

impl Args {
    pub fn run(self) -> Result<()> {
        let Self { file } = self;
        fs::write(&file, reference()?).with_context(|| format!("cannot write {}", file.display()))
    }
}

fn reference() -> Result<String> {
    let mut page = HEADER.to_owned();
    for crd in crds()? {
        write_kind(&mut page, &crd.definition["spec"]);
    }
    Ok(page)
}

fn write_kind(page: &mut String, definition: &Value) {
    let (names, version) = (&definition["names"], &definition["versions"][0]);
    let schema = &version["schema"]["openAPIV3Schema"];
    push(page, format_args!("\n## {}\n\n{}\n", text(&names["kind"]), cell(&schema["description"])));
    let short_names: Vec<String> = strings(&names["shortNames"]).map(|name| format!("`{name}`")).collect();
    push(
        page,
        format_args!(
            "\n`apiVersion: {}/{}`, short names {}.\n",
            text(&definition["group"]),
            text(&version["name"]),
            short_names.join(", ")
        ),
    );
    for root in ["spec", "status"] {
        let root_schema = &schema["properties"][root];
        // Fields without members share the table of their root; the others have a section each.
        let (sections, fields): (Vec<_>, Vec<_>) =
            properties(root_schema).partition(|(_, field)| field["properties"].is_object());
        if sections.is_empty() && fields.is_empty() {
            continue;
        }
        push(page, format_args!("\n### {root}\n"));
        let mut rows = Rows::default();
        fields.iter().for_each(|(name, field)| rows.add(root, name, field, root_schema));
        rows.rules(root, root_schema);
        rows.write(page);
        for (name, field) in sections {
            let path = format!("{root}.{name}");
            push(page, format_args!("\n### {path}\n\n{}\n", cell(&field["description"])));
            let mut rows = Rows::default();
            rows.add_members(&path, field);
            rows.rules(&path, field);
            rows.write(page);
        }
    }
}

#[derive(Default)]
struct Rows {
    fields: Vec<String>,
    rules: Vec<String>,
}

impl Rows {
    fn add_members(&mut self, path: &str, schema: &Value) {
        if KUBERNETES_TYPES.contains(&path) {
            return;
        }
        properties(schema).for_each(|(name, field)| self.add(path, name, field, schema));
    }

    fn add(&mut self, parent: &str, name: &str, field: &Value, parent_schema: &Value) {
        let path = format!("{parent}.{name}");
        let default = if strings(&parent_schema["required"]).any(|required| required == name) {
            "required".to_owned()
        } else {
            match &field["default"] {
                Value::Null => String::new(),
                // Its members have rows with their own defaults.
                Value::Object(_) | Value::Array(_) if members(field).is_some() => String::new(),
                default => format!("`{default}`").replace('"', ""),
            }
        };
        self.fields.push(format!("| `{path}` | {} | {default} | {} |", kind(field), cell(&field["description"])));
        self.rules(&path, field);
        if field["items"]["x-kubernetes-validations"].is_array() && members(field).is_none() {
            self.rules(&format!("{path}[]"), &field["items"]);
        }
        if let Some((suffix, schema)) = members(field) {
            let path = format!("{path}{suffix}");
            if !suffix.is_empty() {
                self.rules(&path, schema);
            }
            if !KUBERNETES_TYPES.contains(&path.trim_end_matches("[]")) {
                self.add_members(&path, schema);
            }
        }
    }

    fn rules(&mut self, path: &str, schema: &Value) {
        let rules = schema["x-kubernetes-validations"].as_array().into_iter().flatten();
        self.rules.extend(rules.map(|rule| format!("- `{path}`: {}", cell(&rule["message"]))));
    }

    fn write(&self, page: &mut String) {
        if !self.fields.is_empty() {
            push(page, format_args!("\n| field | type | default | description |\n|---|---|---|---|\n"));
            self.fields.iter().for_each(|row| push(page, format_args!("{row}\n")));
        }
        if !self.rules.is_empty() {
            push(page, format_args!("\nRules:\n\n"));
            self.rules.iter().for_each(|rule| push(page, format_args!("{rule}\n")));
        }
    }
}

/// The schema that holds the members of an object, of a list's items, or of a map's values.
fn members(field: &Value) -> Option<(&'static str, &Value)> {
    [("", field), ("[]", &field["items"]), (".*", &field["additionalProperties"])]
        .into_iter()
        .find(|(_, schema)| schema["properties"].is_object())
}

fn kind(field: &Value) -> String {
    let values: Vec<String> = strings(&field["enum"]).map(|value| format!("`{value}`")).collect();
    if !values.is_empty() {
        return values.join(", ");
    }
    let number = |name: &str| field[name].as_i64();
    match field["type"].as_str() {
        Some("array") => {
            let items = field["items"]["type"].as_str().unwrap_or("object");
            number("maxItems")
                .map_or_else(|| format!("list of {items}"), |max| format!("list of {items}, at most {max}"))
        }
        Some("object") if field["additionalProperties"].is_object() => {
            format!("map of {}", field["additionalProperties"]["type"].as_str().unwrap_or("object"))
        }
        Some("integer") => match (number("minimum"), number("maximum")) {
            (Some(min), Some(max)) => format!("integer, {min} to {max}"),
            (Some(min), None) => format!("integer, at least {min}"),
            (None, Some(max)) => format!("integer, at most {max}"),
            (None, None) => "integer".to_owned(),
        },
        Some("string") => {
            number("maxLength").map_or_else(|| "string".to_owned(), |max| format!("string, at most {max} characters"))
        }
        Some(other) => other.to_owned(),
        None => "integer or string".to_owned(),
    }
}

fn properties(schema: &Value) -> impl Iterator<Item = (&String, &Value)> {
    schema["properties"].as_object().into_iter().flat_map(Map::iter)
}

fn strings(list: &Value) -> impl Iterator<Item = &str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// A text as one cell of a table.
fn cell(value: &Value) -> String {
    text(value).split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|").replace('<', "\\<")
}

fn push(page: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = page.write_fmt(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reference_lists_nested_fields_with_type_default_and_rule() {
        let page = reference().unwrap();
        for line in [
            "## McpOAuthSession",
            "| `spec.clients.static[].clientID` | string",
            "| `spec.replicas` | integer, 0 to 100 | `2` |",
            "| `spec.upstream.url` | string, at most",
            "- `spec.sessions`: ",
        ] {
            assert!(page.lines().any(|candidate| candidate.starts_with(line)), "no line begins with {line:?}:\n{page}");
        }
        assert!(!page.contains("spec.pod.affinity."), "members of Kubernetes' own types are left out");
    }
}
