//! One condition each, decided from what was fetched and applied.

use k8s_openapi::api::apps::v1::DeploymentStatus;

use super::super::{apply::LiveDeployment, credentials::CredentialsState, validate::ValidatedProxy};
use crate::api::proxy::{ConfigMapKeyReference, SecretKeyReference};
use crate::config::{PodStatus, RecheckStatus};

/// The reasons of the conditions. They are part of the interface: users and scripts match them.
pub(super) mod reasons {
    pub const ADDRESS_FROM_TRUSTED_PROXIES: &str = "AddressFromTrustedProxies";
    pub const TRUSTED_PROXIES_NOT_SET: &str = "TrustedProxiesNotSet";
    pub const APPLY_FORBIDDEN: &str = "ApplyForbidden";
    pub const CA_MISSING: &str = "CAMissing";
    pub const CLIENT_SECRET_MISSING: &str = "ClientSecretMissing";
    pub const CREDENTIALS_COMPLETE: &str = "CredentialsComplete";
    pub const FORMER_CHILDREN_TERMINATING: &str = "FormerChildrenTerminating";
    pub const INVALID_SPEC: &str = "InvalidSpec";
    pub const NAME_CONFLICT: &str = "NameConflict";
    pub const NO_LOGIN_YET: &str = "NoLoginYet";
    pub const NO_REFRESH_TOKEN: &str = "NoRefreshToken";
    pub const REFRESH_TOKEN_GIVEN: &str = "RefreshTokenGiven";
    pub const NO_POD_ANSWERS: &str = "NoPodAnswers";
    pub const ONE_PASSWORD_CRD_MISSING: &str = "OnePasswordCRDMissing";
    pub const PODS_NOT_REACHED: &str = "PodsNotReached";
    pub const POD_ANSWERS: &str = "PodAnswers";
    pub const PODS_REFUSED: &str = "PodsRefused";
    pub const ROLLING_OUT: &str = "RollingOut";
    pub const ROLLOUT_STUCK: &str = "RolloutStuck";
    pub const SCALED_TO_ZERO: &str = "ScaledToZero";
    pub const SECRET_KEY_MISSING: &str = "SecretKeyMissing";
    pub const SECRET_NOT_FOUND: &str = "SecretNotFound";
    pub const SERVING: &str = "Serving";
    pub const SIGNING_KEYS_UNREADABLE: &str = "SigningKeysUnreadable";
}

/// A condition without its type and times.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ConditionValue {
    pub status: &'static str,
    pub reason: &'static str,
    pub message: String,
}

impl ConditionValue {
    pub fn new(status: bool, reason: &'static str, message: impl Into<String>) -> Self {
        let status = if status { "True" } else { "False" };
        // The API server accepts 32 KiB, but messages that quote the API server should stay readable.
        Self { status, reason, message: message.into().chars().take(1024).collect() }
    }

    pub fn is_true(&self) -> bool {
        self.status == "True"
    }

    pub fn with_status(&self, status: &'static str) -> Self {
        Self { status, ..self.clone() }
    }
}

pub(super) fn credentials_condition(
    proxy: &ValidatedProxy,
    credentials: &CredentialsState,
    one_password_served: bool,
) -> ConditionValue {
    let secret = proxy.credentials_secret();
    match credentials {
        CredentialsState::Foreign => ConditionValue::new(
            false,
            reasons::NAME_CONFLICT,
            format!(
                "Secret {secret} was not created from a 1Password item and would be overwritten by one: remove the Secret, or set credentials.secretRef"
            ),
        ),
        CredentialsState::Complete => {
            ConditionValue::new(true, reasons::CREDENTIALS_COMPLETE, format!("Secret {secret} has every key"))
        }
        CredentialsState::KeysMissing(keys) => ConditionValue::new(
            false,
            reasons::SECRET_KEY_MISSING,
            format!("{} {} missing from Secret {secret}", keys.join(", "), if keys.len() == 1 { "is" } else { "are" }),
        ),
        CredentialsState::ClientSecretMissing(SecretKeyReference { name, key }) => ConditionValue::new(
            false,
            reasons::CLIENT_SECRET_MISSING,
            format!("clients.static refers to key {key} of Secret {name}, which does not exist"),
        ),
        CredentialsState::CaMissing(ConfigMapKeyReference { name, key }) => ConditionValue::new(
            false,
            reasons::CA_MISSING,
            format!("identityProvider.caRef refers to key {key} of ConfigMap {name}, which does not exist"),
        ),
        CredentialsState::NotFound if !one_password_served => ConditionValue::new(
            false,
            reasons::ONE_PASSWORD_CRD_MISSING,
            "this cluster does not serve the kind OnePasswordItem: install the 1Password operator, or use credentials.secretRef",
        ),
        CredentialsState::NotFound => ConditionValue::new(
            false,
            reasons::SECRET_NOT_FOUND,
            format!("Secret {secret} does not exist in this namespace"),
        ),
    }
}

/// Returns `Available` (some pod is ready) and `Ready` (a pod with the current configuration is ready).
pub(super) fn availability(proxy: &ValidatedProxy, deployment: &LiveDeployment) -> (ConditionValue, ConditionValue) {
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
pub(super) fn recheck(pods: &[PodStatus]) -> ConditionValue {
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
pub(super) fn client_address(proxy: &ValidatedProxy) -> ConditionValue {
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
