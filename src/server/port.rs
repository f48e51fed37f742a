//! The server's ends of the data path: TUN to the clients' queues, and a client's session to the
//! TUN or, where allowed, to another client.

use std::net::IpAddr;
use std::sync::Arc;
use std::task::Context;
use std::time::Instant;

use crate::engine::{Meter, Port, Route, clock};
use crate::packet::{Egress, Ingress, IpPacket, clamp_mss};
use crate::qos::{Batch, Producer};
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
                    hub.drop_packet(malformed.into(), packet);
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
                hub.drop_packet(DropReason::NoRoute, packet);
                continue;
            };
            let passed = egress.pass(packet, peer.mtu, |packet| producer.push(packet));
            if let Err(reason) = passed {
                producer.refuse(packet, reason);
                if reason == DropReason::TooBig {
                    let answer = |answer: &[u8]| hub.tun.write(answer).is_ok();
                    peer.answers.too_big(now, &peer.router, packet, peer.mtu, answer);
                }
            }
        }
    }
}

/// Bytes let go of at a time, of what a limit held back: the link's task has others to serve.
const RELEASE_BYTES: usize = 64 * 1024;

/// From a client's session.
///
/// A client under a rate limit may send faster than it: what exceeds the limit waits here, where flows
/// take turns and CoDel tells their senders to slow down. The socket is read all the while, so that
/// keepalives pass and what is small and steady is not stuck behind a backlog in the socket.
pub(super) struct Uplink {
    hub: Arc<Hub>,
    peer: Arc<Peer>,
    /// Lets pass what comes from the client's own addresses.
    ingress: Ingress,
    egress: Egress,
    received: (u64, u64),
    meter: Meter,
    /// Something may be in the queue of what is held back.
    is_holding: bool,
    batch: Batch,
}

impl Uplink {
    pub(super) fn new(hub: Arc<Hub>, peer: Arc<Peer>) -> Self {
        let ingress = Ingress::from_client(peer.mtu, peer.v4, peer.v6);
        let meter = Meter::new(Arc::clone(&peer.limits));
        let (egress, batch) = (Egress::default(), Batch::default());
        Self { hub, peer, ingress, egress, received: (0, 0), meter, is_holding: false, batch }
    }

    /// Passes an admitted packet on, or holds it back.
    fn take(&mut self, packet: &mut [u8]) -> Result<(), DropReason> {
        let to = self.ingress.admit(packet)?.dst();
        clamp_mss(packet, self.ingress.mtu());
        // What is held back already goes first, also once the limit is gone.
        if self.is_holding || self.meter.is_limited() {
            self.is_holding = true;
            self.peer.held.producer(clock::now()).push(packet);
            return Ok(());
        }
        self.pass(to, packet)
    }

    fn pass(&mut self, to: IpAddr, packet: &mut [u8]) -> Result<(), DropReason> {
        let passed = self.forward(to, packet);
        if passed.is_ok() {
            self.received = (self.received.0 + 1, self.received.1 + packet.len() as u64);
        }
        passed
    }

    fn forward(&mut self, to: IpAddr, packet: &mut [u8]) -> Result<(), DropReason> {
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
        let mut producer = other.queue.producer(now);
        if let Err(reason) = egress.pass(packet, other.mtu, |packet| producer.push(packet)) {
            producer.refuse(packet, reason);
            // Its lock is let go before the sender's is taken.
            drop(producer);
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
        if let Err(reason) = self.take(packet) {
            self.peer.drop_packet(reason, packet);
        }
    }

    fn release(&mut self, cx: &mut Context<'_>, now: Instant) -> Option<Instant> {
        if !self.is_holding {
            return None;
        }
        let held = Arc::clone(&self.peer.held);
        loop {
            let allowance = self.meter.allowance(now, RELEASE_BYTES);
            // Woken by a packet that is held back, or by another limit.
            let drained = held.poll_drain(cx, now, &mut self.batch, allowance);
            if drained.is_pending() || self.batch.is_empty() {
                self.delivered();
                self.is_holding = !held.is_empty();
                return self.batch.short_of().map(|length| self.meter.ready_at(now, length));
            }
            self.meter.take(now, self.batch.len_bytes());
            let mut batch = std::mem::take(&mut self.batch);
            for packet in batch.iter_mut() {
                // It was whole when it was admitted.
                let Ok(to) = IpPacket::parse(packet).map(|packet| packet.dst()) else { continue };
                if let Err(reason) = self.pass(to, packet) {
                    self.peer.drop_packet(reason, packet);
                }
            }
            self.batch = batch;
        }
    }

    fn delivered(&mut self) {
        let (packets, bytes) = std::mem::take(&mut self.received);
        self.peer.traffic.add_received(packets, bytes);
    }

    fn round_trip(&mut self, quality: &Quality) {
        self.peer.checked(quality);
    }

    fn timed_out(&mut self, quality: &Quality) {
        self.peer.checked(quality);
    }

    fn keepalive_came(&mut self) {
        self.peer.keepalive_came();
    }
}

#[cfg(test)]
mod tests;
