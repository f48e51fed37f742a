//! `IVpnClientConfig` (API §2).

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use ipnet::IpNet;
use serde_json::Value;

use super::values::{CongestionControl, PemSource, StateDir};
use crate::error::{ErrorCode, VpnError};

/// A client's configuration, checked.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// Where the server is.
    pub server_url: String,
    /// The server's static key.
    pub server_public_key: [u8; 32],
    /// Resolvers for the tunnel, at most 8; `None`: the server's.
    pub dns: Option<Vec<IpAddr>>,
    /// The largest tunnel MTU wanted, 576–65,535 bytes; the smaller of both ends' holds.
    pub mtu: u16,
    /// The keepalive interval until the link's health is known, 5–120 s; `None`: the server's.
    pub keepalive_interval: Option<Duration>,
    /// Networks to send into the tunnel besides the VPN's subnet.
    pub routes: Vec<IpNet>,
    /// The TUN interface's name; `None`: the system picks one.
    pub tun_name: Option<String>,
    /// The authority trusted instead of the system's.
    pub tls_ca: Option<PemSource>,
    /// Label shown on the server.
    pub name: Option<String>,
    /// How long one attempt to connect may take.
    pub connect_timeout: Duration,
    /// Pacing of the outer connection.
    pub congestion_control: CongestionControl,
    /// Where state is kept.
    pub state_dir: StateDir,
    /// How a lost tunnel is taken up again; `None`: it is not.
    pub reconnect: Option<Reconnect>,
}

/// The back-off between attempts to take up the tunnel again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reconnect {
    /// The bound of the first random delay.
    pub base_delay: Duration,
    /// The largest bound.
    pub max_delay: Duration,
    /// Attempts in a row before giving up; `None`: without limit.
    pub max_attempts: Option<u32>,
}

impl ClientConfig {
    /// Checks `value`; relative paths are taken from `base_dir`.
    pub fn parse(value: &Value, base_dir: &Path) -> Result<Self, VpnError> {
        let _ = (value, base_dir);
        Err(VpnError::new(ErrorCode::Internal, "the client's configuration is not parsed yet"))
    }
}
