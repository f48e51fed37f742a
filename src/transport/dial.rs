//! The client's way to a server: names, addresses, TCP, TLS, the HTTP upgrade.

use std::net::{IpAddr, SocketAddr};

use tokio::time::Instant;

use super::{ClientTls, CongestionControl, DialError, Endpoint, Stream, WebSocket};

/// How to dial.
#[derive(Clone, Debug)]
pub struct DialOptions {
    /// Whom to trust; needed for `wss` endpoints.
    pub tls: Option<ClientTls>,
    /// The connection's congestion control.
    pub congestion: CongestionControl,
    /// When to give up, whatever is going on.
    pub deadline: Instant,
    /// Tried when the name does not resolve (any more): the resolver may be behind the dead tunnel.
    pub fallback_addrs: Vec<IpAddr>,
}

/// A connection whose first bytes are frames.
#[derive(Debug)]
pub struct Dialed {
    /// The connection; its message limit is the one before the session is up.
    pub websocket: WebSocket<Stream>,
    /// The server's address.
    pub remote: SocketAddr,
    /// The address that the connection leaves from.
    pub local: SocketAddr,
}

/// Connects to `endpoint`, all before the deadline.
pub async fn dial(endpoint: &Endpoint, options: &DialOptions) -> Result<Dialed, DialError> {
    let _ = (endpoint, options);
    unimplemented!()
}
