//! The client's ends of the data path: TUN to queue, and session to TUN.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::engine::{Port, Route, clock};
use crate::packet::Ingress;
use crate::qos::PacketQueue;
use crate::telemetry::{DropReason, Priority, Quality, Traffic};
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
                self.traffic.drops().count(Priority::Normal, DropReason::NotConnected, packet.len());
            }
            return;
        }
        let mut producer = self.queue.producer(clock::now());
        for packet in packets {
            producer.push(packet);
        }
    }
}

/// From the session into the TUN.
pub(super) struct Downlink {
    pub(super) tun: Arc<Tun>,
    pub(super) traffic: Arc<Traffic>,
    pub(super) shared: Arc<Shared>,
    /// Lets pass what is for this host.
    ingress: Ingress,
    received: (u64, u64),
}

impl Downlink {
    pub(super) fn new(tun: Arc<Tun>, traffic: Arc<Traffic>, shared: Arc<Shared>, ingress: Ingress) -> Self {
        Self { tun, traffic, shared, ingress, received: (0, 0) }
    }

    fn take(&mut self, packet: &[u8]) -> Result<(), DropReason> {
        self.ingress.admit(packet)?;
        // The device refuses only while the interface is down, set so by somebody else.
        self.tun.write(packet).map_err(|_| DropReason::NoRoute)
    }
}

impl Port for Downlink {
    fn deliver(&mut self, packet: &mut [u8]) {
        match self.take(packet) {
            Ok(()) => self.received = (self.received.0 + 1, self.received.1 + packet.len() as u64),
            Err(reason) => self.traffic.drops().count(Priority::Normal, reason, packet.len()),
        }
    }

    fn delivered(&mut self) {
        let (packets, bytes) = std::mem::take(&mut self.received);
        self.traffic.add_received(packets, bytes);
    }

    fn round_trip(&mut self, quality: &Quality) {
        self.shared.round_trip(quality);
    }
}
