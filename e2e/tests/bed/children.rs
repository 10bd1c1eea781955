use std::collections::BTreeMap;

use e2e::environment::NAMESPACE;
use mcp_oauth_operator::api::Bounded;
use serde_json::Value;

use crate::support::{environment, eventually};

const KINDS: &str = "deployment,service,serviceaccount,rolebinding,configmap,secret";

/// Kind and version of each object that the resource owns. For the Deployment it is the generation, because its status
/// changes too.
fn owned(objects: &Value, uid: &str) -> BTreeMap<String, String> {
    let items = objects["items"].as_array().unwrap().iter();
    items
        .filter(|object| {
            let owners = object["metadata"]["ownerReferences"].as_array();
            owners.is_some_and(|owners| owners.iter().any(|owner| owner["uid"] == uid && owner["controller"] == true))
        })
        .map(|object| {
            let kind = object["kind"].as_str().unwrap().to_owned();
            let field = if kind == "Deployment" { "generation" } else { "resourceVersion" };
            (kind, object["metadata"][field].to_string())
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn children_are_created_and_deleted_with_the_resource() {
    let environment = environment();
    let name = "children";
    let kubectl = environment.cluster.kubectl_program();
    let json = |arguments: &[&str]| -> Value {
        let arguments = [&["--namespace", NAMESPACE, "-o", "json", "get"], arguments].concat();
        serde_json::from_str(&kubectl.output(&arguments).unwrap()).unwrap()
    };
    environment.deploy_proxy(name, |spec| spec.replicas = Bounded::of::<1>()).await.unwrap();

    let uid = json(&["mop", name])["metadata"]["uid"].as_str().unwrap().to_owned();
    let children = owned(&json(&[KINDS]), &uid);
    let kinds: Vec<&str> = children.keys().map(String::as_str).collect();
    assert_eq!(kinds, ["ConfigMap", "Deployment", "RoleBinding", "Secret", "Service", "ServiceAccount"]);

    let pod = &json(&["pods", "--selector", &format!("app.kubernetes.io/name={name}")])["items"][0]["spec"];
    let (container, context) = (&pod["containers"][0], &pod["containers"][0]["securityContext"]);
    let pod_context = &pod["securityContext"];
    let effective = |field: &str| if context[field].is_null() { &pod_context[field] } else { &context[field] };
    assert_eq!(*effective("runAsUser"), 65532);
    assert_eq!(*effective("runAsNonRoot"), true);
    assert_eq!(effective("seccompProfile")["type"], "RuntimeDefault");
    assert_eq!(context["readOnlyRootFilesystem"], true);
    assert_eq!(context["allowPrivilegeEscalation"], false);
    assert_eq!(context["capabilities"]["drop"][0], "ALL");
    assert_eq!(container["resources"]["limits"]["memory"], "128Mi");

    // A reconcile that changes one child writes no other child. The status is written last, so it shows the end of the
    // reconcile.
    let mut before = owned(&json(&[KINDS]), &uid);
    let change = r#"{"spec":{"service":{"annotations":{"e2e/reconcile":"second"}}}}"#;
    kubectl.output(&["--namespace", NAMESPACE, "patch", "mop", name, "--type=merge", "--patch", change]).unwrap();
    eventually("the second reconcile is complete", || async {
        let resource = json(&["mop", name]);
        resource["status"]["observedGeneration"] == resource["metadata"]["generation"]
    })
    .await;
    let mut after = owned(&json(&[KINDS]), &uid);
    assert_ne!(after.remove("Service"), before.remove("Service"));
    assert_eq!(after, before);

    kubectl.output(&["--namespace", NAMESPACE, "delete", "mop", name]).unwrap();
    eventually("the children are gone", || async { owned(&json(&[KINDS]), &uid).is_empty() }).await;
}
