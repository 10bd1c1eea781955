//! An external cluster. Used only if it is named explicitly, and only with permission to destroy its content.

use std::{env, path::PathBuf};

use anyhow::{Result, bail};

/// A cluster that the test bed did not create.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ExternalCluster {
    pub kubeconfig: PathBuf,
    pub context: String,
    /// A shell command that loads the image archive `"$1"` on the cluster's nodes.
    pub load_image: String,
}

impl ExternalCluster {
    /// The cluster that `E2E_KUBECONFIG` and `E2E_CONTEXT` name, if set. `KUBECONFIG` is ignored.
    pub fn from_env() -> Result<Option<Self>> {
        Self::from_variables(|name| env::var(name).ok().filter(|value| !value.is_empty()))
    }

    fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Self>> {
        let (kubeconfig, context) = match (variable("E2E_KUBECONFIG"), variable("E2E_CONTEXT")) {
            (Some(kubeconfig), Some(context)) => (kubeconfig, context),
            (None, None) => return Ok(None),
            (Some(_), None) => bail!("E2E_KUBECONFIG is set: set E2E_CONTEXT too"),
            (None, Some(_)) => bail!("E2E_CONTEXT is set: set E2E_KUBECONFIG too"),
        };
        let permission = variable("E2E_I_MAY_DESTROY");
        let made_for_tests = context.starts_with("kind-") || context.starts_with("k3d-");
        if !made_for_tests && permission.as_ref() != Some(&context) {
            bail!(
                "the context {context} does not look like a test cluster (kind-..., k3d-...); \
                 if its content may be destroyed, set E2E_I_MAY_DESTROY={context}"
            );
        }
        let Some(load_image) = variable("E2E_LOAD_IMAGE").or_else(|| default_load_image(&context)) else {
            bail!("set E2E_LOAD_IMAGE to a shell command that loads the image archive $1 on the nodes of {context}");
        };
        Ok(Some(Self { kubeconfig: kubeconfig.into(), context, load_image }))
    }
}

fn default_load_image(context: &str) -> Option<String> {
    if let Some(name) = context.strip_prefix("kind-") {
        return Some(format!("kind load image-archive --name '{name}' \"$1\""));
    }
    context.strip_prefix("k3d-").map(|name| format!("k3d image import --cluster '{name}' \"$1\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(variables: &[(&str, &str)]) -> Result<Option<ExternalCluster>> {
        ExternalCluster::from_variables(|name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn inherited_kubeconfig_is_ignored() {
        assert_eq!(with(&[("KUBECONFIG", "/home/me/.kube/config")]).unwrap(), None);
    }

    #[test]
    fn kubeconfig_and_context_are_given_together() {
        assert!(with(&[("E2E_KUBECONFIG", "/k")]).is_err());
        assert!(with(&[("E2E_CONTEXT", "kind-a")]).is_err());
    }

    #[test]
    fn kind_cluster_needs_no_confirmation_and_has_a_default_loader() {
        let found = with(&[("E2E_KUBECONFIG", "/k"), ("E2E_CONTEXT", "kind-a")]).unwrap().unwrap();
        assert_eq!(found.load_image, "kind load image-archive --name 'a' \"$1\"");
    }

    #[test]
    fn other_clusters_need_a_confirmation_with_their_context() {
        let named = [("E2E_KUBECONFIG", "/k"), ("E2E_CONTEXT", "prod"), ("E2E_LOAD_IMAGE", "load \"$1\"")];
        assert!(with(&named).unwrap_err().to_string().contains("E2E_I_MAY_DESTROY=prod"));
        assert!(with(&[&named[..], &[("E2E_I_MAY_DESTROY", "yes")]].concat()).is_err());
        assert!(with(&[&named[..], &[("E2E_I_MAY_DESTROY", "prod")]].concat()).unwrap().is_some());
    }

    #[test]
    fn other_clusters_need_an_image_loader() {
        let named = [("E2E_KUBECONFIG", "/k"), ("E2E_CONTEXT", "prod"), ("E2E_I_MAY_DESTROY", "prod")];
        assert!(with(&named).unwrap_err().to_string().contains("E2E_LOAD_IMAGE"));
    }
}
