use mcp_oauth_operator::api::{
    McpOAuthProxySpec,
    proxy::{OnePasswordSource, SecretReference},
};

use crate::support::stage;

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_resource_is_refused_with_what_to_write_instead() {
    let stage = stage();
    let edge = stage.edge("validation").await.unwrap();
    let client = stage.cluster.client().await.unwrap();
    type Change = fn(&mut McpOAuthProxySpec);
    let cases: [(Change, &str); 8] = [
        (|spec| spec.access.domains.clear(), "access lets nobody in: list emails or domains, or write policy: AnyUser"),
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
        (
            |spec| {
                spec.credentials.secret_ref = None;
                spec.credentials.one_password = Some(OnePasswordSource { item_path: "vault/item".to_owned() });
            },
            "itemPath must be vaults/VAULT/items/ITEM",
        ),
    ];
    for (change, says) in cases {
        let mut spec = stage.spec("validation", &edge);
        change(&mut spec);
        let refused = stage.apply(&client, "validation", spec).await.unwrap_err().to_string();
        assert!(refused.contains(says), "{refused}");
    }
    let too_long = "n".repeat(53);
    let spec = McpOAuthProxySpec {
        credentials: mcp_oauth_operator::api::proxy::Credentials {
            secret_ref: Some(SecretReference { name: "x".to_owned() }),
            ..stage.spec("validation", &edge).credentials
        },
        ..stage.spec("validation", &edge)
    };
    let refused = stage.apply(&client, &too_long, spec).await.unwrap_err().to_string();
    assert!(refused.contains("52 characters at most"), "{refused}");
}
