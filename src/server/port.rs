//! The server's ends of the data path: TUN to the clients' queues, and a client's session to the
//! TUN or, where allowed, to another client.

use std::net::IpAddr;
use std::sync::Arc;
use std::task::Context;
use std::time::Instant;

use crate::engine::{Meter, Port, Route, clock};
use crate::packet::{Egress, Ingress, IpPacket, Offload, Record, Unreachable, clamp_record, quoted};
use crate::qos::{Batch, Producer};
use crate::telemetry::{DropReason, Quality, Size};
use crate::tunnel::{Tun, TunWriter};

use super::hub::Hub;
use super::peer::Peer;
use super::table::Table;

/// From the TUN to the client that has the destination address.
pub(super) struct Downlink {
    hub: Arc<Hub>,
    /// What answers go into.
    tun: Arc<Tun>,
    egress: Egress,
}

impl Downlink {
    pub(super) fn new(hub: Arc<Hub>, tun: Arc<Tun>) -> Self {
        Self { hub, tun, egress: Egress::default() }
    }
}

impl Route for Downlink {
    fn route<'a>(&mut self, records: impl Iterator<Item = Record<'a>>) {
        let Self { hub, tun, egress } = self;
        let now = clock::now();
        let table = hub.table();
        let mut current: Option<(IpAddr, &Peer, Producer<'_>)> = None;
        let quiet = hub.is_closing().then_some(&hub.quiet);
        for mut record in records {
            if let Some(quiet) = quiet {
                quiet.packet_came(now, record.packet);
            }
            let to = match IpPacket::parse_start(record.packet) {
                Ok(packet) => packet.dst(),
                Err(malformed) => {
                    hub.drop_packet(malformed.into(), record.packet, record.offload);
                    continue;
                }
            };
            // Packets that follow each other mostly go to the same client: its lock is kept.
            if current.as_ref().is_none_or(|(addr, ..)| *addr != to) {
                // Its lock is let go before the next one is taken.
                if let Some((_, peer, producer)) = current.take() {
                    finish(hub, &table, tun, now, peer, producer);
                }
                current = table.by_address(to).map(|peer| (to, peer, peer.queue.producer(now)));
            }
            let Some((_, peer, producer)) = &mut current else {
                hub.drop_packet(DropReason::NoRoute, record.packet, record.offload);
                continue;
            };
            let passed =
                egress.pass(&mut record, peer.intake, |packet, offload| producer.push(packet, offload));
            if let Err(reason) = passed {
                producer.refuse(record.packet, record.offload, reason);
                if reason == DropReason::TooBig {
                    let answer = |answer: &[u8]| tun.write(answer, Offload::NONE).is_ok();
                    let mut room = Vec::new();
                    let quoted = quoted(&mut record, &mut room);
                    peer.answers.too_big(now, &peer.router, quoted, peer.intake.mtu, answer);
                }
            }
        }
        if let Some((_, peer, producer)) = current {
            finish(hub, &table, tun, now, peer, producer);
        }
    }
}

/// Lets go of a client's queue, and tells the senders of what it lost for want of a connection.
fn finish(hub: &Hub, table: &Table, tun: &Tun, now: Instant, peer: &Peer, mut producer: Producer<'_>) {
    let lost = producer.take_unreachable();
    drop(producer);
    tell_unreachable(hub, table, tun, now, peer, &lost);
}

/// Tells the senders of segments that were lost, as the client `peer` has no connection: this host and those
/// beyond it, or other clients. No queue's lock is held.
pub(super) fn tell_unreachable(
    hub: &Hub,
    table: &Table,
    tun: &Tun,
    now: Instant,
    peer: &Peer,
    lost: &Unreachable,
) {
    for segment in lost.iter() {
        let Ok(sender) = IpPacket::parse_start(segment).map(|packet| packet.src()) else { continue };
        if !hub.is_client_net(sender) {
            peer.answers.unreachable(now, &peer.router, segment, |answer| {
                // An interface that is down leads to no senders.
                drop(tun.write(answer, Offload::NONE));
            });
        } else if let Some(sender) = table.by_address(sender) {
            peer.answers.unreachable(now, &hub.router, segment, |answer| {
                sender.queue.producer(now).push(answer, Offload::NONE);
            });
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
    writer: TunWriter,
    received: Size,
    meter: Meter,
    /// Something may be in the queue of what is held back.
    is_holding: bool,
    batch: Batch,
}

impl Uplink {
    /// Writes into `tun`, a queue of the hub's.
    pub(super) fn new(hub: Arc<Hub>, peer: Arc<Peer>, tun: Arc<Tun>) -> Self {
        let ingress = Ingress::from_client(peer.intake.mtu, peer.v4, peer.v6);
        let meter = Meter::new(Arc::clone(&peer.limits));
        let (egress, batch) = (Egress::default(), Batch::default());
        let writer = TunWriter::new(tun);
        Self { hub, peer, ingress, egress, writer, received: Size::ZERO, meter, is_holding: false, batch }
    }

    /// Passes an admitted packet on.
    fn pass(&mut self, to: IpAddr, record: Record<'_>) {
        if self.hub.is_client_net(to) {
            return self.pass_to_client(to, record);
        }
        let Self { peer, writer, received, .. } = self;
        writer.push(record, &mut written(received, peer));
    }

    /// Straight to the other client: the kernel need not forward for it.
    fn pass_to_client(&mut self, to: IpAddr, mut record: Record<'_>) {
        let Self { hub, peer, egress, writer, received, .. } = self;
        let size = record.offload.size(record.packet.len());
        if !hub.client_to_client {
            return peer.drop_packet(DropReason::ClientToClient, record.packet, record.offload);
        }
        let table = hub.table();
        let Some(other) = table.by_address(to) else {
            return peer.drop_packet(DropReason::NoRoute, record.packet, record.offload);
        };
        // The packet came whole from this client: what becomes of it now is the other's.
        *received += size;
        let now = clock::now();
        let mut producer = other.queue.producer(now);
        let passed = egress.pass(&mut record, other.intake, |packet, offload| producer.push(packet, offload));
        if let Err(reason) = passed {
            producer.refuse(record.packet, record.offload, reason);
        }
        // Its lock is let go before the sender's is taken.
        finish(hub, &table, writer.tun(), now, other, producer);
        if passed == Err(DropReason::TooBig) {
            let answer = |answer: &[u8]| {
                peer.queue.producer(now).push(answer, Offload::NONE);
                true
            };
            let mut room = Vec::new();
            let quoted = quoted(&mut record, &mut room);
            peer.answers.too_big(now, &hub.router, quoted, other.intake.mtu, answer);
        }
    }
}

/// Counts what became of a packet at the TUN.
fn written(received: &mut Size, peer: &Peer) -> impl FnMut(&[u8], Offload, std::io::Result<()>) {
    |packet, offload, outcome| match outcome {
        Ok(()) => *received += offload.size(packet.len()),
        // The device refuses only while the interface is down, set so by somebody else.
        Err(_) => peer.drop_packet(DropReason::NoRoute, packet, offload),
    }
}

impl Port for Uplink {
    fn deliver(&mut self, mut record: Record<'_>) {
        let to = match self.ingress.admit(&record) {
            Ok(packet) => packet.dst(),
            Err(reason) => return self.peer.drop_packet(reason, record.packet, record.offload),
        };
        clamp_record(&mut record, self.ingress.mtu());
        // What is held back already goes first, also once the limit is gone.
        if self.is_holding || self.meter.is_limited() {
            self.is_holding = true;
            self.peer.held.producer(clock::now()).push(record.packet, record.offload);
        } else {
            self.pass(to, record);
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
            for record in batch.iter_mut() {
                // It was whole when it was admitted.
                let Ok(to) = IpPacket::parse(record.packet).map(|packet| packet.dst()) else { continue };
                self.pass(to, record);
            }
            self.batch = batch;
        }
    }

    fn delivered(&mut self) {
        let Self { peer, writer, received, .. } = self;
        writer.flush(&mut written(received, peer));
        peer.traffic.add_received(std::mem::take(received));
    }

    fn rest(&mut self) {
        self.writer.shrink();
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
