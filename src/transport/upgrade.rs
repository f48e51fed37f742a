//! The server's side of a new connection: TLS, one HTTP request, and then a WebSocket.

use std::net::IpAddr;

use tokio::net::TcpStream;
use tokio::time::Instant;

use super::{CongestionControl, ServerTls, Stream, UpgradeError, WebSocket};

/// What the server accepts.
#[derive(Clone, Debug, Default)]
pub struct UpgradeOptions {
    /// The only path that upgrades, begins with `/`; `None` takes any (PROTOCOL §1).
    pub path: Option<String>,
    /// The connection's congestion control.
    pub congestion: CongestionControl,
}

/// A connection whose first bytes are frames.
#[derive(Debug)]
pub struct Upgraded {
    /// The connection; its message limit is the one before the session is up.
    pub websocket: WebSocket<Stream>,
    /// The addresses of `X-Forwarded-For` in header order.
    pub forwarded_for: Vec<IpAddr>,
    /// Whether the client offered the sub-protocol `smartvpn.v1`, which was then echoed.
    pub offered_protocol: bool,
}

/// Takes an accepted connection through TLS and the HTTP upgrade, all before `deadline`.
pub async fn upgrade(
    tcp: TcpStream,
    tls: Option<&ServerTls>,
    options: &UpgradeOptions,
    deadline: Instant,
) -> Result<Upgraded, UpgradeError> {
    let _ = (tcp, tls, options, deadline);
    unimplemented!()
}
