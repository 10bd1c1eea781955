use std::collections::BTreeMap;

/// The label that the watches on children select.
pub(in crate::operator) const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// The value of [`MANAGED_BY`].
pub(in crate::operator) const MANAGED_BY_US: &str = "mcp-oauth-operator";

/// The labels of every child. Network policies of upstreams select pods by the name, so it equals the resource's name.
pub(in crate::operator) fn labels(name: &str) -> BTreeMap<String, String> {
    [("app.kubernetes.io/name", name), (MANAGED_BY, MANAGED_BY_US)]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
}

/// The pod selector of the Deployment and the Service. A Deployment's selector is immutable, so it must not depend on the
/// spec or on a version.
pub(in crate::operator) fn selector(name: &str) -> BTreeMap<String, String> {
    labels(name)
}

/// The pod selector as a query parameter: `key=value,key=value`.
pub(in crate::operator) fn label_selector(name: &str) -> String {
    selector(name).iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}
