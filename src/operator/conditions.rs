//! The observed state of a resource as status conditions. They follow kstatus
//! (<https://github.com/kubernetes-sigs/cli-utils/tree/master/pkg/kstatus>): `Ready` summarizes the others, and `Stalled`
//! exists only while a user has to act. This module is pure: `status` writes the conditions.

mod evaluate;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use self::evaluate::{ConditionValue, availability, client_address, credentials_condition, reasons, recheck};
use super::{
    apply::Applied,
    build::label_selector,
    credentials::CredentialsState,
    ownership::{NameConflict, Ownership},
    validate::ValidatedProxy,
};
use crate::api::McpOAuthProxyStatus;
use crate::config::PodStatus;

/// The condition types of this operator. It leaves conditions of other types unchanged.
pub(super) const TYPES: [&str; 6] =
    [READY, "CredentialsReady", "Available", "ClientAddressKnown", RECHECK_WORKS, STALLED];

/// Summarizes the other conditions.
pub(super) const READY: &str = "Ready";

/// Exists only with `identityProvider.recheckOnRefresh`.
const RECHECK_WORKS: &str = "RecheckWorks";

/// Exists only while a user has to act.
const STALLED: &str = "Stalled";

/// Observed state of a resource. `None`: unknown, or the condition does not apply.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct ObservedState {
    url: Option<String>,
    service_url: Option<String>,
    label_selector: Option<String>,
    replicas: Option<i32>,
    ready: Option<ConditionValue>,
    credentials: Option<ConditionValue>,
    available: Option<ConditionValue>,
    client_address: Option<ConditionValue>,
    recheck: Option<ConditionValue>,
    stalled: Option<ConditionValue>,
}

impl ObservedState {
    /// The resource is invalid, or the API server rejects its children. Existing children stay as they are.
    pub(super) fn invalid(message: &str) -> Self {
        let value = ConditionValue::new(false, reasons::INVALID_SPEC, message);
        Self { stalled: Some(value.with_status("True")), ready: Some(value), ..Self::default() }
    }

    /// The operator lacks a permission.
    pub(super) fn forbidden(message: &str) -> Self {
        Self { ready: Some(ConditionValue::new(false, reasons::APPLY_FORBIDDEN, message)), ..Self::default() }
    }

    /// The observed state after a completed reconcile.
    pub(super) fn of(
        proxy: &ValidatedProxy,
        credentials: &CredentialsState,
        applied: &Applied,
        pods: &[PodStatus],
    ) -> Self {
        let mut observed = Self {
            url: Some(proxy.url.clone()),
            service_url: Some(proxy.service_url.clone()),
            label_selector: Some(label_selector(&proxy.name)),
            client_address: Some(client_address(proxy)),
            recheck: proxy.config.identity_provider.rechecks().then(|| recheck(pods)),
            ..Self::default()
        };
        match applied {
            Applied::NameConflicts(conflicts) => {
                observed.credentials = Some(credentials_condition(proxy, credentials, true));
                observed.add_name_conflicts(conflicts);
            }
            Applied::Everything { deployment, one_password_served, signing_keys_readable } => {
                let credentials = credentials_condition(proxy, credentials, *one_password_served);
                let (available, ready) = availability(proxy, deployment);
                observed.replicas = deployment.status.as_ref().and_then(|status| status.replicas).or(Some(0));
                let ready = if credentials.is_true() { ready } else { credentials.clone() };
                observed.stalled = (ready.reason == reasons::ROLLOUT_STUCK).then(|| ready.with_status("True"));
                observed.ready = Some(ready);
                observed.available = Some(available);
                observed.credentials = Some(credentials);
                if !signing_keys_readable {
                    let secret = proxy.signing_keys_secret();
                    let value = ConditionValue::new(
                        false,
                        reasons::SIGNING_KEYS_UNREADABLE,
                        format!(
                            "Secret {secret} has no readable keys.json: delete the Secret, and the operator creates new keys; clients then refresh their tokens without a new login"
                        ),
                    );
                    observed.stalled = Some(value.with_status("True"));
                    observed.ready = Some(value);
                }
            }
        }
        observed
    }

    fn add_name_conflicts(&mut self, conflicts: &[NameConflict]) {
        let foreign: Vec<String> = conflicts
            .iter()
            .filter_map(|conflict| match &conflict.owner {
                Ownership::Foreign { owner } => Some(format!("{} {} belongs to {owner}", conflict.kind, conflict.name)),
                Ownership::Ours | Ownership::Former => None,
            })
            .collect();
        if foreign.is_empty() {
            let names: Vec<String> =
                conflicts.iter().map(|conflict| format!("{} {}", conflict.kind, conflict.name)).collect();
            self.ready = Some(ConditionValue::new(
                false,
                reasons::FORMER_CHILDREN_TERMINATING,
                format!("children of a deleted resource of this name are still being deleted: {}", names.join(", ")),
            ));
        } else {
            let value = ConditionValue::new(
                false,
                reasons::NAME_CONFLICT,
                format!("{}: rename or remove it, or give this resource another name", foreign.join("; ")),
            );
            self.stalled = Some(value.with_status("True"));
            self.ready = Some(value);
        }
    }

    /// Whether something is missing that no watch reports, so that only a retry notices the change.
    pub(super) fn needs_retry(&self) -> bool {
        self.credentials.as_ref().is_some_and(|credentials| !credentials.is_true())
            || self.ready.as_ref().is_some_and(|ready| {
                [reasons::NAME_CONFLICT, reasons::FORMER_CHILDREN_TERMINATING, reasons::SIGNING_KEYS_UNREADABLE]
                    .contains(&ready.reason)
            })
    }

    /// Status, reason and message of `Ready`, for events and logs.
    pub(super) fn summary(&self) -> (bool, &str, &str) {
        self.ready
            .as_ref()
            .map_or((false, "Unknown", ""), |ready| (ready.is_true(), ready.reason, ready.message.as_str()))
    }

    /// Builds the new status. A condition keeps its `lastTransitionTime` from `old` while its status is unchanged. What a
    /// failed reconcile did not observe keeps its old value, except `Stalled`, which is removed.
    pub(super) fn status(
        &self,
        old: &McpOAuthProxyStatus,
        generation: Option<i64>,
        now: Timestamp,
    ) -> McpOAuthProxyStatus {
        let values =
            [&self.ready, &self.credentials, &self.available, &self.client_address, &self.recheck, &self.stalled];
        let complete = self.url.is_some();
        let conditions = TYPES.iter().zip(values).filter_map(|(type_, value)| {
            let before = old.conditions.iter().find(|condition| condition.type_ == *type_);
            let Some(value) = value else {
                let is_obsolete = *type_ == STALLED || (*type_ == RECHECK_WORKS && complete);
                return before.filter(|_| !is_obsolete).cloned();
            };
            // An unreachable pod is no new information: the condition would flap.
            if let (reasons::PODS_NOT_REACHED, Some(before)) = (value.reason, before) {
                return Some(before.clone());
            }
            let since = before
                .filter(|condition| condition.status == value.status)
                .map_or(Time(now), |condition| condition.last_transition_time.clone());
            Some(Condition {
                type_: (*type_).to_owned(),
                status: value.status.to_owned(),
                reason: value.reason.to_owned(),
                message: value.message.clone(),
                observed_generation: generation,
                last_transition_time: since,
            })
        });
        McpOAuthProxyStatus {
            observed_generation: generation,
            conditions: conditions.collect(),
            url: self.url.clone().or_else(|| old.url.clone()),
            service_url: self.service_url.clone().or_else(|| old.service_url.clone()),
            label_selector: self.label_selector.clone().or_else(|| old.label_selector.clone()),
            replicas: self.replicas.or(old.replicas),
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
