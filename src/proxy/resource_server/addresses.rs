use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    vec,
};

use hyper_util::client::legacy::connect::dns::Name;
use tower::Service;

/// Gives the addresses of a name so that each time another one comes first: connections spread over the pods of a headless
/// Service. Whoever connects goes on to the next when one does not answer.
#[derive(Clone, Debug, Default)]
pub struct InTurn<R> {
    resolver: R,
    turn: Arc<AtomicUsize>,
}

impl<R> InTurn<R> {
    /// Those that this resolver gives.
    pub fn new(resolver: R) -> Self {
        Self { resolver, turn: Arc::default() }
    }
}

impl<R> Service<Name> for InTurn<R>
where
    R: Service<Name, Error = io::Error, Response: Iterator<Item = SocketAddr>, Future: Send + 'static>,
{
    type Response = vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.resolver.poll_ready(cx)
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let (found, turn) = (self.resolver.call(name), self.turn.fetch_add(1, Ordering::Relaxed));
        Box::pin(async move {
            let mut addresses: Vec<SocketAddr> = found.await?.collect();
            if let Some(first) = turn.checked_rem(addresses.len()) {
                addresses.rotate_left(first);
            }
            Ok(addresses.into_iter())
        })
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use hyper_util::client::legacy::connect::HttpConnector;
    use tokio::net::TcpListener;
    use tower::{ServiceExt, service_fn};

    use super::*;

    #[tokio::test]
    async fn resolved_addresses_are_rotated() {
        let addresses: Vec<SocketAddr> = ["10.0.0.1:0", "10.0.0.2:0"].map(|address| address.parse().unwrap()).to_vec();
        let known = addresses.clone();
        let resolver = service_fn(move |_| std::future::ready(Ok::<_, io::Error>(known.clone().into_iter())));
        let mut in_turn = InTurn::new(resolver);
        for first in [0, 1, 0] {
            let found: Vec<_> = in_turn.call("upstream".parse().unwrap()).await.unwrap().collect();
            assert_eq!((found[0], found.len()), (addresses[first], 2));
        }
        let nothing = service_fn(|_| std::future::ready(Ok::<_, io::Error>(Vec::new().into_iter())));
        assert_eq!(InTurn::new(nothing).call("upstream".parse().unwrap()).await.unwrap().len(), 0);
    }

    #[tokio::test]
    async fn unreachable_address_is_skipped() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let taking = tokio::spawn(async move {
            for _ in 0..2 {
                listener.accept().await.unwrap();
            }
            Ok::<_, Infallible>(())
        });
        let addresses: Vec<SocketAddr> =
            ["127.0.0.2:0", "127.0.0.1:0"].map(|address| address.parse().unwrap()).to_vec();
        let resolver = service_fn(move |_| std::future::ready(Ok::<_, io::Error>(addresses.clone().into_iter())));
        let mut connector = HttpConnector::new_with_resolver(InTurn::new(resolver));
        for _ in 0..2 {
            let upstream = format!("http://upstream:{port}").parse::<http::Uri>().unwrap();
            connector.ready().await.unwrap().call(upstream).await.unwrap();
        }
        taking.await.unwrap().unwrap();
    }
}
