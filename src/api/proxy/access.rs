use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::{Domain, EmailAddress, rules};

/// Access rules: which users may log in. The proxy evaluates them at each login and each token refresh, and for all
/// existing sessions when they change.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = rules::LISTED_NEEDS_A_LIST.schema(),
    validation = rules::ANY_USER_NEEDS_NO_LIST.schema()
)]
pub struct Access {
    /// Access policy. Listed (default): a user must match emails, domains or groups. AnyUser: everyone who can log in at
    /// the issuer is allowed.
    #[serde(default)]
    pub policy: AccessPolicy,

    /// Allowed e-mail addresses, such as ada@example.com. Case-insensitive.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub emails: Vec<EmailAddress>,

    /// Allowed domains, such as example.com. With Google: the Workspace domain of the account (hd claim). With other
    /// issuers: the domain of the verified e-mail address.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub domains: Vec<Domain>,

    /// Allowed groups, as listed in the claim that identityProvider.groupsClaim names. Requires identityProvider.groupsClaim.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100), inner(length(min = 1, max = 256)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub groups: Vec<String>,

    /// Denied e-mail addresses. They take precedence over all other access rules; existing sessions of these users end at
    /// once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub blocked: Vec<EmailAddress>,
}

/// Access policy: whether the allow lists apply.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum AccessPolicy {
    /// Users who match at least one of the lists.
    #[default]
    Listed,
    /// Everyone who can log in at the issuer.
    AnyUser,
}
