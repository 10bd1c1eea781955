//! The proxy logs no secret at trace level.

use std::{fs, path::Path};

use e2e::peers::{browser::Browser, context_forge::TOOL, json_lines::User, mcp_remote::McpRemote};
use serde_json::{Value, json};
use url::Url;

use crate::{ALICE, bed};

#[tokio::test]
async fn trace_logs_contain_no_secret() {
    let bed = bed::shared().await;
    let browser = Browser::start(&bed.run).await.unwrap();
    let alice = User { browser: &browser, email: ALICE };
    let installation = McpRemote::install(&bed.run, "secrets").await.unwrap();
    let mut secrets = Vec::new();
    let mut connection = installation.connect(&bed.url("/mcp"), Some(alice), &[]).await.unwrap();
    connection.call(TOOL, json!({"message": "hello"})).await.unwrap();
    drop(connection);
    collect_folder(&installation.store(), &mut secrets);
    // A refresh, at which the issuer is queried.
    installation.invalidate_access_tokens().unwrap();
    let mut connection = installation.connect(&bed.url("/mcp"), None, &[]).await.unwrap();
    connection.call(TOOL, json!({"message": "hello"})).await.unwrap();
    let responses = bed.provider.token_responses().unwrap();
    assert!(responses.len() > 1, "the issuer was not queried at the refresh");
    responses.iter().for_each(|response| collect_json(response, &mut secrets));
    let final_page = browser.login(&bed.authorize_url().await, alice.email).await.unwrap();
    let form = [("grant_type", "authorization_code"), ("code", "not-a-code-of-ours"), ("client_id", "not-a-client")];
    let refused = bed.client().post(bed.url("/token")).form(&form).bearer_auth("not-a-token").send().await.unwrap();
    assert!(refused.status().is_client_error(), "{refused:?}");

    secrets.extend([
        ("a code".to_owned(), final_page.parameter("code").unwrap()),
        ("an invalid code".to_owned(), "not-a-code-of-ours".to_owned()),
        ("an invalid token".to_owned(), "not-a-token".to_owned()),
    ]);
    collect_folder(&bed.proxy.secrets(), &mut secrets);
    collect_folder(&installation.store(), &mut secrets);
    // The parameters that the issuer sent through the browser.
    secrets.extend(callback_parameters(&fs::read_to_string(bed.run.log("edge-main")).unwrap()));
    let has = |name: &str| secrets.iter().any(|(secret, _)| secret == name);
    for name in
        ["ENCRYPTION_KEY", "OAUTH_CLIENT_SECRET", "access_token", "refresh_token", "privateKey", "code", "state"]
    {
        assert!(has(name), "no {name} was found");
    }

    let log = bed.proxy.log().unwrap();
    assert!(log.contains("TRACE"), "the log is not at trace level");
    for (name, secret) in secrets {
        let lines: Vec<_> = log.lines().filter(|line| line.contains(&secret)).collect();
        assert!(lines.is_empty(), "the log contains {name}: {lines:#?}");
    }
}

/// The contents of the files below a folder; secret JSON members by their names.
fn collect_folder(folder: &Path, secrets: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect_folder(&path, secrets);
            continue;
        }
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let text = fs::read_to_string(&path).unwrap();
        match serde_json::from_str::<Value>(&text) {
            Ok(value) => collect_json(&value, secrets),
            Err(_) if name != "OAUTH_CLIENT_ID" => secrets.push((name, text.trim().to_owned())),
            Err(_) => {}
        }
    }
}

/// The strings of secret members: tokens, client secrets and private keys.
fn collect_json(value: &Value, secrets: &mut Vec<(String, String)>) {
    match value {
        Value::Array(values) => values.iter().for_each(|value| collect_json(value, secrets)),
        Value::Object(members) => {
            for (name, value) in members {
                match value {
                    Value::String(text)
                        if ["access_token", "refresh_token", "id_token", "client_secret", "privateKey"]
                            .contains(&name.as_str()) =>
                    {
                        secrets.push((name.clone(), text.clone()));
                    }
                    _ => collect_json(value, secrets),
                }
            }
        }
        _ => {}
    }
}

/// The codes and states of requests to `/callback` in the edge's log.
fn callback_parameters(log: &str) -> Vec<(String, String)> {
    log.split_whitespace()
        .filter(|word| word.starts_with("/callback?"))
        .filter_map(|path| Url::parse("http://edge").ok()?.join(path).ok())
        .flat_map(|url| {
            let pairs: Vec<_> = url.query_pairs().into_owned().collect();
            pairs.into_iter().filter(|(name, _)| ["code", "state"].contains(&name.as_str()))
        })
        .collect()
}
