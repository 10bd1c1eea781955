use serde_json::{Value, json};

use super::super::validate::tests::validated;
use super::*;
use crate::config::RecheckStatus;

fn applied(generation: i64, status: &Value) -> Applied {
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "spec": {},
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

pub(in crate::operator) fn observe(credentials: &CredentialsState, applied: &Applied) -> ObservedState {
    ObservedState::of(&validated(&json!({})), credentials, applied, &[])
}

#[test]
fn recheck_condition_reports_failure_and_is_removed_when_disabled() {
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
        let observed = ObservedState::of(&proxy, &CredentialsState::Complete, &running(), &pods);
        let status = observed.status(&McpOAuthProxyStatus::default(), Some(1), at(0));
        let condition = status.conditions.iter().find(|condition| condition.type_ == RECHECK_WORKS).unwrap();
        assert_eq!((condition.status.as_str(), condition.reason.as_str()), expected);
        let has = |observed: ObservedState| {
            let status = observed.status(&status, Some(1), at(0));
            status.conditions.iter().any(|condition| condition.type_ == RECHECK_WORKS)
        };
        let silent = ObservedState::of(&proxy, &CredentialsState::Complete, &running(), &[]);
        assert_eq!(silent.status(&status, Some(1), at(9)).conditions, status.conditions, "the condition flaps");
        assert!(has(ObservedState::forbidden("a failed reconcile")));
        assert!(!has(observe(&CredentialsState::Complete, &running())));
    }
}

pub(in crate::operator) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn ready(observed: &ObservedState) -> (&str, &str) {
    let ready = observed.ready.as_ref().unwrap();
    (ready.status, ready.reason)
}

#[test]
fn ready_requires_an_available_pod_and_complete_credentials() {
    assert_eq!(ready(&observe(&CredentialsState::Complete, &running())), ("True", "Serving"));
    assert_eq!(ready(&observe(&CredentialsState::NotFound, &running())), ("False", "SecretNotFound"));
    let none = applied(1, &json!({"observedGeneration": 1, "replicas": 2, "updatedReplicas": 2}));
    assert_eq!(ready(&observe(&CredentialsState::Complete, &none)), ("False", "NoPodAnswers"));
}

#[test]
fn pods_of_an_older_configuration_are_not_ready() {
    for (generation, status) in [
        // The Deployment controller has not observed the change.
        (2, json!({"observedGeneration": 1, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2})),
        // The new pod exists, but the two available pods may be the old ones.
        (2, json!({"observedGeneration": 2, "replicas": 3, "updatedReplicas": 1, "availableReplicas": 2})),
    ] {
        let observed = observe(&CredentialsState::Complete, &applied(generation, &status));
        assert_eq!(ready(&observed), ("False", "RollingOut"), "{status}");
        assert!(observed.available.unwrap().is_true(), "{status}");
    }
    let one_new = json!({"observedGeneration": 2, "replicas": 3, "updatedReplicas": 1, "availableReplicas": 3});
    assert_eq!(ready(&observe(&CredentialsState::Complete, &applied(2, &one_new))), ("True", "Serving"));
}

#[test]
fn credentials_message_names_the_missing_key() {
    let missing = CredentialsState::KeysMissing(vec!["OAUTH_CLIENT_SECRET".to_owned()]);
    let observed = observe(&missing, &running());
    assert_eq!(ready(&observed), ("False", "SecretKeyMissing"));
    assert_eq!(observed.ready.unwrap().message, "OAUTH_CLIENT_SECRET is missing from Secret login");
}

#[test]
fn missing_1password_operator_and_missing_secret_have_different_reasons() {
    let Applied::Everything { deployment, signing_keys_readable, .. } = running() else { unreachable!() };
    let unserved = Applied::Everything { deployment, signing_keys_readable, one_password_served: false };
    assert_eq!(ready(&observe(&CredentialsState::NotFound, &unserved)).1, "OnePasswordCRDMissing");
    // A Secret created without the 1Password operator is sufficient.
    assert_eq!(ready(&observe(&CredentialsState::Complete, &unserved)).1, "Serving");
}

#[test]
fn foreign_name_conflict_stalls_and_former_child_does_not() {
    let taken = |owner: Ownership| {
        Applied::NameConflicts(vec![NameConflict { kind: "Service".to_owned(), name: "mcp".to_owned(), owner }])
    };
    let foreign = observe(&CredentialsState::Complete, &taken(Ownership::Foreign { owner: "Ingress x".to_owned() }));
    assert_eq!(ready(&foreign), ("False", "NameConflict"));
    assert!(foreign.ready.as_ref().unwrap().message.starts_with("Service mcp belongs to Ingress x"));
    assert!(foreign.stalled.is_some() && foreign.needs_retry());

    let former = observe(&CredentialsState::Complete, &taken(Ownership::Former));
    assert_eq!(ready(&former), ("False", "FormerChildrenTerminating"));
    assert!(former.stalled.is_none() && former.needs_retry());
}

#[test]
fn zero_replicas_is_not_ready_and_not_progressing() {
    let observed = ObservedState::of(
        &validated(&json!({"replicas": 0})),
        &CredentialsState::Complete,
        &applied(1, &json!({})),
        &[],
    );
    assert_eq!(ready(&observed), ("False", "ScaledToZero"));
    assert!(!observed.needs_retry());
    let terminating = applied(1, &json!({"observedGeneration": 1, "replicas": 1, "availableReplicas": 1}));
    let observed =
        ObservedState::of(&validated(&json!({"replicas": 0})), &CredentialsState::Complete, &terminating, &[]);
    assert_eq!(ready(&observed), ("False", "ScaledToZero"));
}

#[test]
fn replica_failure_is_reported() {
    let with =
        |condition: &Value| applied(1, &json!({"observedGeneration": 1, "replicas": 0, "conditions": [condition]}));
    let refused = with(&json!({"type": "ReplicaFailure", "status": "True", "message": "exceeded quota"}));
    let observed = observe(&CredentialsState::Complete, &refused);
    assert_eq!(ready(&observed), ("False", "PodsRefused"));
    assert!(observed.ready.unwrap().message.contains("exceeded quota"));

    let stuck = with(&json!({"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}));
    let observed = observe(&CredentialsState::Complete, &stuck);
    assert_eq!(ready(&observed), ("False", "RolloutStuck"));
    assert_eq!(observed.stalled.unwrap().reason, "RolloutStuck");
    // Missing credentials take precedence: the pods wait for them.
    let observed = observe(&CredentialsState::NotFound, &stuck);
    assert_eq!(ready(&observed).1, "SecretNotFound");
    assert_eq!(observed.stalled, None);
}

#[test]
fn failed_reconcile_keeps_other_conditions() {
    let well =
        observe(&CredentialsState::Complete, &running()).status(&McpOAuthProxyStatus::default(), Some(1), at(10));
    let invalid = ObservedState::invalid("no").status(&well, Some(2), at(20));
    for type_ in ["CredentialsReady", "Available"] {
        let of = |status: &McpOAuthProxyStatus| status.conditions.iter().find(|c| c.type_ == type_).cloned();
        assert_eq!(of(&invalid).unwrap(), of(&well).unwrap());
    }
}

#[test]
fn last_transition_time_changes_only_when_status_flips() {
    let waiting = observe(&CredentialsState::NotFound, &running());
    let first = waiting.status(&McpOAuthProxyStatus::default(), Some(1), at(10));
    let other_reason = observe(&CredentialsState::KeysMissing(vec!["A".to_owned()]), &running());
    let second = other_reason.status(&first, Some(1), at(20));
    assert_eq!(second.conditions[0].reason, "SecretKeyMissing");
    assert_eq!(second.conditions[0].last_transition_time, Time(at(10)));
    let third = observe(&CredentialsState::Complete, &running()).status(&second, Some(1), at(30));
    assert_eq!(third.conditions[0].last_transition_time, Time(at(30)));
}

#[test]
fn stalled_is_removed_with_its_cause() {
    let stalled = ObservedState::invalid("no").status(&McpOAuthProxyStatus::default(), Some(1), at(10));
    assert!(stalled.conditions.iter().any(|condition| condition.type_ == "Stalled"));
    let well = observe(&CredentialsState::Complete, &running()).status(&stalled, Some(2), at(20));
    assert!(!well.conditions.iter().any(|condition| condition.type_ == "Stalled"));
}

#[test]
fn label_selector_serves_the_scale_subresource() {
    let status =
        observe(&CredentialsState::Complete, &running()).status(&McpOAuthProxyStatus::default(), Some(1), at(0));
    assert_eq!(
        status.label_selector.as_deref(),
        Some("app.kubernetes.io/managed-by=mcp-oauth-operator,app.kubernetes.io/name=mcp")
    );
    assert_eq!(status.replicas, Some(2));
}
