//! The values of the public API (§§2–3), serialised with its names.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::SystemTime;

use serde::Serialize;

use crate::error::ErrorCode;
use crate::network::ResolverMethod;
use crate::telemetry::{DropsSnapshot, Quality, TrafficSnapshot};

/// The present moment as ISO 8601 in UTC, to the millisecond.
pub fn timestamp() -> String {
    humantime::format_rfc3339_millis(SystemTime::now()).to_string()
}

/// Serialises a type by its stable string.
macro_rules! serialize_as_str {
    ($type:ty) => {
        impl Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }
    };
}

/// `TVpnConnectionState`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ConnectionState {
    /// No tunnel; a server that serves nobody.
    Disconnected,
    /// Reaching the server; a server that is being set up.
    Connecting,
    /// Connected at the transport, agreeing on keys.
    Handshaking,
    /// Packets flow; the server serves.
    Connected,
    /// The connection was lost and is being made anew.
    Reconnecting,
    /// Ended by a failure; `lastErrorCode` names it.
    Error,
}

/// How the host's resolvers were set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DnsMethod {
    /// systemd-resolved was told, over D-Bus.
    Resolved,
    /// The program `resolvconf` was told.
    Resolvconf,
    /// `/etc/resolv.conf` was rewritten.
    File,
    /// They were left alone.
    None,
}

impl From<ResolverMethod> for DnsMethod {
    fn from(method: ResolverMethod) -> Self {
        match method {
            ResolverMethod::Resolved => Self::Resolved,
            ResolverMethod::Resolvconf => Self::Resolvconf,
            ResolverMethod::File => Self::File,
        }
    }
}

/// The resolvers in force and how they were set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Dns {
    /// Set on this host by us.
    pub servers: Vec<IpAddr>,
    /// By which means.
    pub by: DnsMethod,
}

/// `IVpnStatus`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// What the engine is doing.
    pub state: ConnectionState,
    /// The tunnel address at this end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub assigned_ip: Option<Ipv4Addr>,
    /// The IPv6 tunnel address at this end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub assigned_ip6: Option<Ipv6Addr>,
    /// The server's address, or the one a server is bound to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_addr: Option<String>,
    /// Since when packets flow, or the server serves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connected_since: Option<String>,
    /// What failed last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// The stable code of what failed last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error_code: Option<ErrorCode>,
    /// Resolvers set on the host; clients only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns: Option<Dns>,
    /// Who decides which clients come in: `open`, `registered` or `callback`; servers only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth: Option<&'static str>,
}

impl Status {
    /// A status with a state and nothing else.
    pub const fn new(state: ConnectionState) -> Self {
        Self {
            state,
            assigned_ip: None,
            assigned_ip6: None,
            server_addr: None,
            connected_since: None,
            last_error: None,
            last_error_code: None,
            dns: None,
            auth: None,
        }
    }
}

serialize_as_str!(ErrorCode);

/// What `connect()` resolves to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Assigned {
    /// The client's tunnel address.
    pub assigned_ip: Ipv4Addr,
    /// Its IPv6 tunnel address, where the server has IPv6.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub assigned_ip6: Option<Ipv6Addr>,
}

/// `IVpnConnectionQuality`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct QualityReport {
    srtt_ms: f64,
    jitter_ms: f64,
    min_rtt_ms: f64,
    max_rtt_ms: f64,
    loss_ratio: f64,
    consecutive_timeouts: u32,
    link_health: &'static str,
    current_keepalive_interval_secs: f64,
}

impl From<&Quality> for QualityReport {
    fn from(quality: &Quality) -> Self {
        let ms = |duration: std::time::Duration| (duration.as_secs_f64() * 1e6).round() / 1e3;
        Self {
            srtt_ms: ms(quality.srtt),
            jitter_ms: ms(quality.jitter),
            min_rtt_ms: ms(quality.min_rtt),
            max_rtt_ms: ms(quality.max_rtt),
            loss_ratio: quality.loss_ratio,
            consecutive_timeouts: quality.consecutive_timeouts,
            link_health: quality.link_health.as_str(),
            current_keepalive_interval_secs: quality.keepalive_interval.as_secs_f64(),
        }
    }
}

/// `TVpnDrops` with its sums.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DropReport {
    packets_dropped: u64,
    bytes_dropped: u64,
    drops: BTreeMap<&'static str, BTreeMap<&'static str, Size>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
struct Size {
    packets: u64,
    bytes: u64,
}

impl From<&DropsSnapshot> for DropReport {
    fn from(snapshot: &DropsSnapshot) -> Self {
        let total = snapshot.total();
        let mut report =
            Self { packets_dropped: total.packets, bytes_dropped: total.bytes, drops: BTreeMap::new() };
        for (priority, reason, count) in snapshot.non_zero() {
            let reasons = report.drops.entry(priority.as_str()).or_default();
            reasons.insert(reason.as_str(), Size { packets: count.packets, bytes: count.bytes });
        }
        report
    }
}

/// `IVpnStatistics`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Statistics {
    /// Tunnelled IP bytes sent.
    pub bytes_sent: u64,
    /// Tunnelled IP bytes received.
    pub bytes_received: u64,
    /// Tunnelled IP packets sent.
    pub packets_sent: u64,
    /// Tunnelled IP packets received.
    pub packets_received: u64,
    /// Keepalives sent.
    pub keepalives_sent: u64,
    /// Keepalives received.
    pub keepalives_received: u64,
    /// Whole seconds since packets first flowed.
    pub uptime_seconds: u64,
    /// The link's quality while connected; clients only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quality: Option<QualityReport>,
    /// What was dropped and why.
    #[serde(flatten)]
    pub drops: DropReport,
}

impl Statistics {
    /// The public form of `traffic`, counted for `uptime_seconds`.
    pub fn new(traffic: &TrafficSnapshot, uptime_seconds: u64, quality: Option<QualityReport>) -> Self {
        Self {
            bytes_sent: traffic.bytes_sent,
            bytes_received: traffic.bytes_received,
            packets_sent: traffic.packets_sent,
            packets_received: traffic.packets_received,
            keepalives_sent: traffic.keepalives_sent,
            keepalives_received: traffic.keepalives_received,
            uptime_seconds,
            quality,
            drops: DropReport::from(&traffic.drops),
        }
    }
}

/// `IVpnServerStatistics`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServerStatistics {
    /// The sums over all clients, past ones included.
    #[serde(flatten)]
    pub statistics: Statistics,
    /// Sessions now.
    pub active_clients: usize,
    /// Sessions that were confirmed since the start.
    pub total_connections: u64,
}

/// `IVpnMtuInfo`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MtuInfo {
    /// The tunnel's MTU, which both ends agreed on.
    pub tun_mtu: u32,
    /// `link_mtu` less `overhead_bytes`.
    pub effective_mtu: u32,
    /// The MTU of the interface that leads to the server.
    pub link_mtu: u32,
    /// The nominal overhead of one packet.
    pub overhead_bytes: u32,
    /// Packets that were too big for the tunnel.
    pub oversized_packets_dropped: u64,
    /// ICMP messages that said so.
    pub icmp_too_big_sent: u64,
    /// What each layer adds to one packet of `tun_mtu` bytes that this end sends alone, from the wire
    /// inwards; absent while there is no connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers: Option<Vec<Layer>>,
}

/// One layer around a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Layer {
    /// `ip`, `tcp`, `tls`, `websocket`, `mask`, `frame`, `nonce` or `tag`.
    pub name: &'static str,
    /// What it adds, in bytes.
    pub bytes: usize,
}

/// Why a client's session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum DisconnectReason {
    /// The client left.
    ClientDisconnect,
    /// The operator ended it.
    Kicked,
    /// Its registration was removed.
    Removed,
    /// A newer connection of the same client took over.
    Replaced,
    /// It was idle for too long.
    IdleTimeout,
    /// The server stopped.
    ShuttingDown,
    /// The connection was cut.
    ConnectionLost,
    /// The client no longer answered.
    DeadPeer,
    /// The client broke the protocol.
    ProtocolError,
    /// Its registration expired.
    Expired,
}

/// `IVpnClientInfo`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientInfo {
    /// The counters and addresses.
    #[serde(flatten)]
    pub telemetry: ClientTelemetry,
    /// Since when the session is up.
    pub connected_since: String,
    /// The client's IPv6 tunnel address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub assigned_ip6: Option<Ipv6Addr>,
    /// Where the connection comes from or last came from, behind trusted proxies too; unknown of a client of an
    /// earlier process that has not come back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remote_addr: Option<String>,
    /// The client's own label.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// False while its connection is away and the session waits for it.
    pub online: bool,
}

/// `IVpnClientTelemetry`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientTelemetry {
    /// The session's id.
    pub client_id: String,
    /// The client's tunnel address.
    pub assigned_ip: Ipv4Addr,
    /// When its last keepalive came.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_keepalive_at: Option<String>,
    /// How many came.
    pub keepalives_received: u64,
    /// What the server received from it.
    pub bytes_received: u64,
    /// What the server sent to it.
    pub bytes_sent: u64,
    /// Its rate limit in each direction.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limit_bytes_per_sec: Option<u64>,
    /// How much of it may come at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub burst_bytes: Option<u64>,
    /// The link's quality as the server's own keepalives measure it; absent before the first check.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quality: Option<QualityReport>,
    /// What was dropped and why.
    #[serde(flatten)]
    pub drops: DropReport,
}
