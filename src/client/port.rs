//! The client's ends of the data path: TUN to queue, and session to TUN.

use std::sync::{Arc, Mutex, PoisonError};

use crate::engine::{Port, Route, clock};
use crate::packet::{Answers, Egress, Ingress, Router, clamp_mss, count_drop};
use crate::qos::PacketQueue;
use crate::telemetry::{DropReason, Quality, Traffic};
use crate::tunnel::Tun;

use super::shared::Shared;

/// From the TUN into the session's queue.
pub(super) struct Uplink {
    tun: Arc<Tun>,
    queue: Arc<PacketQueue>,
    gate: Arc<Gate>,
    egress: Egress,
}

impl Uplink {
    pub(super) fn new(tun: Arc<Tun>, queue: Arc<PacketQueue>, gate: Arc<Gate>) -> Self {
        Self { tun, queue, gate, egress: Egress::default() }
    }
}

impl Route for Uplink {
    fn route<'a>(&mut self, packets: impl Iterator<Item = &'a mut [u8]>) {
        let Self { tun, queue, gate, egress } = self;
        let now = clock::now();
        let way = gate.way();
        let mut producer = queue.producer(now);
        let Some(Way { mtu, router }) = way else {
            return packets.for_each(|packet| producer.refuse(packet, DropReason::NotConnected));
        };
        for packet in packets {
            if let Err(reason) = egress.pass(packet, mtu, |packet| producer.push(packet)) {
                producer.refuse(packet, reason);
                if reason == DropReason::TooBig {
                    let answer = |answer: &[u8]| tun.write(answer).is_ok();
                    gate.answers.too_big(now, &router, packet, mtu, answer);
                }
            }
        }
    }
}

/// Whether and how packets pass from the TUN into the queue: asked once a batch, set once a connection.
pub(super) struct Gate {
    /// Absent while there is no session: packets are then dropped, not kept for a late burst.
    way: Mutex<Option<Way>>,
    pub(super) answers: Answers,
}

/// What the session that packets go to permits.
#[derive(Clone, Copy)]
pub(super) struct Way {
    /// The tunnel's MTU.
    pub(super) mtu: u16,
    /// Who says that a packet is longer: the server, as the next hop.
    pub(super) router: Router,
}

impl Gate {
    /// A gate that is shut.
    pub(super) fn new() -> Self {
        Self { way: Mutex::new(None), answers: Answers::new(clock::now()) }
    }

    pub(super) fn set(&self, way: Option<Way>) {
        *self.way.lock().unwrap_or_else(PoisonError::into_inner) = way;
    }

    fn way(&self) -> Option<Way> {
        *self.way.lock().unwrap_or_else(PoisonError::into_inner)
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

    fn take(&mut self, packet: &mut [u8]) -> Result<(), DropReason> {
        self.ingress.admit(packet)?;
        clamp_mss(packet, self.ingress.mtu());
        // The device refuses only while the interface is down, set so by somebody else.
        self.tun.write(packet).map_err(|_| DropReason::NoRoute)
    }
}

impl Port for Downlink {
    fn deliver(&mut self, packet: &mut [u8]) {
        match self.take(packet) {
            Ok(()) => self.received = (self.received.0 + 1, self.received.1 + packet.len() as u64),
            Err(reason) => count_drop(self.traffic.drops(), reason, packet),
        }
    }

    fn delivered(&mut self) {
        let (packets, bytes) = std::mem::take(&mut self.received);
        self.traffic.add_received(packets, bytes);
    }

    fn round_trip(&mut self, quality: &Quality) {
        self.shared.round_trip(quality);
    }

    fn timed_out(&mut self, quality: &Quality) {
        self.shared.timed_out(quality);
    }
}

#[cfg(test)]
mod tests;
