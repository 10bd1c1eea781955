use std::collections::BTreeMap;

/// Marks our objects: it is what the watches on them select.
pub(in crate::operator) const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// The value of [`MANAGED_BY`].
pub(in crate::operator) const MANAGED_BY_US: &str = "mcp-oauth-operator";

/// The labels of every child. Network policies of upstreams select the name, so it is the resource's own.
pub(in crate::operator) fn labels(name: &str) -> BTreeMap<String, String> {
    [("app.kubernetes.io/name", name), (MANAGED_BY, MANAGED_BY_US)]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
}

/// What the Deployment and the Service select their pods by. A Deployment's selector can never change, so nothing in it
/// may depend on the spec or on a version.
pub(in crate::operator) fn selector(name: &str) -> BTreeMap<String, String> {
    labels(name)
}

/// The same as the API's queries have it: `key=value,key=value`.
pub(in crate::operator) fn label_selector(name: &str) -> String {
    selector(name).iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}
