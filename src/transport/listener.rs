//! The server's TCP listener.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};

use super::BindError;

/// How many connections the kernel completes ahead of [`Listener::accept`]: what arrives within a tenth of
/// a second when everybody reconnects at once, at the rate one core can handshake.
const BACKLOG: i32 = 1024;

/// How long a shortage of descriptors or memory is left to pass.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(100);

/// A bound, listening TCP socket.
#[derive(Debug)]
pub struct Listener {
    inner: TcpListener,
    local_addr: SocketAddr,
}

impl Listener {
    /// Binds `host:port` or `[v6]:port` and listens; port 0 takes a free one, and `[::]` takes IPv4 too.
    /// A name is looked up, and the first of its addresses that can be bound is taken.
    pub async fn bind(addr: &str) -> Result<Self, BindError> {
        let invalid = || BindError::Invalid(addr.to_owned());
        let (host, port) = addr.rsplit_once(':').ok_or_else(invalid)?;
        if host.is_empty() || port.parse::<u16>().is_err() {
            return Err(invalid());
        }
        let candidates = tokio::net::lookup_host(addr).await.map_err(|_| invalid())?;
        let mut failure = None;
        for candidate in candidates {
            match listen(candidate) {
                Ok(listener) => return Ok(listener),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        Err(failure.map_or_else(invalid, |error| bind_error(addr.to_owned(), error)))
    }

    /// The address that is bound, with the port that was picked for 0.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// The next connection and where it comes from. Connections that failed before they were accepted are
    /// passed over. An error means a shortage of descriptors or memory and is returned after a pause, so
    /// that a loop may log it and go on. Cancel-safe.
    pub async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        loop {
            match self.inner.accept().await {
                Ok((stream, peer)) => return Ok((stream, canonical(peer))),
                Err(error) if is_of_one_connection(&error) => {
                    tracing::debug!(%error, "a connection failed before it was accepted");
                }
                Err(error) => {
                    tokio::time::sleep(SHORTAGE_PAUSE).await;
                    return Err(error);
                }
            }
        }
    }
}

fn listen(addr: SocketAddr) -> io::Result<Listener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    if addr.ip().is_unspecified() && addr.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    // A restart must not wait for the last run's connections to time out.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    let inner = TcpListener::from_std(socket.into())?;
    let local_addr = inner.local_addr()?;
    Ok(Listener { inner, local_addr })
}

fn bind_error(addr: String, error: io::Error) -> BindError {
    match error.kind() {
        io::ErrorKind::AddrInUse => BindError::AddressInUse(addr, error),
        io::ErrorKind::PermissionDenied => BindError::PermissionDenied(addr, error),
        io::ErrorKind::AddrNotAvailable => BindError::NotLocal(addr, error),
        _ => BindError::Other(addr, error),
    }
}

/// An IPv4 peer of a socket that takes both counts as what it is.
fn canonical(peer: SocketAddr) -> SocketAddr {
    SocketAddr::new(peer.ip().to_canonical(), peer.port())
}

/// Whether an error of `accept` is about the connection rather than about us (accept(2), "Error handling").
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::PermissionDenied
            | io::ErrorKind::NetworkDown
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::TimedOut
            | io::ErrorKind::Interrupted
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorCode;

    #[tokio::test]
    async fn port_0_picks_one_that_is_told() {
        let listener = Listener::bind("127.0.0.1:0").await.unwrap();
        assert_ne!(listener.local_addr().port(), 0);
        let (client, accepted) = tokio::join!(TcpStream::connect(listener.local_addr()), listener.accept());
        assert_eq!(client.unwrap().local_addr().unwrap(), accepted.unwrap().1);
    }

    #[tokio::test]
    async fn names_are_looked_up() {
        assert!(Listener::bind("localhost:0").await.unwrap().local_addr().ip().is_loopback());
    }

    #[tokio::test]
    async fn the_v6_wildcard_takes_v4_and_tells_its_addresses_as_such() {
        let Ok(listener) = Listener::bind("[::]:0").await else {
            return; // a host without IPv6
        };
        let target = ("127.0.0.1", listener.local_addr().port());
        let (client, accepted) = tokio::join!(TcpStream::connect(target), listener.accept());
        client.unwrap();
        assert_eq!(accepted.unwrap().1.ip().to_string(), "127.0.0.1");
    }

    #[tokio::test]
    async fn what_cannot_be_bound_says_why() {
        let taken = Listener::bind("127.0.0.1:0").await.unwrap();
        for (addr, code) in [
            (taken.local_addr().to_string(), ErrorCode::AddressInUse),
            ("192.0.2.1:0".into(), ErrorCode::InvalidConfig),
            ("127.0.0.1".into(), ErrorCode::InvalidConfig),
            (":443".into(), ErrorCode::InvalidConfig),
            ("127.0.0.1:65536".into(), ErrorCode::InvalidConfig),
            ("[::1:443".into(), ErrorCode::InvalidConfig),
            ("no.such.host.invalid:443".into(), ErrorCode::InvalidConfig),
        ] {
            let error = Listener::bind(&addr).await.unwrap_err();
            assert_eq!(error.code(), code, "{addr}: {error}");
        }
    }

    #[tokio::test]
    async fn a_port_is_free_again_at_once() {
        let listener = Listener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr();
        let (client, accepted) = tokio::join!(TcpStream::connect(addr), listener.accept());
        // The accepted side closes first, so its address waits in TIME_WAIT.
        drop(accepted);
        drop(listener);
        drop(client);
        Listener::bind(&addr.to_string()).await.unwrap();
    }
}
