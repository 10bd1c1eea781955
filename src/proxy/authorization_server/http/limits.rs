//! Rate limits: the endpoints cost work before a user has logged in.

use std::{
    convert::Infallible,
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

/// A login takes six requests, and a desktop may start many clients at once.
const PER_CLIENT: Quota = Quota::per_second(NonZeroU32::new(10).unwrap()).allow_burst(NonZeroU32::new(200).unwrap());

/// The capacity of one core. The burst covers three thousand users who log in at the same time.
const TOTAL: Quota = Quota::per_second(NonZeroU32::new(3_000).unwrap()).allow_burst(NonZeroU32::new(15_000).unwrap());

/// Maximum number of clients with their own limiter, about 2 MiB. The least used are evicted.
const MAX_CLIENTS: usize = 10_000;

pub struct RateLimits {
    total: DefaultDirectRateLimiter,
    /// `None` without trusted proxies: the client IP may be that of a proxy.
    clients: Option<Cache<IpAddr, Arc<DefaultDirectRateLimiter>>>,
    trusted: Vec<IpNet>,
}

impl RateLimits {
    pub fn new(trusted: &[IpNet]) -> Self {
        let clients = (!trusted.is_empty()).then(|| Cache::new(MAX_CLIENTS));
        Self { total: RateLimiter::direct(TOTAL), clients, trusted: trusted.to_vec() }
    }

    fn admit(&self, request: &Request) -> bool {
        let client = client_ip_of(request.extensions(), request.headers(), &self.trusted).map(network);
        let new = || Ok::<_, Infallible>(Arc::new(RateLimiter::direct(PER_CLIENT)));
        let limiter =
            self.clients.as_ref().zip(client).map(|(clients, client)| clients.get_or_insert_with(&client, new));
        limiter.is_none_or(|limiter| limiter.is_ok_and(|limiter| limiter.check().is_ok())) && self.total.check().is_ok()
    }
}

/// The network of one client: an IPv4 address, or a /64 of IPv6.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64))),
    }
}

#[derive(Clone)]
pub struct RateLimit {
    pub limits: Arc<RateLimits>,
    pub server: Arc<AuthorizationServer>,
    /// Whether the endpoints respond with pages.
    pub pages: bool,
}

pub async fn rate_limit(State(state): State<RateLimit>, request: Request, next: Next) -> Response {
    if state.limits.admit(&request) {
        return next.run(request).await;
    }
    state.server.metrics.rate_limited.fetch_add(1, Relaxed);
    too_many_requests(state.pages.then(|| request.headers()))
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
        let limits = RateLimits::new(&["10.0.0.0/8".parse().unwrap()]);
        let admitted = (0..300).filter(|_| limits.admit(&request("10.1.1.1", "198.51.100.7"))).count();
        assert!((200..250).contains(&admitted), "{admitted}");
        assert!(limits.admit(&request("10.1.1.1", "198.51.100.8")));
        // Hops to the left of the client's own address are ignored.
        assert!(!limits.admit(&request("10.1.1.1", "203.0.113.1, 198.51.100.7")));
        let of_one_network =
            (0..300).filter(|n| limits.admit(&request("10.1.1.1", &format!("2001:db8::{n:x}")))).count();
        assert!((200..250).contains(&of_one_network), "{of_one_network}");
    }

    #[test]
    fn rate_limit_is_shared_without_trusted_proxies() {
        let limits = RateLimits::new(&[]);
        let admitted = (0..40_000).filter(|_| limits.admit(&request("10.1.1.1", "198.51.100.7"))).count();
        assert!((15_000..39_000).contains(&admitted), "{admitted}");
    }

    #[test]
    fn b4_rate_limiter_memory_is_bounded() {
        let limits = RateLimits::new(&["10.0.0.0/8".parse().unwrap()]);
        for number in 0..50_000_u32 {
            limits.admit(&request("10.1.1.1", &std::net::Ipv4Addr::from_bits(0xc000_0000 + number).to_string()));
        }
        assert!(limits.clients.unwrap().len() <= MAX_CLIENTS);
    }
}
