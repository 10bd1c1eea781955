use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    vec,
};

use hyper_util::client::legacy::connect::dns::Name;
use tower::{Service, ServiceExt, util::BoxCloneSyncService};

pub type Resolver = BoxCloneSyncService<Name, vec::IntoIter<SocketAddr>, io::Error>;

/// Rotates the addresses of each lookup, so that connections spread over the pods of a headless Service. The connector tries the
/// next address if one does not accept.
pub fn round_robin<R>(resolver: R) -> Resolver
where
    R: Service<Name, Error = io::Error, Response: Iterator<Item = SocketAddr>, Future: Send + 'static>,
    R: Clone + Send + Sync + 'static,
{
    let turn = Arc::new(AtomicUsize::new(0));
    BoxCloneSyncService::new(resolver.map_response(move |found| {
        let mut addresses: Vec<SocketAddr> = found.collect();
        if let Some(first) = turn.fetch_add(1, Ordering::Relaxed).checked_rem(addresses.len()) {
            addresses.rotate_left(first);
        }
        addresses.into_iter()
    }))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use hyper_util::client::legacy::connect::HttpConnector;
    use tokio::net::TcpListener;
    use tower::service_fn;

    use super::*;

    #[tokio::test]
    async fn resolved_addresses_are_rotated() {
        let addresses: Vec<SocketAddr> = ["10.0.0.1:0", "10.0.0.2:0"].map(|address| address.parse().unwrap()).to_vec();
        let known = addresses.clone();
        let known = service_fn(move |_| std::future::ready(Ok::<_, io::Error>(known.clone().into_iter())));
        let mut resolver = round_robin(known);
        for first in [0, 1, 0] {
            let found: Vec<_> = resolver.call("upstream".parse().unwrap()).await.unwrap().collect();
            assert_eq!((found[0], found.len()), (addresses[first], 2));
        }
        let nothing = service_fn(|_| std::future::ready(Ok::<_, io::Error>(Vec::new().into_iter())));
        assert_eq!(round_robin(nothing).call("upstream".parse().unwrap()).await.unwrap().len(), 0);
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
        let mut connector = HttpConnector::new_with_resolver(round_robin(resolver));
        for _ in 0..2 {
            let upstream = format!("http://upstream:{port}").parse::<http::Uri>().unwrap();
            connector.ready().await.unwrap().call(upstream).await.unwrap();
        }
        taking.await.unwrap().unwrap();
    }
}
