//! Our own client, the `login` command: with a browser, with a pasted URL, as a token source for other programs, and as
//! a bridge.

use std::{fs, os::unix::fs::PermissionsExt};

use e2e::peers::{browser::Browser, context_forge::TOOL, json_lines::User, login::Login};
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::{ALICE, bed};

/// A port that Chromium blocks (its list of restricted ports), as if it were on another machine.
const UNREACHABLE: u16 = 10080;

/// The status of a plain `tools/list` request with a token, and the names of the tools.
async fn tools(bed: &bed::Bed, token: &str) -> (StatusCode, Vec<String>) {
    let list = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}});
    let request = bed.client().post(bed.url("/mcp")).bearer_auth(token);
    let response = request.header("accept", "application/json, text/event-stream").json(&list).send().await.unwrap();
    let status = response.status();
    let text = response.text().await.unwrap();
    let json = text.lines().find_map(|line| line.strip_prefix("data: ")).unwrap_or(&text);
    let response: Value = serde_json::from_str(json).unwrap();
    let names = response["result"]["tools"].as_array().into_iter().flatten();
    (status, names.filter_map(|tool| tool["name"].as_str()).map(str::to_owned).collect())
}

#[tokio::test]
async fn login_prompts_once_then_prints_tokens() {
    let bed = bed::shared().await;
    let browser = Browser::start(&bed.run).await.unwrap();
    let alice = User { browser: &browser, email: ALICE };
    let installation = Login::install(&bed.run, "once").unwrap();
    let url = bed.url("/mcp");

    // With `--no-login`, a script does not wait for a user.
    let refused = installation.run(&url, None, &["--print-token", "--no-login"]).await.unwrap();
    assert_eq!((refused.succeeded(), refused.output.as_str()), (false, ""));
    assert!(installation.log().unwrap().contains(&format!("run `mcp-oauth-operator login {url}`")));

    let first = installation.run(&url, Some(alice), &[]).await.unwrap();
    assert!(first.succeeded() && first.output.starts_with(&format!("logged in to {url}, until 2")), "{first:?}");
    assert_eq!(first.output.lines().count(), 1);
    assert!(first.final_pages.len() == 1 && first.final_pages[0].contains("You can close this window."), "{first:?}");
    let files = fs::read_dir(installation.store()).unwrap().map(|entry| entry.unwrap().metadata().unwrap());
    assert!(files.into_iter().all(|file| file.permissions().mode() & 0o777 == 0o600));
    assert_eq!(fs::metadata(installation.store()).unwrap().permissions().mode() & 0o777, 0o700);

    let second = installation.run(&url, None, &[]).await.unwrap();
    assert!(second.succeeded() && second.output.starts_with(&format!("already logged in to {url}, ")), "{second:?}");

    let printed = installation.run(&url, None, &["--print-token"]).await.unwrap();
    let (status, names) = tools(&bed, printed.output.trim()).await;
    assert_eq!(status, 200);
    assert!(names.iter().any(|name| name == TOOL), "{names:?}");

    // A session that the server ended is detected; the registration stays valid.
    let stored = installation.stored_login().unwrap();
    end_session(&bed, &stored).await;
    let refused = installation.run(&url, None, &["--print-token", "--no-login"]).await.unwrap();
    assert_eq!((refused.succeeded(), refused.output.as_str()), (false, ""));
    let again = installation.run(&url, Some(alice), &[]).await.unwrap();
    assert!(again.succeeded() && again.output.starts_with("logged in to"), "{again:?}");
    assert_eq!(installation.stored_login().unwrap()["client_id"], stored["client_id"]);

    no_token_is_logged(&installation, &stored);
}

#[tokio::test]
async fn login_accepts_a_redirect_pasted_from_another_machine() {
    let bed = bed::shared().await;
    let browser = Browser::start(&bed.run).await.unwrap();
    let alice = User { browser: &browser, email: ALICE };
    let installation = Login::install(&bed.run, "pasted").unwrap();
    let result = installation.run_with_pasted_url(&bed.url("/mcp"), alice, UNREACHABLE).await.unwrap();
    assert!(result.succeeded() && result.output.starts_with("logged in to"), "{result:?}");
    assert!(installation.log().unwrap().contains("Paste the complete URL"));
}

#[tokio::test]
async fn login_refreshes_expired_tokens_and_replaces_lost_registrations() {
    let bed = bed::shared().await;
    let browser = Browser::start(&bed.run).await.unwrap();
    let alice = User { browser: &browser, email: ALICE };
    let installation = Login::install(&bed.run, "renewed").unwrap();
    let url = bed.url("/mcp");
    installation.run(&url, Some(alice), &[]).await.unwrap();

    let mut stored = installation.stored_login().unwrap();
    let old = stored["tokens"]["access_token"].take();
    stored["tokens"]["access_token"] = "another".into();
    stored["tokens"]["expires_at"] = "2026-01-01T00:00:00Z".into();
    installation.store_login(&stored).unwrap();
    let printed = installation.run(&url, None, &["--print-token"]).await.unwrap();
    assert!(
        printed.succeeded() && printed.output.trim() != old.as_str().unwrap() && printed.output.trim() != "another"
    );
    assert_eq!(tools(&bed, printed.output.trim()).await.0, 200);
    no_token_is_logged(&installation, &installation.stored_login().unwrap());

    let mut stored = installation.stored_login().unwrap();
    stored["client_id"] = "nobody".into();
    stored["tokens"] = Value::Null;
    installation.store_login(&stored).unwrap();
    let again = installation.run(&url, Some(alice), &[]).await.unwrap();
    assert!(again.succeeded() && again.output.starts_with("logged in to"), "{again:?}");
    assert_ne!(installation.stored_login().unwrap()["client_id"], "nobody");
}

#[tokio::test]
async fn bridge_prompts_only_after_the_login_ended() {
    let bed = bed::shared().await;
    let browser = Browser::start(&bed.run).await.unwrap();
    let alice = User { browser: &browser, email: ALICE };
    let installation = Login::install(&bed.run, "bridge").unwrap();
    let mut bridge = installation.bridge(&bed.url("/mcp"), Some(alice)).await.unwrap();
    assert!(bridge.tools().await.unwrap().iter().any(|tool| tool == TOOL));
    assert_eq!(bridge.call(TOOL, json!({"message": "one"})).await.unwrap(), "Echo: one");
    assert_eq!(bridge.logins(), 1);

    let mut stored = installation.stored_login().unwrap();
    stored["tokens"]["access_token"] = "spoiled".into();
    installation.store_login(&stored).unwrap();
    assert_eq!(bridge.call(TOOL, json!({"message": "two"})).await.unwrap(), "Echo: two");
    assert_eq!(bridge.logins(), 1);
    assert_ne!(installation.stored_login().unwrap()["tokens"]["access_token"], "spoiled");

    end_session(&bed, &installation.stored_login().unwrap()).await;
    assert_eq!(bridge.call(TOOL, json!({"message": "three"})).await.unwrap(), "Echo: three");
    assert_eq!(bridge.logins(), 2);
    assert!(bridge.finish().await.unwrap(), "{}", installation.log().unwrap());
}

fn no_token_is_logged(installation: &Login, stored: &Value) {
    let log = installation.log().unwrap();
    assert!(log.contains("TRACE"), "the log is not at trace level");
    for name in ["access_token", "refresh_token"] {
        assert!(!log.contains(stored["tokens"][name].as_str().unwrap()), "the log contains the {name}");
    }
}

/// Revokes the client's session without its knowledge.
async fn end_session(bed: &bed::Bed, stored: &Value) {
    let form = [
        ("token", stored["tokens"]["refresh_token"].as_str().unwrap()),
        ("client_id", stored["client_id"].as_str().unwrap()),
    ];
    bed.client().post(bed.url("/revoke")).form(&form).send().await.unwrap().error_for_status().unwrap();
}
