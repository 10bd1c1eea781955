//! How often the endpoints of the authorization server may be asked: each costs some work before anybody has logged in.

use std::{
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU32,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use ipnet::IpNet;
use quick_cache::sync::Cache;

use super::respond::too_many_requests;
use crate::proxy::{authorization_server::AuthorizationServer, client_ip::client_ip_of};

/// For one client: a login takes six requests, and a desktop with many clients starts them all at once.
const PER_CLIENT: Quota = Quota::per_second(NonZeroU32::new(10).unwrap()).allow_burst(NonZeroU32::new(200).unwrap());

/// For all of them together: what one core can do, so that it is not done twice; and three thousand people who start their
/// work in the same seconds.
const FOR_ALL: Quota = Quota::per_second(NonZeroU32::new(3_000).unwrap()).allow_burst(NonZeroU32::new(15_000).unwrap());

/// How many clients are told apart; more than these share what is free. About 2 MiB.
const CLIENTS: usize = 10_000;

/// The limits of one replica.
pub struct Limits {
    all: DefaultDirectRateLimiter,
    /// Only if the clients' addresses can be known.
    clients: Option<Cache<IpAddr, Arc<DefaultDirectRateLimiter>>>,
    trusted: Vec<IpNet>,
}

impl Limits {
    /// The limits behind these proxies.
    pub fn new(trusted: &[IpNet]) -> Self {
        let clients = (!trusted.is_empty()).then(|| Cache::new(CLIENTS));
        Self { all: RateLimiter::direct(FOR_ALL), clients, trusted: trusted.to_vec() }
    }

    fn admit(&self, request: &Request) -> bool {
        if let (Some(clients), Some(client)) =
            (&self.clients, client_ip_of(request.extensions(), request.headers(), &self.trusted))
        {
            let client = network(client);
            let limiter = clients.get(&client).unwrap_or_else(|| {
                let new = Arc::new(RateLimiter::direct(PER_CLIENT));
                clients.insert(client, new.clone());
                new
            });
            if limiter.check().is_err() {
                return false;
            }
        }
        self.all.check().is_ok()
    }
}

/// What one client has: of IPv6, a whole /64.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64))),
    }
}

/// What the limits are asked with, and where it is counted whom they refuse.
pub type Limited = (Arc<Limits>, Arc<AuthorizationServer>);

/// Refuses what is too much, before it costs anything, for endpoints that programs ask.
pub async fn limit_programs(State((limits, proxy)): State<Limited>, request: Request, next: Next) -> Response {
    if limits.admit(&request) {
        return next.run(request).await;
    }
    proxy.metrics.rate_limited.fetch_add(1, Relaxed);
    too_many_requests(None)
}

/// The same for pages.
pub async fn limit_people(State((limits, proxy)): State<Limited>, request: Request, next: Next) -> Response {
    if limits.admit(&request) {
        return next.run(request).await;
    }
    proxy.metrics.rate_limited.fetch_add(1, Relaxed);
    too_many_requests(Some(request.headers()))
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use axum::body::Body;

    use super::*;

    fn request(peer: &str, forwarded: &str) -> Request {
        let mut request = Request::builder().header("x-forwarded-for", forwarded).body(Body::empty()).unwrap();
        request.extensions_mut().insert(SocketAddr::new(peer.parse().unwrap(), 1));
        request
    }

    #[test]
    fn b4_rate_limit_applies_per_client() {
        let limits = Limits::new(&["10.0.0.0/8".parse().unwrap()]);
        let admitted = (0..300).filter(|_| limits.admit(&request("10.1.1.1", "198.51.100.7"))).count();
        assert!((200..250).contains(&admitted), "{admitted}");
        assert!(limits.admit(&request("10.1.1.1", "198.51.100.8")));
        // Whatever it writes to the left of its own address.
        assert!(!limits.admit(&request("10.1.1.1", "203.0.113.1, 198.51.100.7")));
        let of_one_network =
            (0..300).filter(|n| limits.admit(&request("10.1.1.1", &format!("2001:db8::{n:x}")))).count();
        assert!((200..250).contains(&of_one_network), "{of_one_network}");
    }

    #[test]
    fn rate_limit_is_shared_without_trusted_proxies() {
        let limits = Limits::new(&[]);
        let admitted = (0..40_000).filter(|_| limits.admit(&request("10.1.1.1", "198.51.100.7"))).count();
        assert!((15_000..39_000).contains(&admitted), "{admitted}");
    }

    #[test]
    fn b4_rate_limiter_memory_is_bounded() {
        let limits = Limits::new(&["10.0.0.0/8".parse().unwrap()]);
        for number in 0..50_000_u32 {
            limits.admit(&request("10.1.1.1", &std::net::Ipv4Addr::from_bits(0xc000_0000 + number).to_string()));
        }
        assert!(limits.clients.unwrap().len() <= CLIENTS);
    }
}
