//! The server's TCP listener.

use std::io;
use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpStream};

use super::BindError;

/// A bound, listening TCP socket.
#[derive(Debug)]
pub struct Listener {
    inner: TcpListener,
    local_addr: SocketAddr,
}

impl Listener {
    /// Binds `host:port` or `[v6]:port` and listens; port 0 takes a free one.
    pub async fn bind(addr: &str) -> Result<Self, BindError> {
        let _ = addr;
        unimplemented!()
    }

    /// The address that is bound, with the port that was picked for 0.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// The next connection and where it comes from.
    pub async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        self.inner.accept().await
    }
}
