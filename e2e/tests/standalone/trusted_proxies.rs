//! The client IP behind a real nginx, which adds the address of its peer to `X-Forwarded-For` (`trustedProxies`).

use std::net::{IpAddr, Ipv4Addr};

use futures::{StreamExt, stream};
use reqwest::{Client, StatusCode, header::RETRY_AFTER};
use serde_json::json;

use crate::{
    bed::{self, Bed},
    dedicated_proxy::DedicatedProxy,
};

/// More requests than one client may send at once, and fewer than all clients together.
const FLOOD: usize = 400;

/// A client with this loopback address.
fn client_at(bed: &Bed, last: u8) -> Client {
    let address = IpAddr::V4(Ipv4Addr::new(127, 0, 0, last));
    bed.client_with(|builder| builder.local_address(address))
}

#[tokio::test]
async fn b7_rate_limit_follows_the_real_client_ip() {
    let bed = bed::shared().await;
    let settings = [("trustedProxies", json!(["127.0.0.1/32"]))];
    let proxy = DedicatedProxy::with(&bed, "trusted", &bed.tap.address, &settings).await;
    let register = proxy.url().replace("/mcp", "/register");

    let flooder = client_at(&bed, 2);
    let responses: Vec<_> = stream::iter(0..FLOOD)
        .map(|number| {
            // A different forged address in each request.
            let forged_ip = format!("198.51.{}.{}", number / 250, number % 250);
            let request =
                flooder.post(&register).header("x-forwarded-for", &forged_ip).header("cf-connecting-ip", forged_ip);
            async move { request.send().await.unwrap() }
        })
        .buffer_unordered(16)
        .collect()
        .await;
    let refused: Vec<_> =
        responses.iter().filter(|response| response.status() == StatusCode::TOO_MANY_REQUESTS).collect();
    assert!(!refused.is_empty(), "no request was rejected");
    assert!(refused.iter().all(|response| response.headers().contains_key(RETRY_AFTER)), "{refused:?}");
    // The empty registration is invalid.
    assert!(responses.iter().filter(|response| response.status() == StatusCode::BAD_REQUEST).count() >= 200);

    // The flooder cannot exhaust another client's limit by forging its address.
    let request = client_at(&bed, 3).post(&register).header("x-forwarded-for", "127.0.0.2");
    assert_eq!(request.send().await.unwrap().status(), StatusCode::BAD_REQUEST);
}
