use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// CEL: at least one of the allow lists is not empty.
const LISTED: &str = "[has(self.emails) && size(self.emails) > 0, has(self.domains) && size(self.domains) > 0, has(self.groups) && size(self.groups) > 0].exists(listed, listed)";

/// Access rules: which people may log in. The proxy evaluates them at each login and each token refresh, and for all
/// existing sessions when they change.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new(format!("self.policy != 'Listed' || {LISTED}"))
        .message("access lets nobody in: list emails, domains or groups, or write policy: AnyUser"),
    validation = Rule::new(format!("self.policy != 'AnyUser' || !({LISTED})"))
        .message("policy AnyUser lets everyone in, whatever is listed: remove emails, domains and groups, or write policy: Listed")
)]
pub struct Access {
    /// Access policy. Listed (default): a person must match emails, domains or groups. AnyUser: everyone who can log in at
    /// the issuer is allowed.
    #[serde(default)]
    pub policy: AccessPolicy,

    /// Allowed e-mail addresses, such as ada@example.com. Case-insensitive.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000), inner(length(min = 3, max = 320)))]
    #[x_kube(
        merge_strategy = ListMerge::Set,
        validation = Rule::new("self.all(email, email.matches('^[^@ ]+@[^@ ]+$'))")
            .message("each of emails must be an address such as ada@example.com")
    )]
    pub emails: Vec<String>,

    /// Allowed domains, such as example.com. With Google: the Workspace domain of the account (hd claim). With other
    /// issuers: the domain of the verified e-mail address.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100), inner(length(min = 1, max = 253)))]
    #[x_kube(
        merge_strategy = ListMerge::Set,
        validation = Rule::new("self.all(domain, domain.matches('^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$'))")
            .message("each of domains must be a domain such as example.com, without @ or *")
    )]
    pub domains: Vec<String>,

    /// Allowed groups, as listed in the claim that identityProvider.groupsClaim names. Requires identityProvider.groupsClaim.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100), inner(length(min = 1, max = 256)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub groups: Vec<String>,

    /// Denied e-mail addresses. They take precedence over all other access rules; existing sessions of these people end at
    /// once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000), inner(length(min = 3, max = 320)))]
    #[x_kube(
        merge_strategy = ListMerge::Set,
        validation = Rule::new("self.all(email, email.matches('^[^@ ]+@[^@ ]+$'))")
            .message("each of blocked must be an address such as ada@example.com")
    )]
    pub blocked: Vec<String>,
}

/// Access policy: whether the allow lists apply.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum AccessPolicy {
    /// People who match at least one of the lists.
    #[default]
    Listed,
    /// Everyone who can log in at the issuer.
    AnyUser,
}
