//! The client's ends of the data path: TUN to queue, and session to TUN.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::engine::{Port, Route};
use crate::packet::{Destination, IpPacket};
use crate::qos::PacketQueue;
use crate::session::Session;
use crate::telemetry::{DropReason, Priority, Traffic};
use crate::tunnel::Tun;

use super::shared::Shared;

/// From the TUN into the session's queue.
pub(super) struct Uplink {
    pub(super) queue: Arc<PacketQueue>,
    pub(super) traffic: Arc<Traffic>,
    /// False while there is no session: packets are then dropped, not kept for a late burst.
    pub(super) online: Arc<AtomicBool>,
}

impl Route for Uplink {
    fn route<'a>(&mut self, packets: impl Iterator<Item = &'a [u8]>) {
        if !self.online.load(Ordering::Relaxed) {
            for packet in packets {
                self.traffic.drops.add(Priority::Normal, DropReason::NotConnected, packet.len());
            }
            return;
        }
        let mut producer = self.queue.producer();
        for packet in packets {
            if producer.push(packet).is_err() {
                self.traffic.drops.add(Priority::Normal, DropReason::QueueFull, packet.len());
            }
        }
    }
}

/// From the session into the TUN.
pub(super) struct Downlink {
    pub(super) tun: Arc<Tun>,
    pub(super) traffic: Arc<Traffic>,
    pub(super) shared: Arc<Shared>,
    pub(super) destination: Destination,
    received: (u64, u64),
}

impl Downlink {
    pub(super) fn new(
        tun: Arc<Tun>,
        traffic: Arc<Traffic>,
        shared: Arc<Shared>,
        v4: (Ipv4Addr, u8),
        v6: Option<Ipv6Addr>,
        mtu: u16,
    ) -> Self {
        let destination = Destination::new(v4.0, v4.1, v6, mtu);
        Self { tun, traffic, shared, destination, received: (0, 0) }
    }

    fn take(&mut self, packet: &[u8]) -> Result<(), DropReason> {
        let parsed = IpPacket::parse(packet).map_err(|_| DropReason::Malformed)?;
        self.destination.check(&parsed)?;
        // The device refuses only while the interface is down, set so by somebody else.
        self.tun.write(packet).map_err(|_| DropReason::NoRoute)
    }
}

impl Port for Downlink {
    fn deliver(&mut self, packet: &mut [u8]) {
        match self.take(packet) {
            Ok(()) => self.received = (self.received.0 + 1, self.received.1 + packet.len() as u64),
            Err(reason) => self.traffic.drops.add(Priority::Normal, reason, packet.len()),
        }
    }

    fn delivered(&mut self) {
        let (packets, bytes) = std::mem::take(&mut self.received);
        self.traffic.add_received(packets, bytes);
    }

    fn observe(&mut self, session: &Session, round_trip: bool) {
        self.shared.observe(session, round_trip);
    }
}
