//! `IVpnServerConfig` (API §3).

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde_json::Value;

use super::values::{CongestionControl, ListenAddr, PemSource, StateDir};
use crate::error::{ErrorCode, VpnError};

/// A server's configuration, checked.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Where it listens.
    pub listen_addr: ListenAddr,
    // keypair: crypto::Keypair, once that has landed
    /// The tunnel's subnet, /8–/30; the server takes the first address.
    pub subnet: Ipv4Net,
    /// The tunnel's IPv6 subnet, /64–/125; the server takes ::1 of it.
    pub subnet6: Option<Ipv6Net>,
    /// Certificate and key; `None`: plain `ws://`, for a proxy in front.
    pub tls: Option<ServerTls>,
    /// Resolvers told to clients, at most 8.
    pub dns: Vec<IpAddr>,
    /// The largest tunnel MTU, 576–65,535 bytes; at least 1,280 with `subnet6`.
    pub mtu: u16,
    /// The keepalive interval told to clients, 5–120 s.
    pub keepalive_interval: Duration,
    /// Masquerade the subnet.
    pub enable_nat: bool,
    /// Clients at a time, at least 1.
    pub max_clients: u64,
    /// Clients can reach each other.
    pub client_to_client: bool,
    /// The only path of an upgrade; `None`: any.
    pub path: Option<String>,
    /// The TUN interface's name; `None`: the system picks one.
    pub tun_name: Option<String>,
    /// Proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Pacing of the outer connections.
    pub congestion_control: CongestionControl,
    /// Where state is kept.
    pub state_dir: StateDir,
}

/// What a TLS server shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerTls {
    /// The certificate chain, the server's own first.
    pub cert: PemSource,
    /// Its private key.
    pub key: PemSource,
}

impl ServerConfig {
    /// Checks `value`; relative paths are taken from `base_dir`.
    pub fn parse(value: &Value, base_dir: &Path) -> Result<Self, VpnError> {
        let _ = (value, base_dir);
        Err(VpnError::new(ErrorCode::Internal, "the server's configuration is not parsed yet"))
    }
}
