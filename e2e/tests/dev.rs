//! The `dev` command serves the sample, with a login and a call.

use std::time::{Duration, Instant};

use e2e::{
    bench::login,
    peers::{dev::Dev, http},
};
use serde_json::{Value, json};

#[tokio::test]
async fn dev_serves_the_sample_without_its_issuer_and_credentials() {
    let state = tempfile::tempdir().unwrap();
    let started = Instant::now();
    let dev = Dev::start(&state.path().join("state")).unwrap();
    let url = &dev.url;
    let client = http::client(None).unwrap();
    let metadata = format!("{url}/.well-known/oauth-authorization-server");
    while client.get(&metadata).send().await.is_err() {
        // Usually below 5 s. This is not a benchmark.
        assert!(started.elapsed() < Duration::from_secs(60));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    eprintln!("ready after {:.2} s", started.elapsed().as_secs_f32());

    let token = login::token(url, "ada@jomcgi.dev").await.unwrap();
    let call = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "whoami"}});
    let response = client.post(format!("{url}/mcp")).bearer_auth(token).json(&call).send().await.unwrap();
    let response: Value = response.json().await.unwrap();
    assert_eq!(response["result"]["content"][0]["text"], "You are ada@jomcgi.dev");

    // The sample's access rules apply too.
    let refused = login::token(url, "eve@evil.example").await.unwrap_err().to_string();
    assert!(refused.contains("403"), "{refused}");
}
