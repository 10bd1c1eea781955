//! What a pass found, as conditions. Conventions: those of kstatus
//! (<https://github.com/kubernetes-sigs/cli-utils/tree/master/pkg/kstatus>): `Ready` sums up, `Stalled` is there only
//! while a person has to act. Pure: `status` writes them.

use jiff::Timestamp;
use k8s_openapi::{
    api::apps::v1::{Deployment, DeploymentStatus},
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
};

use super::{
    apply::{Applied, Ownership, Taken},
    build::selector,
    credentials::Credentials,
    validate::ValidatedProxy,
};
use crate::api::{
    McpOAuthProxyStatus,
    proxy::{ConfigMapKeyReference, SecretKeyReference},
};
use crate::proxy::config::{PodStatus, RecheckStatus};

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

    /// All that there is to know after a pass.
    pub(super) fn of(proxy: &ValidatedProxy, credentials: &Credentials, applied: &Applied, pods: &[PodStatus]) -> Self {
        let mut findings = Self {
            url: Some(proxy.url.clone()),
            service_url: Some(proxy.service_url.clone()),
            label_selector: Some(
                selector(&proxy.name).iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(","),
            ),
            client_address: Some(client_address(proxy)),
            recheck: proxy.config.identity_provider.rechecks().then(|| recheck(pods)),
            ..Self::default()
        };
        match applied {
            Applied::NamesTaken(taken) => {
                findings.credentials = Some(credentials_verdict(proxy, credentials, true));
                findings.take_names_into_account(taken);
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
                            "Secret {secret} has no readable keys.json: delete it to have new keys made; clients refresh their tokens then, and nobody has to log in again"
                        ),
                    );
                    findings.stalled = Some(verdict.as_status("True"));
                    findings.ready = Some(verdict);
                }
            }
        }
        findings
    }

    fn take_names_into_account(&mut self, taken: &[Taken]) {
        let foreign: Vec<String> = taken
            .iter()
            .filter_map(|taken| match &taken.by {
                Ownership::Foreign { owner } => Some(format!("{} {} belongs to {owner}", taken.kind, taken.name)),
                Ownership::Ours | Ownership::Former => None,
            })
            .collect();
        if foreign.is_empty() {
            let names: Vec<String> = taken.iter().map(|taken| format!("{} {}", taken.kind, taken.name)).collect();
            self.ready = Some(Verdict::is(
                false,
                reasons::FORMER_CHILDREN_TERMINATING,
                format!("what a deleted resource of this name left is still going away: {}", names.join(", ")),
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
            format!("clients.static refers to the key {key} of a Secret {name}, which is not there"),
        ),
        Credentials::CaMissing(ConfigMapKeyReference { name, key }) => Verdict::is(
            false,
            reasons::CA_MISSING,
            format!("identityProvider.caRef refers to the key {key} of a ConfigMap {name}, which is not there"),
        ),
        Credentials::NotFound if !one_password_served => Verdict::is(
            false,
            reasons::ONE_PASSWORD_CRD_MISSING,
            "this cluster has no OnePasswordItem kind: install the 1Password operator, or use credentials.secretRef",
        ),
        Credentials::NotFound => {
            Verdict::is(false, reasons::SECRET_NOT_FOUND, format!("there is no Secret {secret} yet in this namespace"))
        }
    }
}

/// Whether some pod answers, and whether one does that runs what the resource says now.
fn availability(proxy: &ValidatedProxy, deployment: &Deployment) -> (Verdict, Verdict) {
    let status = deployment.status.clone().unwrap_or_default();
    let count = |number: Option<i32>| number.unwrap_or_default();
    let (all, updated, available) =
        (count(status.replicas), count(status.updated_replicas), count(status.available_replicas));
    let scaled_to_zero = Verdict::is(false, reasons::SCALED_TO_ZERO, "replicas is 0");

    let availability = if available > 0 {
        Verdict::is(true, reasons::POD_ANSWERS, "at least one pod answers")
    } else if proxy.replicas == 0 {
        scaled_to_zero.clone()
    } else {
        let ValidatedProxy { name, namespace, .. } = proxy;
        let hint = format!("kubectl --namespace {namespace} describe pods -l app.kubernetes.io/name={name}");
        Verdict::is(false, reasons::NO_POD_ANSWERS, format!("no pod answers yet: {hint}"))
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
        let message = "no pod says at its health port whether the issuer gives refresh tokens: none runs yet, or a NetworkPolicy keeps the operator out";
        return Verdict::is(false, reasons::PODS_NOT_REACHED, message).as_status("Unknown");
    }
    let (given, missing) = (latest(|recheck| recheck.given), latest(|recheck| recheck.missing));
    if missing > given {
        Verdict::is(
            false,
            reasons::NO_REFRESH_TOKEN,
            "logins are refused: identityProvider.recheckOnRefresh needs a refresh token, and the issuer gives none. Let it give this client refresh tokens, or add what it wants to see to scopes (offline_access) and authorizeParameters",
        )
    } else if given > 0 {
        Verdict::is(
            true,
            reasons::REFRESH_TOKEN_GIVEN,
            "the issuer is asked at each refresh whether the person is still there",
        )
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
            "requests are limited for all clients together: name the addresses of the tunnel or ingress in trustedProxies to limit them for each",
        )
    } else {
        Verdict::is(true, reasons::ADDRESS_FROM_TRUSTED_PROXIES, "requests are limited for each client")
    }
}

fn rolling_out(proxy: &ValidatedProxy) -> Verdict {
    let ValidatedProxy { name, namespace, .. } = proxy;
    let hint = format!("kubectl --namespace {namespace} rollout status deployment/{name}");
    let message = format!("pods with the present configuration do not answer yet, older ones do: {hint}");
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
        return Some(Verdict::is(false, reasons::PODS_REFUSED, format!("pods cannot be made: {message}")));
    }
    find("Progressing", "False").map(|stuck| {
        let message = stuck.message.as_deref().unwrap_or("the new pods do not become ready");
        let hint = "see what the new pods say, and change the resource or what they wait for";
        Verdict::is(false, reasons::ROLLOUT_STUCK, format!("{message}: {hint}"))
    })
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::operator::validate::tests::validated;

    fn applied(generation: i64, status: &Value) -> Applied {
        let deployment = json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "mcp", "generation": generation},
            "status": status,
        });
        Applied::Everything {
            deployment: Box::new(serde_json::from_value(deployment).unwrap()),
            one_password_served: true,
            signing_keys_readable: true,
        }
    }

    pub(in crate::operator) fn running() -> Applied {
        applied(1, &json!({"observedGeneration": 1, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 1}))
    }

    pub(in crate::operator) fn find(credentials: &Credentials, applied: &Applied) -> Findings {
        Findings::of(&validated(&json!({})), credentials, applied, &[])
    }

    #[test]
    fn a_recheck_that_cannot_work_is_said_and_is_forgotten_with_the_wish() {
        let provider = json!({"issuerURL": "https://login.example", "recheckOnRefresh": "Enabled"});
        let proxy = validated(&json!({"identityProvider": provider}));
        let pod = |given, missing| PodStatus { recheck: RecheckStatus { given, missing } };
        for (pods, expected) in [
            (vec![], ("Unknown", "PodsNotReached")),
            (vec![pod(0, 0)], ("Unknown", "NoLoginYet")),
            (vec![pod(5, 0), pod(0, 0)], ("True", "RefreshTokenGiven")),
            (vec![pod(5, 0), pod(0, 7)], ("False", "NoRefreshToken")),
            (vec![pod(9, 0), pod(0, 7)], ("True", "RefreshTokenGiven")),
        ] {
            let findings = Findings::of(&proxy, &Credentials::Complete, &running(), &pods);
            let status = findings.status(&McpOAuthProxyStatus::default(), Some(1), at(0));
            let condition = status.conditions.iter().find(|condition| condition.type_ == RECHECK_WORKS).unwrap();
            assert_eq!((condition.status.as_str(), condition.reason.as_str()), expected);
            let has = |findings: Findings| {
                let status = findings.status(&status, Some(1), at(0));
                status.conditions.iter().any(|condition| condition.type_ == RECHECK_WORKS)
            };
            let silent = Findings::of(&proxy, &Credentials::Complete, &running(), &[]);
            assert_eq!(silent.status(&status, Some(1), at(9)).conditions, status.conditions, "it does not flap");
            assert!(has(Findings::forbidden("a pass that came to nothing")));
            assert!(!has(find(&Credentials::Complete, &running())));
        }
    }

    pub(in crate::operator) fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn ready(findings: &Findings) -> (&str, &str) {
        let ready = findings.ready.as_ref().unwrap();
        (ready.status, ready.reason)
    }

    #[test]
    fn ready_needs_a_pod_that_answers_and_complete_credentials() {
        assert_eq!(ready(&find(&Credentials::Complete, &running())), ("True", "Serving"));
        assert_eq!(ready(&find(&Credentials::NotFound, &running())), ("False", "SecretNotFound"));
        let none = applied(1, &json!({"observedGeneration": 1, "replicas": 2, "updatedReplicas": 2}));
        assert_eq!(ready(&find(&Credentials::Complete, &none)), ("False", "NoPodAnswers"));
    }

    #[test]
    fn pods_of_an_older_configuration_do_not_make_it_ready() {
        for (generation, status) in [
            // The Deployment controller has not even seen the change.
            (2, json!({"observedGeneration": 1, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2})),
            // The new pod is there; those that answer may be the two old ones.
            (2, json!({"observedGeneration": 2, "replicas": 3, "updatedReplicas": 1, "availableReplicas": 2})),
        ] {
            let findings = find(&Credentials::Complete, &applied(generation, &status));
            assert_eq!(ready(&findings), ("False", "RollingOut"), "{status}");
            assert!(findings.available.unwrap().holds(), "{status}");
        }
        let one_new = json!({"observedGeneration": 2, "replicas": 3, "updatedReplicas": 1, "availableReplicas": 3});
        assert_eq!(ready(&find(&Credentials::Complete, &applied(2, &one_new))), ("True", "Serving"));
    }

    #[test]
    fn a_missing_key_is_in_the_message() {
        let missing = Credentials::KeysMissing(vec!["OAUTH_CLIENT_SECRET".to_owned()]);
        let findings = find(&missing, &running());
        assert_eq!(ready(&findings), ("False", "SecretKeyMissing"));
        assert_eq!(findings.ready.unwrap().message, "OAUTH_CLIENT_SECRET is missing from Secret login");
    }

    #[test]
    fn a_missing_1password_operator_is_told_from_a_missing_secret() {
        let Applied::Everything { deployment, signing_keys_readable, .. } = running() else { unreachable!() };
        let unserved = Applied::Everything { deployment, signing_keys_readable, one_password_served: false };
        assert_eq!(ready(&find(&Credentials::NotFound, &unserved)).1, "OnePasswordCRDMissing");
        // Whoever made the Secret without that operator has what is needed.
        assert_eq!(ready(&find(&Credentials::Complete, &unserved)).1, "Serving");
    }

    #[test]
    fn a_foreign_name_stalls_and_a_former_one_does_not() {
        let taken =
            |by: Ownership| Applied::NamesTaken(vec![Taken { kind: "Service".to_owned(), name: "mcp".to_owned(), by }]);
        let foreign = find(&Credentials::Complete, &taken(Ownership::Foreign { owner: "Ingress x".to_owned() }));
        assert_eq!(ready(&foreign), ("False", "NameConflict"));
        assert!(foreign.ready.as_ref().unwrap().message.starts_with("Service mcp belongs to Ingress x"));
        assert!(foreign.stalled.is_some() && foreign.needs_another_look());

        let former = find(&Credentials::Complete, &taken(Ownership::Former));
        assert_eq!(ready(&former), ("False", "FormerChildrenTerminating"));
        assert!(former.stalled.is_none() && former.needs_another_look());
    }

    #[test]
    fn no_replicas_is_not_ready_and_nothing_is_waited_for() {
        let findings =
            Findings::of(&validated(&json!({"replicas": 0})), &Credentials::Complete, &applied(1, &json!({})), &[]);
        assert_eq!(ready(&findings), ("False", "ScaledToZero"));
        assert!(!findings.needs_another_look());
        let still_ending = applied(1, &json!({"observedGeneration": 1, "replicas": 1, "availableReplicas": 1}));
        let findings = Findings::of(&validated(&json!({"replicas": 0})), &Credentials::Complete, &still_ending, &[]);
        assert_eq!(ready(&findings), ("False", "ScaledToZero"));
    }

    #[test]
    fn what_keeps_the_deployment_from_making_pods_is_passed_on() {
        let with =
            |condition: &Value| applied(1, &json!({"observedGeneration": 1, "replicas": 0, "conditions": [condition]}));
        let refused = with(&json!({"type": "ReplicaFailure", "status": "True", "message": "exceeded quota"}));
        let findings = find(&Credentials::Complete, &refused);
        assert_eq!(ready(&findings), ("False", "PodsRefused"));
        assert!(findings.ready.unwrap().message.contains("exceeded quota"));

        let stuck = with(&json!({"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}));
        let findings = find(&Credentials::Complete, &stuck);
        assert_eq!(ready(&findings), ("False", "RolloutStuck"));
        assert_eq!(findings.stalled.unwrap().reason, "RolloutStuck");
        // Missing credentials come first: they are why the pods wait.
        let findings = find(&Credentials::NotFound, &stuck);
        assert_eq!(ready(&findings).1, "SecretNotFound");
        assert_eq!(findings.stalled, None);
    }

    #[test]
    fn a_pass_that_could_not_look_leaves_the_other_conditions_as_they_were() {
        let well = find(&Credentials::Complete, &running()).status(&McpOAuthProxyStatus::default(), Some(1), at(10));
        let invalid = Findings::invalid("no").status(&well, Some(2), at(20));
        for type_ in ["CredentialsReady", "Available"] {
            let of = |status: &McpOAuthProxyStatus| status.conditions.iter().find(|c| c.type_ == type_).cloned();
            assert_eq!(of(&invalid).unwrap(), of(&well).unwrap());
        }
    }

    #[test]
    fn times_change_only_when_a_status_flips() {
        let waiting = find(&Credentials::NotFound, &running());
        let first = waiting.status(&McpOAuthProxyStatus::default(), Some(1), at(10));
        let other_reason = find(&Credentials::KeysMissing(vec!["A".to_owned()]), &running());
        let second = other_reason.status(&first, Some(1), at(20));
        assert_eq!(second.conditions[0].reason, "SecretKeyMissing");
        assert_eq!(second.conditions[0].last_transition_time, Time(at(10)));
        let third = find(&Credentials::Complete, &running()).status(&second, Some(1), at(30));
        assert_eq!(third.conditions[0].last_transition_time, Time(at(30)));
    }

    #[test]
    fn stalled_goes_when_its_cause_does() {
        let stalled = Findings::invalid("no").status(&McpOAuthProxyStatus::default(), Some(1), at(10));
        assert!(stalled.conditions.iter().any(|condition| condition.type_ == "Stalled"));
        let well = find(&Credentials::Complete, &running()).status(&stalled, Some(2), at(20));
        assert!(!well.conditions.iter().any(|condition| condition.type_ == "Stalled"));
    }

    #[test]
    fn the_selector_is_what_the_scale_subresource_needs() {
        let status = find(&Credentials::Complete, &running()).status(&McpOAuthProxyStatus::default(), Some(1), at(0));
        assert_eq!(
            status.label_selector.as_deref(),
            Some("app.kubernetes.io/managed-by=mcp-oauth-operator,app.kubernetes.io/name=mcp")
        );
        assert_eq!(status.replicas, Some(2));
    }
}
