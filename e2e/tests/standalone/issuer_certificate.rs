//! An issuer whose certificate is signed by a private CA (`identityProvider.caRef`).

use std::{
    fs, process,
    time::{Duration, Instant},
};

use e2e::{
    forward::free_port,
    peers::{
        browser::Browser,
        certificates::Certificates,
        edge::Edge,
        http,
        provider::{Options, Provider},
        standalone::{Proxy, ProxyOptions},
    },
    run::Run,
};
use serde_json::json;

use crate::{
    ALICE,
    bed::{StopOnDrop, authorize_url},
};

#[tokio::test]
async fn issuer_with_a_private_ca_is_trusted_through_ca_ref() {
    let run = Run::open(&format!("standalone-ca-{}", process::id())).unwrap();
    let stop_guard = StopOnDrop(run.clone());
    let other_run = Run::open(&format!("standalone-other-ca-{}", process::id())).unwrap();
    let (port, provider_port) = (free_port().unwrap(), free_port().unwrap());
    let issuer = format!("https://localhost:{port}");
    let options = Options { port: Some(provider_port), issuer: Some(issuer.clone()), ..Options::default() };
    let provider = Provider::up(&run, &options).await.unwrap();
    Edge::up(&run, "issuer", port, &provider.address).await.unwrap();

    // The reference contains another CA at first.
    let references = run.directory().join("references");
    let authority = references.join("configmaps/corp-ca/ca.crt");
    fs::create_dir_all(authority.parent().unwrap()).unwrap();
    fs::copy(Certificates::for_run(&other_run).unwrap().authority(), &authority).unwrap();
    let listen = format!("127.0.0.1:{}", free_port().unwrap());
    let edge = Edge::up(&run, "main", free_port().unwrap(), &listen).await.unwrap();
    let identity_provider = json!({"issuerURL": issuer, "caRef": {"name": "corp-ca", "key": "ca.crt"}});
    let settings = [("references", json!(references)), ("identityProvider", identity_provider)];
    // Nothing is forwarded in this test.
    let upstream = "127.0.0.1:9";
    let options = ProxyOptions {
        public_url: &edge.url,
        provider: &provider,
        upstream,
        recheck_on_refresh: false,
        documents: None,
        settings: &settings,
    };
    let proxy = Proxy::up(&run, "proxy", &listen, options).await.unwrap();

    let own_authority = Certificates::for_run(&run).unwrap().authority();
    let client = http::client(Some(&own_authority)).unwrap();
    let browser = Browser::start(&run).await.unwrap();
    let refused = browser.login(&authorize_url(&client, &edge.url).await, ALICE).await.unwrap();
    assert!(refused.consented && refused.status == 503, "{refused:?}");
    assert!(refused.text.contains("The identity provider cannot be reached"), "{refused:?}");
    proxy.wait_until_logged("certificate", Duration::from_secs(5)).unwrap();

    fs::copy(&own_authority, &authority).unwrap();
    proxy.wait_until_logged("reloaded credentials and keys", Duration::from_secs(30)).unwrap();
    // After a failure, the proxy does not contact the issuer for a few seconds.
    let deadline = Instant::now() + Duration::from_secs(60);
    let final_page = loop {
        let final_page = browser.login(&authorize_url(&client, &edge.url).await, ALICE).await.unwrap();
        if final_page.status != 503 || Instant::now() > deadline {
            break final_page;
        }
    };
    assert!(final_page.signed_in && final_page.parameter("code").is_some(), "{final_page:?}");
    browser.close().await.unwrap();
    drop(stop_guard);
    for run in [&run, &other_run] {
        fs::remove_dir_all(run.directory()).unwrap();
    }
}
