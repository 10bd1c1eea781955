use e2e::image::workspace;
use mcp_oauth_operator::api::{
    McpOAuthProxySpec,
    proxy::{ConfigMapKeyReference, IdentityHeaders, OnePasswordSource, StaticClient},
};

use crate::support::environment;

#[tokio::test(flavor = "multi_thread")]
async fn invalid_resources_are_refused_with_a_remedy() {
    let environment = environment();
    let edge = environment.edge("validation").await.unwrap();
    let client = environment.cluster.client().await.unwrap();
    type Change = fn(&mut McpOAuthProxySpec);
    let cases: [(Change, &str); 31] = [
        (
            |spec| spec.access.domains.clear(),
            "access lets nobody in: list emails, domains or groups, or write policy: AnyUser",
        ),
        (|spec| spec.access.groups = vec!["staff".to_owned()], "access.groups needs identityProvider.groupsClaim"),
        (|spec| spec.sessions.not_before = Some("yesterday".to_owned()), "notBefore must be a time with its zone"),
        (
            |spec| {
                spec.credentials.one_password = Some(OnePasswordSource { item_path: "vaults/a/items/b".to_owned() });
            },
            "credentials needs exactly one source: write either onePassword or secretRef",
        ),
        (|spec| spec.credentials.secret_ref = None, "credentials needs exactly one source"),
        (|spec| spec.public_url.push_str("/path"), "publicURL must be https://HOST"),
        (|spec| spec.upstream.paths = vec!["/token".to_owned()], "may not take the place of our own endpoints"),
        (|spec| spec.image = Some("proxy:latest".to_owned()), "image needs a tag other than latest, or a digest"),
        (|spec| spec.tokens.access_ttl = "1m".parse().unwrap(), "accessTTL must lie between 2m and 24h"),
        (|spec| spec.sessions.idle_ttl = "30m".parse().unwrap(), "accessTTL must be shorter than sessions.idleTTL"),
        (|spec| spec.tokens.stream_grace = "25h".parse().unwrap(), "streamGrace may be 24h at most"),
        (|spec| spec.upstream.timeouts.connect = "10ms".parse().unwrap(), "connect must lie between 100ms and 1m"),
        (
            |spec| spec.upstream.timeouts.response_head = "2h".parse().unwrap(),
            "responseHead must lie between 1s and 1h",
        ),
        (|spec| spec.upstream.timeouts.stream_idle = "25h".parse().unwrap(), "streamIdle must lie between 1s and 24h"),
        (
            |spec| spec.upstream.timeouts.request_body = "11m".parse().unwrap(),
            "requestBody must lie between 1s and 10m",
        ),
        (|spec| spec.upstream.timeouts.drain = "2h".parse().unwrap(), "drain may be 1h at most"),
        (
            |spec| {
                let (user, email) = ("X-User".to_owned(), "x-user".to_owned());
                spec.upstream.identity.headers = Some(IdentityHeaders { user, email });
            },
            "user and email are the same header",
        ),
        (|spec| spec.upstream.limits.concurrency = 0, "spec.upstream.limits.concurrency"),
        (|spec| spec.upstream.limits.streams = Some(0), "spec.upstream.limits.streams"),
        (|spec| spec.public_url = "https://mcp.example.com:443".to_owned(), "no default port (:443)"),
        (|spec| spec.credentials.keys.client_id = "..".to_owned(), "does not begin with .."),
        (|spec| spec.trusted_proxies = vec!["10.0.0.1".to_owned()], "a range of addresses, such as 10.42.0.0/16"),
        (|spec| spec.clients.origins = vec!["https://a.example/".to_owned()], "no slash at the end"),
        (|spec| spec.clients.listed = vec![listed("a b", "https://a.example/")], "clientID is made of letters"),
        (|spec| spec.clients.listed = vec![listed("a", "javascript:alert(1)")], "each of redirectURIs must be https"),
        (|spec| spec.clients.listed = vec![listed("a", "http://a.example/")], "http for localhost"),
        (|spec| spec.clients.listed = vec![listed("a", "https://a.example/#x")], "without fragment"),
        (
            |spec| spec.clients.listed = vec![listed("a", "http://[::1]/"), listed("a", "http://[::1]/")],
            "duplicate entries for key",
        ),
        (
            |spec| {
                spec.identity_provider.authorize_parameters.insert("state".to_owned(), "x".to_owned());
            },
            "what the proxy does not send by itself",
        ),
        (
            |spec| {
                spec.identity_provider.ca_ref =
                    Some(ConfigMapKeyReference { name: "ca".to_owned(), key: "../ca.crt".to_owned() });
            },
            "a ConfigMap's key is made of letters",
        ),
        (
            |spec| {
                spec.credentials.secret_ref = None;
                spec.credentials.one_password = Some(OnePasswordSource { item_path: "vault/item".to_owned() });
            },
            "itemPath must be vaults/VAULT/items/ITEM",
        ),
    ];
    for (change, expected) in cases {
        let mut spec = environment.spec("validation", &edge);
        change(&mut spec);
        let refused = environment.apply(&client, "validation", spec).await.unwrap_err().to_string();
        assert!(refused.contains(expected), "{refused}");
    }
    for name in [&"n".repeat(53), "my.proxy", "1mcp"] {
        let refused = environment.apply(&client, name, environment.spec(name, &edge)).await.unwrap_err().to_string();
        assert!(refused.contains("52 characters at most, lower-case letters"), "{refused}");
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

fn listed(id: &str, uri: &str) -> StaticClient {
    StaticClient { client_id: id.to_owned(), secret_ref: None, redirect_uris: vec![uri.to_owned()] }
}
