//! What a pass found, as conditions. Conventions: those of kstatus
//! (<https://github.com/kubernetes-sigs/cli-utils/tree/master/pkg/kstatus>): `Ready` sums up, `Stalled` is there only
//! while a person has to act. Pure: `status` writes them.

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

/// The types of conditions that are ours. Others are left alone.
pub(super) const TYPES: [&str; 6] =
    [READY, "CredentialsReady", "Available", "ClientAddressKnown", RECHECK_WORKS, STALLED];

/// Sums up the others.
pub(super) const READY: &str = "Ready";

/// There only with `identityProvider.recheckOnRefresh`.
const RECHECK_WORKS: &str = "RecheckWorks";

/// There only while a person has to act.
const STALLED: &str = "Stalled";

/// The reasons that conditions give. They are an interface: people and scripts match them.
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

/// What one condition says, without its times.
#[derive(Clone, Debug, PartialEq)]
struct Verdict {
    status: &'static str,
    reason: &'static str,
    message: String,
}

impl Verdict {
    fn is(status: bool, reason: &'static str, message: impl Into<String>) -> Self {
        let status = if status { "True" } else { "False" };
        // The API server takes 32 KiB; a person takes less. Messages repeat what the API server said.
        Self { status, reason, message: message.into().chars().take(1024).collect() }
    }

    fn holds(&self) -> bool {
        self.status == "True"
    }

    /// The same reason, said of a condition that has this status.
    fn as_status(&self, status: &'static str) -> Self {
        Self { status, ..self.clone() }
    }
}

/// What a pass over a resource found.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Findings {
    url: Option<String>,
    service_url: Option<String>,
    label_selector: Option<String>,
    replicas: Option<i32>,
    ready: Option<Verdict>,
    credentials: Option<Verdict>,
    available: Option<Verdict>,
    client_address: Option<Verdict>,
    recheck: Option<Verdict>,
    stalled: Option<Verdict>,
}

impl Findings {
    /// The resource itself is not right, or the API server never takes what it becomes. What runs goes on running.
    pub(super) fn invalid(message: &str) -> Self {
        let verdict = Verdict::is(false, reasons::INVALID_SPEC, message);
        Self { stalled: Some(verdict.as_status("True")), ready: Some(verdict), ..Self::default() }
    }

    /// The operator may not do what it has to.
    pub(super) fn forbidden(message: &str) -> Self {
        Self { ready: Some(Verdict::is(false, reasons::APPLY_FORBIDDEN, message)), ..Self::default() }
    }

    /// The findings of a completed reconcile.
    pub(super) fn of(proxy: &ValidatedProxy, credentials: &Credentials, applied: &Applied, pods: &[PodStatus]) -> Self {
        let mut findings = Self {
            url: Some(proxy.url.clone()),
            service_url: Some(proxy.service_url.clone()),
            label_selector: Some(label_selector(&proxy.name)),
            client_address: Some(client_address(proxy)),
            recheck: proxy.config.identity_provider.rechecks().then(|| recheck(pods)),
            ..Self::default()
        };
        match applied {
            Applied::NameConflicts(conflicts) => {
                findings.credentials = Some(credentials_verdict(proxy, credentials, true));
                findings.add_name_conflicts(conflicts);
            }
            Applied::Everything { deployment, one_password_served, signing_keys_readable } => {
                let credentials = credentials_verdict(proxy, credentials, *one_password_served);
                let (available, ready) = availability(proxy, deployment);
                findings.replicas = deployment.status.as_ref().and_then(|status| status.replicas).or(Some(0));
                let ready = if credentials.holds() { ready } else { credentials.clone() };
                findings.stalled = (ready.reason == reasons::ROLLOUT_STUCK).then(|| ready.as_status("True"));
                findings.ready = Some(ready);
                findings.available = Some(available);
                findings.credentials = Some(credentials);
                if !signing_keys_readable {
                    let secret = proxy.signing_keys_secret();
                    let verdict = Verdict::is(
                        false,
                        reasons::SIGNING_KEYS_UNREADABLE,
                        format!(
                            "Secret {secret} has no readable keys.json: delete the Secret, and the operator creates new keys; clients then refresh their tokens and nobody has to log in again"
                        ),
                    );
                    findings.stalled = Some(verdict.as_status("True"));
                    findings.ready = Some(verdict);
                }
            }
        }
        findings
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
            self.ready = Some(Verdict::is(
                false,
                reasons::FORMER_CHILDREN_TERMINATING,
                format!("children of a deleted resource of this name are still being deleted: {}", names.join(", ")),
            ));
        } else {
            let verdict = Verdict::is(
                false,
                reasons::NAME_CONFLICT,
                format!("{}: rename or remove it, or give this resource another name", foreign.join("; ")),
            );
            self.stalled = Some(verdict.as_status("True"));
            self.ready = Some(verdict);
        }
    }

    /// Whether something is missing that no watch tells us of.
    pub(super) fn needs_another_look(&self) -> bool {
        self.credentials.as_ref().is_some_and(|credentials| !credentials.holds())
            || self.ready.as_ref().is_some_and(|ready| {
                [reasons::NAME_CONFLICT, reasons::FORMER_CHILDREN_TERMINATING, reasons::SIGNING_KEYS_UNREADABLE]
                    .contains(&ready.reason)
            })
    }

    /// Reason and message of `Ready`, and whether it holds: what events and logs say.
    pub(super) fn summary(&self) -> (bool, &str, &str) {
        self.ready
            .as_ref()
            .map_or((false, "Unknown", ""), |ready| (ready.holds(), ready.reason, ready.message.as_str()))
    }

    /// The status that says this. Times stay as in `old` while a condition's status does. What an unfinished pass does not
    /// know stays as it was; only `Stalled` is there no longer than a pass finds it.
    pub(super) fn status(
        &self,
        old: &McpOAuthProxyStatus,
        generation: Option<i64>,
        now: Timestamp,
    ) -> McpOAuthProxyStatus {
        let verdicts =
            [&self.ready, &self.credentials, &self.available, &self.client_address, &self.recheck, &self.stalled];
        let complete = self.url.is_some();
        let conditions = TYPES.iter().zip(verdicts).filter_map(|(type_, verdict)| {
            let before = old.conditions.iter().find(|condition| condition.type_ == *type_);
            let Some(verdict) = verdict else {
                let is_over = *type_ == STALLED || (*type_ == RECHECK_WORKS && complete);
                return before.filter(|_| !is_over).cloned();
            };
            // A pod that did not answer this time has not said anything else.
            if let (reasons::PODS_NOT_REACHED, Some(before)) = (verdict.reason, before) {
                return Some(before.clone());
            }
            let since = before
                .filter(|condition| condition.status == verdict.status)
                .map_or(Time(now), |condition| condition.last_transition_time.clone());
            Some(Condition {
                type_: (*type_).to_owned(),
                status: verdict.status.to_owned(),
                reason: verdict.reason.to_owned(),
                message: verdict.message.clone(),
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

fn credentials_verdict(proxy: &ValidatedProxy, credentials: &Credentials, one_password_served: bool) -> Verdict {
    let secret = proxy.credentials_secret();
    match credentials {
        Credentials::Foreign => Verdict::is(
            false,
            reasons::NAME_CONFLICT,
            format!(
                "Secret {secret} was not made from a 1Password item, and an item of this name would overwrite it: remove the Secret, or refer to it by credentials.secretRef"
            ),
        ),
        Credentials::Complete => {
            Verdict::is(true, reasons::CREDENTIALS_COMPLETE, format!("Secret {secret} has every key"))
        }
        Credentials::KeysMissing(keys) => Verdict::is(
            false,
            reasons::SECRET_KEY_MISSING,
            format!("{} {} missing from Secret {secret}", keys.join(", "), if keys.len() == 1 { "is" } else { "are" }),
        ),
        Credentials::ClientSecretMissing(SecretKeyReference { name, key }) => Verdict::is(
            false,
            reasons::CLIENT_SECRET_MISSING,
            format!("clients.static refers to key {key} of Secret {name}, which does not exist"),
        ),
        Credentials::CaMissing(ConfigMapKeyReference { name, key }) => Verdict::is(
            false,
            reasons::CA_MISSING,
            format!("identityProvider.caRef refers to key {key} of ConfigMap {name}, which does not exist"),
        ),
        Credentials::NotFound if !one_password_served => Verdict::is(
            false,
            reasons::ONE_PASSWORD_CRD_MISSING,
            "this cluster does not serve the kind OnePasswordItem: install the 1Password operator, or use credentials.secretRef",
        ),
        Credentials::NotFound => {
            Verdict::is(false, reasons::SECRET_NOT_FOUND, format!("Secret {secret} does not exist in this namespace"))
        }
    }
}

/// Whether some pod answers, and whether one does that runs what the resource says now.
fn availability(proxy: &ValidatedProxy, deployment: &LiveDeployment) -> (Verdict, Verdict) {
    let status = deployment.status.clone().unwrap_or_default();
    let count = |number: Option<i32>| number.unwrap_or_default();
    let (all, updated, available) =
        (count(status.replicas), count(status.updated_replicas), count(status.available_replicas));
    let scaled_to_zero = Verdict::is(false, reasons::SCALED_TO_ZERO, "replicas is 0");

    let availability = if available > 0 {
        Verdict::is(true, reasons::POD_ANSWERS, "at least one pod is ready")
    } else if proxy.replicas == 0 {
        scaled_to_zero.clone()
    } else {
        let ValidatedProxy { name, namespace, .. } = proxy;
        let hint = format!("kubectl --namespace {namespace} describe pods -l app.kubernetes.io/name={name}");
        Verdict::is(false, reasons::NO_POD_ANSWERS, format!("no pod is ready: {hint}"))
    };
    if proxy.replicas == 0 {
        return (availability, scaled_to_zero);
    }
    // Every pod of an older configuration may be among the available ones: only more than those proves a new one.
    let seen = status.observed_generation >= deployment.metadata.generation;
    let ready = if seen && available > all - updated {
        Verdict::is(true, reasons::SERVING, format!("serving at {}", proxy.url))
    } else if let Some(trouble) = seen.then(|| trouble(&status)).flatten() {
        trouble
    } else if availability.holds() {
        rolling_out(proxy)
    } else {
        availability.clone()
    };
    (availability, ready)
}

/// Whether the issuer gives what it is asked with at refreshes.
fn recheck(pods: &[PodStatus]) -> Verdict {
    let latest = |time: fn(&RecheckStatus) -> i64| pods.iter().map(|pod| time(&pod.recheck)).max().unwrap_or_default();
    if pods.is_empty() {
        let message = "no pod reports on its health port whether the issuer returns refresh tokens: no pod runs yet, or a NetworkPolicy blocks the operator";
        return Verdict::is(false, reasons::PODS_NOT_REACHED, message).as_status("Unknown");
    }
    let (given, missing) = (latest(|recheck| recheck.given), latest(|recheck| recheck.missing));
    if missing > given {
        Verdict::is(
            false,
            reasons::NO_REFRESH_TOKEN,
            "logins are refused: identityProvider.recheckOnRefresh needs a refresh token, and the issuer returns none. Enable refresh tokens for this client at the issuer, or add what it requires to scopes (offline_access) and authorizeParameters",
        )
    } else if given > 0 {
        Verdict::is(true, reasons::REFRESH_TOKEN_GIVEN, "the issuer is queried at each refresh")
    } else {
        Verdict::is(false, reasons::NO_LOGIN_YET, "nobody has logged in since the pods started").as_status("Unknown")
    }
}

/// Whether requests can be limited for each client.
fn client_address(proxy: &ValidatedProxy) -> Verdict {
    if proxy.config.trusted_proxies.is_empty() {
        Verdict::is(
            false,
            reasons::TRUSTED_PROXIES_NOT_SET,
            "rate limits apply to all clients together: list the addresses of the tunnel or ingress in trustedProxies to limit each client",
        )
    } else {
        Verdict::is(true, reasons::ADDRESS_FROM_TRUSTED_PROXIES, "rate limits apply per client")
    }
}

fn rolling_out(proxy: &ValidatedProxy) -> Verdict {
    let ValidatedProxy { name, namespace, .. } = proxy;
    let hint = format!("kubectl --namespace {namespace} rollout status deployment/{name}");
    let message = format!("rollout in progress: new pods are not ready, old ones still serve: {hint}");
    Verdict::is(false, reasons::ROLLING_OUT, message)
}

/// What the Deployment itself says of why there are no new pods: the pods that would, are not there to be asked.
fn trouble(status: &DeploymentStatus) -> Option<Verdict> {
    let conditions = status.conditions.as_deref().unwrap_or_default();
    let find = |type_: &str, status: &str| {
        conditions.iter().find(|condition| condition.type_ == type_ && condition.status == status)
    };
    if let Some(refused) = find("ReplicaFailure", "True") {
        let message = refused.message.as_deref().unwrap_or("the API server does not say why");
        return Some(Verdict::is(false, reasons::PODS_REFUSED, format!("pods cannot be created: {message}")));
    }
    find("Progressing", "False").map(|stuck| {
        let message = stuck.message.as_deref().unwrap_or("the new pods do not become ready");
        let hint = "check the logs and events of the new pods, then change the resource or what they wait for";
        Verdict::is(false, reasons::ROLLOUT_STUCK, format!("{message}: {hint}"))
    })
}

#[cfg(test)]
pub(super) mod tests;
