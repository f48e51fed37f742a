//! The server's ends of the data path: TUN to the clients' queues, and a client's session to the
//! TUN or, where allowed, to another client.

use std::net::IpAddr;
use std::sync::Arc;

use crate::engine::{Port, Route, clock};
use crate::packet::{Egress, Ingress, IpPacket, clamp_mss};
use crate::qos::Producer;
use crate::telemetry::{DropReason, Quality};

use super::hub::Hub;
use super::peer::Peer;

/// From the TUN to the client that has the destination address.
pub(super) struct Downlink {
    hub: Arc<Hub>,
    egress: Egress,
}

impl Downlink {
    pub(super) fn new(hub: Arc<Hub>) -> Self {
        Self { hub, egress: Egress::default() }
    }
}

impl Route for Downlink {
    fn route<'a>(&mut self, packets: impl Iterator<Item = &'a mut [u8]>) {
        let Self { hub, egress } = self;
        let now = clock::now();
        let table = hub.table();
        let mut current: Option<(IpAddr, &Peer, Producer<'_>)> = None;
        for packet in packets {
            let to = match IpPacket::parse_start(packet) {
                Ok(packet) => packet.dst(),
                Err(malformed) => {
                    hub.drop_packet(malformed.into(), packet.len());
                    continue;
                }
            };
            // Packets that follow each other mostly go to the same client: its lock is kept.
            if current.as_ref().is_none_or(|(addr, ..)| *addr != to) {
                // Its lock is let go before the next one is taken.
                drop(current.take());
                current = table.by_address(to).map(|peer| (to, peer, peer.queue.producer(now)));
            }
            let Some((_, peer, producer)) = &mut current else {
                hub.drop_packet(DropReason::NoRoute, packet.len());
                continue;
            };
            let passed = egress.pass(packet, peer.mtu, |packet| producer.push(packet));
            if let Err(reason) = passed {
                peer.drop_packet(reason, packet.len());
                if reason == DropReason::TooBig {
                    let answer = |answer: &[u8]| hub.tun.write(answer).is_ok();
                    peer.answers.too_big(now, &peer.router, packet, peer.mtu, answer);
                }
            }
        }
    }
}

/// Queues a packet for a client, or counts it among those that it lost.
/// From a client's session.
pub(super) struct Uplink {
    hub: Arc<Hub>,
    peer: Arc<Peer>,
    /// Lets pass what comes from the client's own addresses.
    ingress: Ingress,
    egress: Egress,
    received: (u64, u64),
}

impl Uplink {
    pub(super) fn new(hub: Arc<Hub>, peer: Arc<Peer>) -> Self {
        let ingress = Ingress::from_client(peer.mtu, peer.v4, peer.v6);
        Self { hub, peer, ingress, egress: Egress::default(), received: (0, 0) }
    }

    fn take(&mut self, packet: &mut [u8]) -> Result<(), DropReason> {
        let to = self.ingress.admit(packet)?.dst();
        clamp_mss(packet, self.ingress.mtu());
        if self.hub.is_client_net(to) {
            return self.pass_to_client(to, packet);
        }
        // The device refuses only while the interface is down, set so by somebody else.
        self.hub.tun.write(packet).map_err(|_| DropReason::NoRoute)
    }

    /// Straight to the other client: the kernel need not forward for it.
    fn pass_to_client(&mut self, to: IpAddr, packet: &mut [u8]) -> Result<(), DropReason> {
        let Self { hub, peer, egress, .. } = self;
        if !hub.client_to_client {
            return Err(DropReason::ClientToClient);
        }
        let table = hub.table();
        let other = table.by_address(to).ok_or(DropReason::NoRoute)?;
        // The packet came whole from this client: what becomes of it now is the other's.
        let now = clock::now();
        let passed = {
            let mut producer = other.queue.producer(now);
            egress.pass(packet, other.mtu, |packet| producer.push(packet))
        };
        if let Err(reason) = passed {
            other.drop_packet(reason, packet.len());
            if reason == DropReason::TooBig {
                let answer = |answer: &[u8]| {
                    peer.queue.producer(now).push(answer);
                    true
                };
                peer.answers.too_big(now, &hub.router, packet, other.mtu, answer);
            }
        }
        Ok(())
    }
}

impl Port for Uplink {
    fn deliver(&mut self, packet: &mut [u8]) {
        match self.take(packet) {
            Ok(()) => self.received = (self.received.0 + 1, self.received.1 + packet.len() as u64),
            Err(reason) => self.peer.drop_packet(reason, packet.len()),
        }
    }

    fn delivered(&mut self) {
        let (packets, bytes) = std::mem::take(&mut self.received);
        self.peer.traffic.add_received(packets, bytes);
    }

    fn round_trip(&mut self, _quality: &Quality) {}

    fn keepalive_came(&mut self) {
        self.peer.keepalive_came();
    }
}
