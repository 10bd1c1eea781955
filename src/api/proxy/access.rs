use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Whether some list is not empty.
const LISTED: &str = "[has(self.emails) && size(self.emails) > 0, has(self.domains) && size(self.domains) > 0, has(self.groups) && size(self.groups) > 0].exists(listed, listed)";

/// Who may log in. The rules are applied at each login and each refresh, and to all sessions when they change.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new(format!("self.policy != 'Listed' || {LISTED}"))
        .message("access lets nobody in: list emails, domains or groups, or write policy: AnyUser"),
    validation = Rule::new(format!("self.policy != 'AnyUser' || !({LISTED})"))
        .message("policy AnyUser lets everyone in, whatever is listed: remove emails, domains and groups, or write policy: Listed")
)]
pub struct Access {
    /// Listed lets in who is in one of the lists; AnyUser everyone whom the issuer knows.
    #[serde(default)]
    pub policy: AccessPolicy,

    /// E-mail addresses, compared without regard to case.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000), inner(length(min = 3, max = 320)))]
    #[x_kube(
        merge_strategy = ListMerge::Set,
        validation = Rule::new("self.all(email, email.matches('^[^@ ]+@[^@ ]+$'))")
            .message("each of emails must be an address such as ada@example.com")
    )]
    pub emails: Vec<String>,

    /// Domains, such as example.com: with Google the Workspace domain that vouches for the account (hd), with other
    /// issuers the part of the verified address behind the @.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100), inner(length(min = 1, max = 253)))]
    #[x_kube(
        merge_strategy = ListMerge::Set,
        validation = Rule::new("self.all(domain, domain.matches('^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$'))")
            .message("each of domains must be a domain such as example.com, without @ or *")
    )]
    pub domains: Vec<String>,

    /// Groups of the issuer, as identityProvider.groupsClaim names them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100), inner(length(min = 1, max = 256)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub groups: Vec<String>,

    /// E-mail addresses that are refused, and logged out at once, whatever else holds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000), inner(length(min = 3, max = 320)))]
    #[x_kube(
        merge_strategy = ListMerge::Set,
        validation = Rule::new("self.all(email, email.matches('^[^@ ]+@[^@ ]+$'))")
            .message("each of blocked must be an address such as ada@example.com")
    )]
    pub blocked: Vec<String>,
}

/// Whether the lists decide who may log in.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum AccessPolicy {
    /// Who is in one of the lists.
    #[default]
    Listed,
    /// Everyone whom the issuer knows.
    AnyUser,
}
