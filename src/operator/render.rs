use std::fmt::Write;

use serde::Serialize;
use thiserror::Error;

use super::{
    build::{Children, key_secret, value, without_key_secret},
    error,
    validate::{InvalidProxy, Settings, validate},
};
use crate::api::McpOAuthProxy;

/// Why a resource cannot be rendered.
#[derive(Debug, Error)]
pub enum RenderError {
    /// It is not YAML of an `McpOAuthProxy`.
    #[error("this is not an McpOAuthProxy: {0}")]
    Parse(#[from] serde_yaml::Error),
    /// A rule is broken.
    #[error(transparent)]
    Invalid(#[from] InvalidProxy),
    /// Its children cannot be made.
    #[error(transparent)]
    Build(#[from] error::Error),
}

/// What an API server would fill in.
const NO_UID: &str = "00000000-0000-0000-0000-000000000000";

/// Every object that a resource becomes, as YAML, without asking a cluster. The key Secret is there without its keys.
///
/// # Errors
/// When the text is not an `McpOAuthProxy`, or breaks a rule.
pub fn render(text: &str, settings: &Settings) -> Result<String, RenderError> {
    let mut resource: McpOAuthProxy = serde_yaml::from_str(text)?;
    resource.metadata.namespace.get_or_insert_with(|| "default".to_owned());
    resource.metadata.uid.get_or_insert_with(|| NO_UID.to_owned());
    let proxy = validate(&resource, settings)?;
    // The keys are the controller's to generate, so none are built here.
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
    // Its fields in the order in which kubectl prints them; and the code that writes a kind is in the binary once.
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
        assert!(render(&sample, &settings()).unwrap_err().to_string().starts_with("publicURL must be"));
    }
}
