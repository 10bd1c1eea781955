//! The opening of sockets that are served from.

use std::{
    io::{self, ErrorKind},
    net::{Ipv4Addr, SocketAddr, TcpListener},
};

/// A socket that a runtime can serve from. `[::]` means every address; where there is no IPv6, every IPv4 address.
///
/// # Errors
/// When the address is taken or not ours.
pub(crate) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let bound = TcpListener::bind(address).or_else(|error| match address {
        SocketAddr::V6(any) if any.ip().is_unspecified() && error.kind() != ErrorKind::AddrInUse => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, any.port()))
        }
        _ => Err(error),
    });
    let listener = bound?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}
