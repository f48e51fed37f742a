//! The packets of a town, each with its number, and the queues they wait in.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::RngExt as _;
use rand::rngs::StdRng;
use smartvpn::packet::Offload;
use smartvpn::qos::{Allowance, Batch, FlowHasher, PacketQueue};
use smartvpn::session::{Session, SessionError};
use smartvpn::telemetry::{DropReason, Traffic};

use crate::ends::Side;
use crate::wire::Wire;

/// What waits for a connection for longer is given up (API §6).
const STALE: Duration = Duration::from_secs(2);

/// How often what waits is looked at.
const AGING: Duration = Duration::from_millis(500);

/// Where the number stands.
const NUMBER: usize = 28;

/// The server's own network.
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

#[derive(Debug)]
struct Packet {
    bytes: Vec<u8>,
    /// Which client sends or is to have it.
    resident: usize,
    way: Side,
    flow: u16,
    /// By the clock of the host that it waits at.
    queued: Instant,
    delivered: bool,
}

/// All packets there ever were.
#[derive(Debug, Default)]
pub(crate) struct Post {
    packets: Vec<Packet>,
    /// The last one of a flow that came out of a connection.
    last: HashMap<(u64, usize, Side, u16), u64>,
    pub(crate) delivered: usize,
    /// Devices that share the key of another, which all packets of both are of.
    pub(crate) twins: HashMap<usize, usize>,
}

impl Post {
    /// A packet of a client's, which has this address: from it, or from elsewhere to it.
    pub(crate) fn write(
        &mut self,
        now: Instant,
        (way, resident, address): (Side, usize, Ipv4Addr),
        rng: &mut StdRng,
    ) -> Vec<u8> {
        let flow = rng.random_range(0..3);
        let length: u16 = if rng.random_bool(0.1) { 1_400 } else { rng.random_range(36..200) };
        let (from, to) = if way == Side::Client { (address, ELSEWHERE) } else { (ELSEWHERE, address) };
        let mut bytes = vec![0; usize::from(length)];
        bytes[0] = 0x45;
        bytes[2..4].copy_from_slice(&length.to_be_bytes());
        (bytes[8], bytes[9]) = (64, 17);
        bytes[12..16].copy_from_slice(&from.octets());
        bytes[16..20].copy_from_slice(&to.octets());
        bytes[20..22].copy_from_slice(&(10_000_u16 + flow).to_be_bytes());
        bytes[22..24].copy_from_slice(&9_000_u16.to_be_bytes());
        bytes[24..26].copy_from_slice(&(length - 20).to_be_bytes());
        bytes[NUMBER..NUMBER + 8].copy_from_slice(&(self.packets.len() as u64).to_be_bytes());
        let resident = self.owner(resident);
        let packet = Packet { bytes, resident, way, flow, queued: now, delivered: false };
        self.packets.push(packet);
        self.packets[self.packets.len() - 1].bytes.clone()
    }

    /// Whose a device is.
    pub(crate) fn owner(&self, resident: usize) -> usize {
        self.twins.get(&resident).copied().unwrap_or(resident)
    }

    /// What came out of a connection is what went in, in that order; and nothing comes twice.
    pub(crate) fn deliver(&mut self, wire: &mut Wire, from: Side, bytes: &[u8]) {
        let number = number(bytes);
        let owner = wire.resident.map(|resident| self.owner(resident));
        let sealed = wire.pipe(from).sealed.pop_front();
        assert_eq!(sealed, Some(number), "not the next packet");
        let packet = &mut self.packets[usize::try_from(number).unwrap()];
        assert!(!std::mem::replace(&mut packet.delivered, true), "packet {number} came twice");
        assert_eq!(packet.bytes, bytes, "packet {number} was altered");
        assert_eq!((Some(packet.resident), packet.way), (owner, from), "packet {number} went astray");
        let flow = (wire.id, packet.resident, from, packet.flow);
        let before = self.last.insert(flow, number);
        assert!(before.is_none_or(|before| before < number), "a flow was reordered");
        self.delivered += 1;
    }
}

fn number(packet: &[u8]) -> u64 {
    u64::from_be_bytes(packet[NUMBER..NUMBER + 8].try_into().unwrap())
}

/// The source of a packet.
pub(crate) fn source(packet: &[u8]) -> Ipv4Addr {
    <[u8; 4]>::try_from(&packet[12..16]).unwrap().into()
}

fn queue(rng: &mut StdRng) -> PacketQueue {
    PacketQueue::new(Arc::<Traffic>::default(), FlowHasher::new(rng))
}

/// A queue, which may be held for want of a connection.
pub(crate) struct Mailbox {
    queue: PacketQueue,
    batch: Batch,
    held: Option<Instant>,
    aged: Option<Instant>,
    /// Times without a connection that are over.
    holds: Vec<(Instant, Instant)>,
}

impl Mailbox {
    pub(crate) fn new(rng: &mut StdRng) -> Self {
        Self { queue: queue(rng), batch: Batch::new(16), held: None, aged: None, holds: Vec::new() }
    }

    pub(crate) fn push(&self, now: Instant, packet: &[u8]) {
        self.queue.producer(now).push(packet, Offload::NONE);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(crate) fn is_held(&self) -> bool {
        self.held.is_some()
    }

    pub(crate) fn hold(&mut self, now: Instant) {
        self.queue.hold(now);
        self.held.get_or_insert(now);
    }

    pub(crate) fn release(&mut self, now: Instant) {
        self.queue.release(now);
        self.holds.extend(self.held.take().map(|since| (since, now)));
    }

    pub(crate) fn age(&mut self, now: Instant) {
        if self.aged.is_none_or(|aged| now >= aged + AGING) {
            self.aged = Some(now);
            self.queue.age(now);
        }
    }

    pub(crate) fn discard(&self, reason: DropReason) {
        self.queue.discard(reason);
    }

    /// Seals a batch of what waits into `out`; false if nothing does.
    pub(crate) fn drain(
        &mut self,
        now: Instant,
        post: &Post,
        (session, wire, from): (&mut Session, &mut Wire, Side),
        out: &mut Vec<u8>,
    ) -> Result<bool, SessionError> {
        assert!(self.held.is_none(), "nothing leaves without a connection");
        let count = self.queue.drain_into(now, &mut self.batch, Allowance::unlimited(16 * 1024));
        for (packet, _) in self.batch.iter() {
            let number = number(packet);
            let queued = post.packets[usize::try_from(number).unwrap()].queued;
            for (since, until) in &self.holds {
                let waited = until.saturating_duration_since(queued.max(*since));
                assert!(waited <= STALE, "packet {number} waited {waited:?} for a connection");
            }
            wire.pipe(from).sealed.push_back(number);
        }
        if count > 0 {
            session.seal_packets(now, self.batch.iter(), out)?;
        }
        Ok(count > 0)
    }

    /// The queue keeps within its bounds.
    pub(crate) fn check(&self) {
        let (held, limit) = (self.queue.held_bytes(), self.queue.limit_bytes());
        assert!(held <= limit && self.queue.len_bytes() <= held, "{held} bytes of {limit}");
    }
}
