use e2e::{environment::NAMESPACE, image::workspace};
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, Patch, PatchParams},
};
use mcp_oauth_operator::api::McpOAuthProxy;
use serde_json::{Value, json};

use crate::support::environment;

#[tokio::test(flavor = "multi_thread")]
async fn invalid_resources_are_refused_with_a_remedy() {
    let environment = environment();
    let edge = environment.edge("validation").await.unwrap();
    let client = environment.cluster.client().await.unwrap();
    let cases = [
        ("access.domains", json!([]), "access admits no user: list emails, domains or groups, or set policy: AnyUser"),
        ("access.domains", json!(["*.example.com"]), "each of domains must be a domain"),
        ("access.emails", json!(["ada"]), "must be an e-mail address such as ada@example.com"),
        ("access.groups", json!(["staff"]), "access.groups requires identityProvider.groupsClaim"),
        ("sessions.notBefore", json!("yesterday"), "notBefore must be a time with its zone"),
        (
            "credentials.onePassword",
            json!({"itemPath": "vaults/a/items/b"}),
            "credentials needs exactly one source: set either onePassword or secretRef",
        ),
        ("credentials", json!({}), "credentials needs exactly one source"),
        ("credentials", json!({"onePassword": {"itemPath": "vault/item"}}), "itemPath must be vaults/VAULT/items/ITEM"),
        ("credentials.keys.clientID", json!(".."), "must not begin with .."),
        ("publicURL", json!("https://mcp.example.com/path"), "publicURL must be https://HOST"),
        ("publicURL", json!("https://mcp.example.com:443"), "trailing slash or default port"),
        ("identityProvider.issuerURL", json!("http://idp.example.com"), "issuerURL must be the https URL"),
        ("identityProvider.scopes", json!(["openid"]), "scopes must include openid and email"),
        ("identityProvider.authorizeParameters", json!({"state": "x"}), "a parameter that the proxy sets itself"),
        (
            "identityProvider.caRef",
            json!({"name": "ca", "key": "../ca.crt"}),
            "the key of a Secret or ConfigMap may contain only letters",
        ),
        ("upstream.url", json!("gateway:4444"), "upstream.url must be http://HOST:PORT"),
        ("upstream.paths", json!(["/mcp", "/token"]), "must not shadow the proxy's own endpoints"),
        ("upstream.paths", json!(["/mcp", "/a/../b"]), "an upstream path may contain only letters"),
        ("upstream.paths", json!(["/servers/*/mcp"]), "at least one path without *"),
        ("upstream.identity.headers", json!({"user": "X-User", "email": "x-user"}), "are the same header"),
        ("upstream.identity.headers", json!({"user": "Mcp-User"}), "is reserved by HTTP"),
        ("upstream.identity.headers", json!({"user": "X User"}), "letters, digits and hyphens"),
        ("upstream.limits.concurrency", json!(0), "should be greater than or equal to 1"),
        ("upstream.limits.streams", json!(0), "should be greater than or equal to 1"),
        ("upstream.timeouts.connect", json!("10ms"), "must lie between 100ms and 1m"),
        ("upstream.timeouts.responseHead", json!("2h"), "must lie between 1s and 1h"),
        ("upstream.timeouts.streamIdle", json!("25h"), "must lie between 1s and 24h"),
        ("upstream.timeouts.requestBody", json!("11m"), "must lie between 1s and 10m"),
        ("upstream.timeouts.drain", json!("2h"), "must be 1h at most"),
        ("tokens.accessTTL", json!("1m"), "must lie between 2m and 24h"),
        ("tokens.streamGrace", json!("25h"), "must be 24h at most"),
        ("sessions.idleTTL", json!("4m"), "must lie between 5m and 8784h"),
        ("sessions.idleTTL", json!("30m"), "accessTTL must be shorter than sessions.idleTTL"),
        ("image", json!("proxy:latest"), "image needs a tag other than latest, or a digest"),
        ("trustedProxies", json!(["10.0.0.1"]), "a range of addresses, such as 10.42.0.0/16"),
        ("clients.origins", json!(["https://a.example/"]), "no slash at the end"),
        ("clients.redirects", json!({"policy": "Any", "hosts": ["a.example"]}), "policy Any allows every https host"),
        ("clients.redirects.hosts", json!(["https://a.example"]), "each of hosts must be a host name in lower case"),
        ("clients.static", json!([listed("a b", "https://a.example/")]), "clientID may contain only letters"),
        ("clients.static", json!([listed("a", "javascript:alert(1)")]), "each of redirectURIs must be https"),
        ("clients.static", json!([listed("a", "http://a.example/")]), "http for localhost"),
        ("clients.static", json!([listed("a", "https://a.example/#x")]), "without fragment"),
        (
            "clients.static",
            json!([listed("a", "http://[::1]/"), listed("a", "http://[::1]/")]),
            "duplicate entries for key",
        ),
    ];
    let valid = serde_json::to_value(environment.spec("validation", &edge).unwrap()).unwrap();
    for (field, value, message) in cases {
        let mut spec = valid.clone();
        let place = field.split('.').fold(&mut spec, |object, name| &mut object[name]);
        *place = value;
        let rejected = apply(&client, "validation", spec).await.unwrap_err().to_string();
        assert!(rejected.contains(message), "{field}: {rejected}");
    }
    for name in [&"n".repeat(53), "my.proxy", "1mcp"] {
        let refused = apply(&client, name, valid.clone()).await.unwrap_err().to_string();
        assert!(refused.contains("at most 52 lower-case letters"), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sample_and_argo_cd_overlay_are_accepted() {
    let kubectl = environment().cluster.kubectl_program();
    for folder in ["config/samples", "config/argocd/overlay"] {
        let folder = workspace().join(folder).display().to_string();
        let applied =
            kubectl.output(&["apply", "--server-side", "--dry-run=server", "-o", "yaml", "-k", &folder]).unwrap();
        assert!(applied.contains("kind: McpOAuthProxy"), "{applied}");
    }
}

fn listed(id: &str, uri: &str) -> Value {
    json!({"clientID": id, "redirectURIs": [uri]})
}

/// Applies a spec that may be invalid.
async fn apply(client: &Client, name: &str, spec: Value) -> Result<DynamicObject, kube::Error> {
    let kind = ApiResource::erase::<McpOAuthProxy>(&());
    let proxies: Api<DynamicObject> = Api::namespaced_with(client.clone(), NAMESPACE, &kind);
    let object = DynamicObject::new(name, &kind).data(json!({"spec": spec}));
    proxies.patch(name, &PatchParams::apply("validation-test").force(), &Patch::Apply(&object)).await
}
