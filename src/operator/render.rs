use std::fmt::Write;

use serde::Serialize;
use thiserror::Error;

use super::{
    build::{Children, key_secret, value, without_key_secret},
    error,
    validate::{InvalidProxy, Settings, validate},
};
use crate::{
    api::McpOAuthProxy,
    yaml::{self, InvalidYaml},
};

/// Why a resource cannot be rendered.
#[derive(Debug, Error)]
pub enum RenderError {
    #[error("cannot parse the McpOAuthProxy: {0}")]
    Parse(#[from] InvalidYaml),
    #[error("cannot write YAML: {0}")]
    Write(#[from] serde_yaml::Error),
    #[error(transparent)]
    Invalid(#[from] InvalidProxy),
    #[error(transparent)]
    Build(#[from] error::Error),
}

/// Placeholder for the UID that the API server assigns.
const PLACEHOLDER_UID: &str = "00000000-0000-0000-0000-000000000000";

/// Renders all children of a resource as YAML without access to a cluster. The key Secret contains no keys.
pub fn render(text: &str, settings: &Settings) -> Result<String, RenderError> {
    let mut resource: McpOAuthProxy = yaml::parse(text)?;
    resource.metadata.namespace.get_or_insert_with(|| "default".to_owned());
    resource.metadata.uid.get_or_insert_with(|| PLACEHOLDER_UID.to_owned());
    let proxy = validate(&resource, settings)?;
    // Only the controller generates keys.
    let Children { key_secret: _, service_account, role_binding, config_map, one_password_item, service, deployment } =
        without_key_secret(&proxy)?;

    let mut documents = String::new();
    add(&mut documents, &key_secret::without_keys(&proxy))?;
    add(&mut documents, &service_account)?;
    add(&mut documents, &role_binding)?;
    add(&mut documents, &config_map)?;
    if let Some(item) = one_password_item {
        add(&mut documents, &item)?;
    }
    add(&mut documents, &service)?;
    add(&mut documents, &deployment)?;
    Ok(documents)
}

fn add(documents: &mut String, object: &impl Serialize) -> Result<(), RenderError> {
    // A JSON value has its fields in kubectl's order, and YAML is serialized by one function for all kinds.
    let object = value(object)?;
    // Writing to a String cannot fail.
    let _ = write!(documents, "---\n{}", serde_yaml::to_string(&object)?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::validate::tests::settings;
    use super::*;

    #[test]
    fn sample_renders_to_the_snapshot() {
        let sample = include_str!("../../config/samples/mcp-oauth-proxy.yaml");
        insta::assert_snapshot!(render(sample, &settings()).unwrap());
    }

    #[test]
    fn render_names_the_broken_rule() {
        let sample = include_str!("../../config/samples/mcp-oauth-proxy.yaml").replace("https://mcp.", "https://MCP.");
        assert!(render(&sample, &settings()).unwrap_err().to_string().contains("spec.publicURL: publicURL must be"));
    }
}
