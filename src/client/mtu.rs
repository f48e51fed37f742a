//! The figures of `getMtuInfo()`, as they are when it is called.

use std::net::IpAddr;
use std::sync::Arc;

use super::port::Gate;
use crate::codec::frame::HEADER_LEN;
use crate::crypto::seal::{FULL_NONCE_LEN, TAG_LEN};
use crate::network::Netlink;
use crate::report::{Layer, MtuInfo};
use crate::telemetry::{DropReason, Priority, Traffic};
use crate::transport::Wire;

/// Nominal overhead of one packet (API §6): IP 20, TCP with timestamps 32, WebSocket 6, frame 5, tag 16.
const NOMINAL_OVERHEAD: u32 = 79;

/// Assumed while the host has no way to the server: Ethernet's.
const ETHERNET_MTU: u32 = 1500;

/// Where the figures of one session are.
#[derive(Clone)]
pub(super) struct MtuFacts {
    pub(super) netlink: Arc<Netlink>,
    pub(super) remote: IpAddr,
    /// What both ends agreed on.
    pub(super) tun_mtu: u16,
    /// Absent if the system could not give a second descriptor of the socket.
    pub(super) wire: Option<Arc<Wire>>,
    pub(super) gate: Arc<Gate>,
    pub(super) traffic: Arc<Traffic>,
}

impl MtuFacts {
    /// Asks the kernel, which answers at once.
    pub(super) fn info(&self) -> MtuInfo {
        let link_mtu = self.netlink.route_to(self.remote).map_or(ETHERNET_MTU, |way| way.mtu);
        let drops = self.traffic.snapshot().drops;
        let too_big = |priority: &Priority| drops.get(*priority, DropReason::TooBig).packets;
        MtuInfo {
            tun_mtu: self.tun_mtu.into(),
            effective_mtu: link_mtu.saturating_sub(NOMINAL_OVERHEAD),
            link_mtu,
            overhead_bytes: NOMINAL_OVERHEAD,
            oversized_packets_dropped: Priority::ALL.iter().map(too_big).sum(),
            icmp_too_big_sent: self.gate.answers.sent(),
            layers: self.layers(),
        }
    }

    fn layers(&self) -> Option<Vec<Layer>> {
        let message = usize::from(self.tun_mtu) + FULL_NONCE_LEN + TAG_LEN + HEADER_LEN;
        let cost = self.wire.as_ref()?.message_cost(message)?;
        let layers = [
            ("ip", cost.ip),
            ("tcp", cost.tcp),
            ("tls", cost.tls),
            ("websocket", cost.websocket),
            ("mask", cost.mask),
            ("frame", HEADER_LEN),
            ("nonce", FULL_NONCE_LEN),
            ("tag", TAG_LEN),
        ];
        Some(
            layers
                .into_iter()
                .filter(|(_, bytes)| *bytes > 0)
                .map(|(name, bytes)| Layer { name, bytes })
                .collect(),
        )
    }
}
