//! The observed state of a resource as status conditions. They follow kstatus
//! (<https://github.com/kubernetes-sigs/cli-utils/tree/master/pkg/kstatus>): `Ready` summarizes the others, and `Stalled`
//! exists only while a user has to act. This module is pure: `status` writes the conditions.

use jiff::Timestamp;
use k8s_openapi::{
    api::apps::v1::DeploymentStatus,
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
};

use super::{
    apply::{Applied, LiveDeployment},
    build::label_selector,
    credentials::Credentials,
    ownership::{NameConflict, Ownership},
    validate::ValidatedProxy,
};
use crate::api::{
    McpOAuthProxyStatus,
    proxy::{ConfigMapKeyReference, SecretKeyReference},
};
use crate::config::{PodStatus, RecheckStatus};

/// The condition types of this operator. It leaves conditions of other types unchanged.
pub(super) const TYPES: [&str; 6] =
    [READY, "CredentialsReady", "Available", "ClientAddressKnown", RECHECK_WORKS, STALLED];

/// Summarizes the other conditions.
pub(super) const READY: &str = "Ready";

/// Exists only with `identityProvider.recheckOnRefresh`.
const RECHECK_WORKS: &str = "RecheckWorks";

/// Exists only while a user has to act.
const STALLED: &str = "Stalled";

/// The reasons of the conditions. They are part of the interface: users and scripts match them.
mod reasons {
    pub(super) const ADDRESS_FROM_TRUSTED_PROXIES: &str = "AddressFromTrustedProxies";
    pub(super) const TRUSTED_PROXIES_NOT_SET: &str = "TrustedProxiesNotSet";
    pub(super) const APPLY_FORBIDDEN: &str = "ApplyForbidden";
    pub(super) const CA_MISSING: &str = "CAMissing";
    pub(super) const CLIENT_SECRET_MISSING: &str = "ClientSecretMissing";
    pub(super) const CREDENTIALS_COMPLETE: &str = "CredentialsComplete";
    pub(super) const FORMER_CHILDREN_TERMINATING: &str = "FormerChildrenTerminating";
    pub(super) const INVALID_SPEC: &str = "InvalidSpec";
    pub(super) const NAME_CONFLICT: &str = "NameConflict";
    pub(super) const NO_LOGIN_YET: &str = "NoLoginYet";
    pub(super) const NO_REFRESH_TOKEN: &str = "NoRefreshToken";
    pub(super) const REFRESH_TOKEN_GIVEN: &str = "RefreshTokenGiven";
    pub(super) const NO_POD_ANSWERS: &str = "NoPodAnswers";
    pub(super) const ONE_PASSWORD_CRD_MISSING: &str = "OnePasswordCRDMissing";
    pub(super) const PODS_NOT_REACHED: &str = "PodsNotReached";
    pub(super) const POD_ANSWERS: &str = "PodAnswers";
    pub(super) const PODS_REFUSED: &str = "PodsRefused";
    pub(super) const ROLLING_OUT: &str = "RollingOut";
    pub(super) const ROLLOUT_STUCK: &str = "RolloutStuck";
    pub(super) const SCALED_TO_ZERO: &str = "ScaledToZero";
    pub(super) const SECRET_KEY_MISSING: &str = "SecretKeyMissing";
    pub(super) const SECRET_NOT_FOUND: &str = "SecretNotFound";
    pub(super) const SERVING: &str = "Serving";
    pub(super) const SIGNING_KEYS_UNREADABLE: &str = "SigningKeysUnreadable";
}

/// A condition without its type and times.
#[derive(Clone, Debug, PartialEq)]
struct ConditionValue {
    status: &'static str,
    reason: &'static str,
    message: String,
}

impl ConditionValue {
    fn new(status: bool, reason: &'static str, message: impl Into<String>) -> Self {
        let status = if status { "True" } else { "False" };
        // The API server accepts 32 KiB, but messages that quote the API server should stay readable.
        Self { status, reason, message: message.into().chars().take(1024).collect() }
    }

    fn is_true(&self) -> bool {
        self.status == "True"
    }

    fn with_status(&self, status: &'static str) -> Self {
        Self { status, ..self.clone() }
    }
}

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
    pub(super) fn of(proxy: &ValidatedProxy, credentials: &Credentials, applied: &Applied, pods: &[PodStatus]) -> Self {
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

fn credentials_condition(
    proxy: &ValidatedProxy,
    credentials: &Credentials,
    one_password_served: bool,
) -> ConditionValue {
    let secret = proxy.credentials_secret();
    match credentials {
        Credentials::Foreign => ConditionValue::new(
            false,
            reasons::NAME_CONFLICT,
            format!(
                "Secret {secret} was not created from a 1Password item and would be overwritten by one: remove the Secret, or set credentials.secretRef"
            ),
        ),
        Credentials::Complete => {
            ConditionValue::new(true, reasons::CREDENTIALS_COMPLETE, format!("Secret {secret} has every key"))
        }
        Credentials::KeysMissing(keys) => ConditionValue::new(
            false,
            reasons::SECRET_KEY_MISSING,
            format!("{} {} missing from Secret {secret}", keys.join(", "), if keys.len() == 1 { "is" } else { "are" }),
        ),
        Credentials::ClientSecretMissing(SecretKeyReference { name, key }) => ConditionValue::new(
            false,
            reasons::CLIENT_SECRET_MISSING,
            format!("clients.static refers to key {key} of Secret {name}, which does not exist"),
        ),
        Credentials::CaMissing(ConfigMapKeyReference { name, key }) => ConditionValue::new(
            false,
            reasons::CA_MISSING,
            format!("identityProvider.caRef refers to key {key} of ConfigMap {name}, which does not exist"),
        ),
        Credentials::NotFound if !one_password_served => ConditionValue::new(
            false,
            reasons::ONE_PASSWORD_CRD_MISSING,
            "this cluster does not serve the kind OnePasswordItem: install the 1Password operator, or use credentials.secretRef",
        ),
        Credentials::NotFound => ConditionValue::new(
            false,
            reasons::SECRET_NOT_FOUND,
            format!("Secret {secret} does not exist in this namespace"),
        ),
    }
}

/// Returns `Available` (some pod is ready) and `Ready` (a pod with the current configuration is ready).
fn availability(proxy: &ValidatedProxy, deployment: &LiveDeployment) -> (ConditionValue, ConditionValue) {
    let status = deployment.status.clone().unwrap_or_default();
    let count = |number: Option<i32>| number.unwrap_or_default();
    let (all, updated, available) =
        (count(status.replicas), count(status.updated_replicas), count(status.available_replicas));
    let scaled_to_zero = ConditionValue::new(false, reasons::SCALED_TO_ZERO, "replicas is 0");

    let availability = if available > 0 {
        ConditionValue::new(true, reasons::POD_ANSWERS, "at least one pod is ready")
    } else if proxy.replicas == 0 {
        scaled_to_zero.clone()
    } else {
        let ValidatedProxy { name, namespace, .. } = proxy;
        let hint = format!("kubectl --namespace {namespace} describe pods -l app.kubernetes.io/name={name}");
        ConditionValue::new(false, reasons::NO_POD_ANSWERS, format!("no pod is ready: {hint}"))
    };
    if proxy.replicas == 0 {
        return (availability, scaled_to_zero);
    }
    // All outdated pods may be available. Only more available pods than outdated ones prove that an updated pod is ready.
    let is_current = status.observed_generation >= deployment.metadata.generation;
    let ready = if is_current && available > all - updated {
        ConditionValue::new(true, reasons::SERVING, format!("serving at {}", proxy.url))
    } else if let Some(rollout_failure) = is_current.then(|| rollout_failure(&status)).flatten() {
        rollout_failure
    } else if availability.is_true() {
        rolling_out(proxy)
    } else {
        availability.clone()
    };
    (availability, ready)
}

/// Whether the issuer returns the refresh tokens that `recheckOnRefresh` needs.
fn recheck(pods: &[PodStatus]) -> ConditionValue {
    let latest = |time: fn(&RecheckStatus) -> i64| pods.iter().map(|pod| time(&pod.recheck)).max().unwrap_or_default();
    if pods.is_empty() {
        let message = "no pod reports on its health port whether the issuer returns refresh tokens: no pod runs yet, or a NetworkPolicy blocks the operator";
        return ConditionValue::new(false, reasons::PODS_NOT_REACHED, message).with_status("Unknown");
    }
    let (given, missing) = (latest(|recheck| recheck.given), latest(|recheck| recheck.missing));
    if missing > given {
        ConditionValue::new(
            false,
            reasons::NO_REFRESH_TOKEN,
            "logins are refused: identityProvider.recheckOnRefresh needs a refresh token, and the issuer returns none. Enable refresh tokens for this client at the issuer, or add what it requires to scopes (offline_access) and authorizeParameters",
        )
    } else if given > 0 {
        ConditionValue::new(true, reasons::REFRESH_TOKEN_GIVEN, "the issuer is queried at each refresh")
    } else {
        ConditionValue::new(false, reasons::NO_LOGIN_YET, "no user has logged in since the pods started")
            .with_status("Unknown")
    }
}

/// Whether the proxy knows client IPs, so that rate limits apply per client.
fn client_address(proxy: &ValidatedProxy) -> ConditionValue {
    if proxy.config.trusted_proxies.is_empty() {
        ConditionValue::new(
            false,
            reasons::TRUSTED_PROXIES_NOT_SET,
            "rate limits apply to all clients together: list the addresses of the tunnel or ingress in trustedProxies to apply them per client",
        )
    } else {
        ConditionValue::new(true, reasons::ADDRESS_FROM_TRUSTED_PROXIES, "rate limits apply per client")
    }
}

fn rolling_out(proxy: &ValidatedProxy) -> ConditionValue {
    let ValidatedProxy { name, namespace, .. } = proxy;
    let hint = format!("kubectl --namespace {namespace} rollout status deployment/{name}");
    let message = format!("rollout in progress: new pods are not ready, old ones still serve: {hint}");
    ConditionValue::new(false, reasons::ROLLING_OUT, message)
}

/// Why the Deployment has no new ready pods, from its own conditions.
fn rollout_failure(status: &DeploymentStatus) -> Option<ConditionValue> {
    let conditions = status.conditions.as_deref().unwrap_or_default();
    let find = |type_: &str, status: &str| {
        conditions.iter().find(|condition| condition.type_ == type_ && condition.status == status)
    };
    if let Some(refused) = find("ReplicaFailure", "True") {
        let message = refused.message.as_deref().unwrap_or("the API server reports no reason");
        return Some(ConditionValue::new(false, reasons::PODS_REFUSED, format!("pods cannot be created: {message}")));
    }
    find("Progressing", "False").map(|stuck| {
        let message = stuck.message.as_deref().unwrap_or("the new pods do not become ready");
        let hint = "check the logs and events of the new pods, then fix the resource or what the pods wait for";
        ConditionValue::new(false, reasons::ROLLOUT_STUCK, format!("{message}: {hint}"))
    })
}

#[cfg(test)]
pub(super) mod tests;
