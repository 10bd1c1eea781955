//! A replica whose session watch is disturbed (`e2e/src/peers/api_relay.rs`): it rejects ended sessions within a
//! bounded time, and never rejects live ones.

use std::time::{Duration, Instant};

use e2e::{
    environment::{Environment, NAMESPACE},
    peers::{api_relay::WatchFault, browser::Browser, context_forge::MEMBERS},
};
use kube::{Api, api::DeleteParams};
use mcp_oauth_operator::api::McpOAuthSession;
use reqwest::StatusCode;

use crate::{
    replica::Replica,
    support::{ScriptedClient, environment, eventually, sessions},
};

/// The longest time for which an ended session is accepted while the API server responds (docs/reliability.md).
const BOUND: Duration = Duration::from_secs(15);

/// The measurement error on a busy machine.
const SLACK: Duration = Duration::from_secs(2);

/// Deletes a session and returns how long its token is accepted. Asserts that a live session is accepted meanwhile.
async fn end(environment: &Environment, replica: &Replica, ended: (&str, &str), live: &str) -> Duration {
    let api: Api<McpOAuthSession> = Api::namespaced(environment.cluster.client().await.unwrap(), NAMESPACE);
    let (name, access) = ended;
    assert_eq!(replica.status(access).await, StatusCode::OK);
    api.delete(name, &DeleteParams::default()).await.unwrap();
    let deleted = Instant::now();
    loop {
        assert_eq!(replica.status(live).await, StatusCode::OK, "a live session");
        let status = replica.status(access).await;
        if status == StatusCode::UNAUTHORIZED || deleted.elapsed() > BOUND * 2 {
            return deleted.elapsed();
        }
        assert_eq!(status, StatusCode::OK);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn disturbed_watch_delays_session_end_by_15_s_at_most_and_rejects_no_live_session() {
    let environment = environment();
    let name = "watched";
    let proxy = environment.deploy_proxy(name, |_| ()).await.unwrap();
    let replica = Replica::start(&environment, name, |_| ()).await;
    let browser = Browser::start(&environment.run).await.unwrap();
    let client = ScriptedClient::register(&environment, &proxy).await.unwrap();
    let live = client.login(&browser, MEMBERS[0]).await.unwrap();
    let mut known: Vec<String> = names(&environment, name).await;

    for fault in [
        WatchFault::None,
        WatchFault::Stall,
        WatchFault::Cut,
        WatchFault::Expire,
        WatchFault::Delay(Duration::from_secs(8)),
        WatchFault::Delay(Duration::from_secs(40)),
    ] {
        // A login completed at a pod, which the disturbed watch does not report.
        replica.relay.set_fault(fault);
        let tokens = client.login(&browser, MEMBERS[0]).await.unwrap();
        assert_eq!(replica.status(&tokens.access).await, StatusCode::OK, "{fault:?}: a new session");
        let all = names(&environment, name).await;
        let new = all.iter().find(|name| !known.contains(name)).unwrap().clone();
        known = all;

        // The watch must know the session first, so that only the watch can end it.
        replica.relay.set_fault(WatchFault::None);
        eventually("the watch shows the new session", || async { replica.sessions().await == known.len() }).await;
        replica.relay.set_fault(fault);
        let passed = end(&environment, &replica, (&new, &tokens.access), &live.access).await;
        eprintln!("{fault:?}: an ended session was accepted for {} ms", passed.as_millis());
        assert!(passed <= BOUND + SLACK, "{fault:?}: {passed:?}");
        known.retain(|name| *name != new);
        replica.relay.set_fault(WatchFault::None);
    }
    browser.close().await.unwrap();
}

/// The stalled watch reports nothing, so only lists and look-ups can end the stream.
#[tokio::test(flavor = "multi_thread")]
async fn looked_up_sessions_stream_ends_with_it_and_live_stream_continues() {
    let environment = environment();
    let name = "listened";
    let proxy = environment.deploy_proxy(name, |_| ()).await.unwrap();
    let replica = Replica::start(&environment, name, |_| ()).await;
    let browser = Browser::start(&environment.run).await.unwrap();
    let client = ScriptedClient::register(&environment, &proxy).await.unwrap();
    replica.relay.set_fault(WatchFault::Stall);

    let mut tries = 0;
    let (ended, mut ended_stream, mut live) = loop {
        // After a list, there is time for two logins before the next one.
        client.login(&browser, MEMBERS[0]).await.unwrap();
        let known = names(&environment, name).await;
        eventually("a list shows all sessions", || async { replica.sessions().await == known.len() }).await;
        let ends = client.login(&browser, MEMBERS[0]).await.unwrap();
        let new = names(&environment, name).await.into_iter().find(|name| !known.contains(name)).unwrap();
        let lives = client.login(&browser, MEMBERS[1]).await.unwrap();
        let streams = (replica.listen(&ends.access).await, replica.listen(&lives.access).await);
        if replica.sessions().await == known.len() {
            break (new, streams.0, streams.1);
        }
        tries += 1;
        assert!(tries < 5, "the interval between lists is too short for two logins");
    };
    let api: Api<McpOAuthSession> = Api::namespaced(environment.cluster.client().await.unwrap(), NAMESPACE);
    api.delete(&ended, &DeleteParams::default()).await.unwrap();
    let deleted = Instant::now();
    let rest = tokio::time::timeout(BOUND + SLACK, ended_stream.chunk()).await;
    assert_eq!(rest.expect("the stream ends in time").unwrap(), None);
    eprintln!("the stream of an ended session stayed open for {} ms", deleted.elapsed().as_millis());
    replica.send_event("data: still there\n\n");
    assert_eq!(live.chunk().await.unwrap().unwrap(), "data: still there\n\n");
    browser.close().await.unwrap();
}

async fn names(environment: &Environment, proxy: &str) -> Vec<String> {
    sessions(environment, proxy).await.into_iter().filter_map(|session| session.metadata.name).collect()
}
