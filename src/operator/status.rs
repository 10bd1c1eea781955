//! What a pass found, as conditions, and the writing of them. Conventions: those of kstatus
//! (<https://github.com/kubernetes-sigs/cli-utils/tree/master/pkg/kstatus>): `Ready` sums up, `Stalled` is there only
//! while a person has to act.

use jiff::Timestamp;
use k8s_openapi::{
    api::apps::v1::Deployment,
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
};
use kube::{
    Api, Client, Resource,
    api::{ApiResource, DynamicObject, Patch, PatchParams},
};
use serde_json::json;

use super::{
    FIELD_MANAGER,
    apply::{Applied, Ownership, Taken},
    build::selector,
    credentials::Credentials,
    error::Error,
    validate::ValidatedProxy,
};
use crate::api::{McpOAuthProxy, McpOAuthProxyStatus};

/// The types of conditions that are ours. Others are left alone.
const TYPES: [&str; 4] = ["Ready", "CredentialsReady", "Available", "Stalled"];

/// The reasons that conditions give. They are an interface: people and scripts match them.
mod reasons {
    pub(super) const APPLY_FORBIDDEN: &str = "ApplyForbidden";
    pub(super) const CREDENTIALS_COMPLETE: &str = "CredentialsComplete";
    pub(super) const FORMER_CHILDREN_TERMINATING: &str = "FormerChildrenTerminating";
    pub(super) const INVALID_SPEC: &str = "InvalidSpec";
    pub(super) const NAME_CONFLICT: &str = "NameConflict";
    pub(super) const NO_POD_ANSWERS: &str = "NoPodAnswers";
    pub(super) const ONE_PASSWORD_CRD_MISSING: &str = "OnePasswordCRDMissing";
    pub(super) const POD_ANSWERS: &str = "PodAnswers";
    pub(super) const ROLLING_OUT: &str = "RollingOut";
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
    stalled: Option<Verdict>,
}

impl Findings {
    /// The resource itself is not right, or the API server never takes what it becomes. What runs goes on running.
    pub(super) fn invalid(message: &str) -> Self {
        let verdict = Verdict::is(false, reasons::INVALID_SPEC, message);
        Self { stalled: Some(Verdict { status: "True", ..verdict.clone() }), ready: Some(verdict), ..Self::default() }
    }

    /// The operator may not do what it has to.
    pub(super) fn forbidden(message: &str) -> Self {
        Self { ready: Some(Verdict::is(false, reasons::APPLY_FORBIDDEN, message)), ..Self::default() }
    }

    /// All that there is to know after a pass.
    pub(super) fn of(proxy: &ValidatedProxy, credentials: &Credentials, applied: &Applied) -> Self {
        let mut findings = Self {
            url: Some(proxy.url.clone()),
            service_url: Some(proxy.service_url.clone()),
            label_selector: Some(
                selector(&proxy.name).iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(","),
            ),
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
                findings.ready = Some(if credentials.holds() { ready } else { credentials.clone() });
                findings.available = Some(available);
                findings.credentials = Some(credentials);
                if !signing_keys_readable {
                    let secret = proxy.signing_keys_secret();
                    let verdict = Verdict::is(
                        false,
                        reasons::SIGNING_KEYS_UNREADABLE,
                        format!(
                            "Secret {secret} has no readable keys.json: restore it, or delete it to have new keys made, which logs everyone out"
                        ),
                    );
                    findings.stalled = Some(Verdict { status: "True", ..verdict.clone() });
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
            self.stalled = Some(Verdict { status: "True", ..verdict.clone() });
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

    /// The status that says this. Times stay as in `old` while a condition's status does.
    fn status(&self, old: &McpOAuthProxyStatus, generation: Option<i64>, now: Timestamp) -> McpOAuthProxyStatus {
        let verdicts = [&self.ready, &self.credentials, &self.available, &self.stalled];
        let conditions = TYPES.iter().zip(verdicts).filter_map(|(type_, verdict)| {
            let verdict = verdict.as_ref()?;
            let before = old.conditions.iter().find(|condition| condition.type_ == *type_);
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
            // What an unfinished pass does not know stays as it was.
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
    let name = &proxy.name;

    let availability = if available > 0 {
        Verdict::is(true, reasons::POD_ANSWERS, "at least one pod answers")
    } else if proxy.replicas == 0 {
        Verdict::is(false, reasons::SCALED_TO_ZERO, "replicas is 0")
    } else {
        Verdict::is(
            false,
            reasons::NO_POD_ANSWERS,
            format!("no pod answers yet: kubectl describe pods -l app.kubernetes.io/name={name}"),
        )
    };
    // Every pod of an older configuration may be among the available ones: only more than those proves a new one.
    let current = status.observed_generation >= deployment.metadata.generation && available > all - updated;
    let ready = if !availability.holds() || proxy.replicas == 0 {
        Verdict { status: "False", ..availability.clone() }
    } else if current {
        Verdict::is(true, reasons::SERVING, format!("serving at {}", proxy.url))
    } else {
        Verdict::is(
            false,
            reasons::ROLLING_OUT,
            format!(
                "pods with the present configuration do not answer yet, older ones do: kubectl rollout status deployment/{name}"
            ),
        )
    };
    (availability, ready)
}

/// Writes the status unless it says so already. Says whether `Ready` has another reason than before.
pub(super) async fn update(client: &Client, object: &McpOAuthProxyRef, findings: &Findings) -> Result<bool, Error> {
    // Untyped, because a resource that this version cannot read gets a status too.
    let kind = ApiResource::erase::<McpOAuthProxy>(&());
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &object.namespace, &kind);
    let action = format!("write the status of McpOAuthProxy {}", object.name);
    let Some(live) = api.get_opt(&object.name).await.map_err(Error::kube(action.clone()))? else {
        return Ok(false);
    };
    // The cache may be behind: times are taken from what the API server has now, and only of this very object.
    if live.metadata.uid != object.uid {
        return Ok(false);
    }
    let old: McpOAuthProxyStatus =
        live.data.get("status").and_then(|status| serde_json::from_value(status.clone()).ok()).unwrap_or_default();
    let new = findings.status(&old, object.generation, Timestamp::now());
    if is_same(&old, &new) {
        return Ok(false);
    }
    let patch = json!({
        "apiVersion": McpOAuthProxy::api_version(&()),
        "kind": McpOAuthProxy::kind(&()),
        "metadata": {"name": object.name, "uid": object.uid},
        "status": new,
    });
    api.patch_status(&object.name, &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(patch))
        .await
        .map_err(Error::kube(action))?;
    Ok(ready_reason(&old) != ready_reason(&new))
}

/// Which object a status is for.
#[derive(Clone, Debug)]
pub(super) struct McpOAuthProxyRef {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) uid: Option<String>,
    pub(super) generation: Option<i64>,
}

fn is_same(old: &McpOAuthProxyStatus, new: &McpOAuthProxyStatus) -> bool {
    let mut ours: Vec<&Condition> =
        old.conditions.iter().filter(|condition| TYPES.contains(&condition.type_.as_str())).collect();
    let mut wanted: Vec<&Condition> = new.conditions.iter().collect();
    ours.sort_by(|a, b| a.type_.cmp(&b.type_));
    wanted.sort_by(|a, b| a.type_.cmp(&b.type_));
    let rest = |status: &McpOAuthProxyStatus| McpOAuthProxyStatus { conditions: Vec::new(), ..status.clone() };
    ours == wanted && rest(old) == rest(new)
}

fn ready_reason(status: &McpOAuthProxyStatus) -> Option<(&str, &str)> {
    let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready")?;
    Some((&ready.status, &ready.reason))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::operator::{fake_api::FakeApi, validate::tests::validated};

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

    fn running() -> Applied {
        applied(1, &json!({"observedGeneration": 1, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 1}))
    }

    fn find(credentials: &Credentials, applied: &Applied) -> Findings {
        Findings::of(&validated(&json!({})), credentials, applied)
    }

    fn at(second: i64) -> Timestamp {
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
            Findings::of(&validated(&json!({"replicas": 0})), &Credentials::Complete, &applied(1, &json!({})));
        assert_eq!(ready(&findings), ("False", "ScaledToZero"));
        assert!(!findings.needs_another_look());
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
    fn the_same_findings_are_the_same_status_whatever_the_time() {
        let findings = find(&Credentials::Complete, &running());
        let first = findings.status(&McpOAuthProxyStatus::default(), Some(1), at(10));
        assert!(is_same(&first, &findings.status(&first, Some(1), at(99))));
        assert!(!is_same(&first, &findings.status(&first, Some(2), at(99))));
    }

    #[test]
    fn conditions_of_others_do_not_make_us_write() {
        let findings = find(&Credentials::Complete, &running());
        let mut status = findings.status(&McpOAuthProxyStatus::default(), Some(1), at(10));
        let ours = status.clone();
        status.conditions.insert(0, Condition { type_: "Audited".to_owned(), ..ours.conditions[0].clone() });
        assert!(is_same(&status, &ours));
    }

    #[test]
    fn stalled_goes_when_its_cause_does() {
        let stalled = Findings::invalid("no").status(&McpOAuthProxyStatus::default(), Some(1), at(10));
        assert!(stalled.conditions.iter().any(|condition| condition.type_ == "Stalled"));
        let well = find(&Credentials::Complete, &running()).status(&stalled, Some(2), at(20));
        assert!(!well.conditions.iter().any(|condition| condition.type_ == "Stalled"));
        assert!(!is_same(&stalled, &well));
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

    #[tokio::test]
    async fn a_second_pass_that_finds_the_same_writes_no_status() {
        let api = FakeApi::default();
        let path = "/apis/mcp.jomcgi.dev/v1alpha1/namespaces/gateway/mcpoauthproxies/mcp";
        let object = McpOAuthProxyRef {
            namespace: "gateway".to_owned(),
            name: "mcp".to_owned(),
            uid: Some("u".to_owned()),
            generation: Some(1),
        };
        let live = |status: &Value| {
            json!({"apiVersion": "mcp.jomcgi.dev/v1alpha1", "kind": "McpOAuthProxy",
            "metadata": {"name": "mcp", "namespace": "gateway", "uid": "u"}, "status": status})
        };
        api.put(path, live(&json!({})));
        let findings = find(&Credentials::Complete, &running());
        assert!(update(&api.client(), &object, &findings).await.unwrap());
        assert_eq!(api.writes(), [format!("PATCH {path}/status")]);

        api.put(path, live(&api.get(&format!("{path}/status")).unwrap()["status"]));
        assert!(!update(&api.client(), &object, &findings).await.unwrap());
        assert_eq!(api.writes(), [""; 0]);
        let recreated = McpOAuthProxyRef { uid: Some("another".to_owned()), ..object };
        update(&api.client(), &recreated, &find(&Credentials::NotFound, &running())).await.unwrap();
        assert_eq!(api.writes(), [""; 0], "the status of another resource of this name");
    }
}
