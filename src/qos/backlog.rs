//! What waits in one session's queue: packets in the queues of their flows, flows in the rounds of their
//! classes.
//!
//! ```text
//!  push ──▶ flow ◀── found by its keyed hash          drain
//!            │                                          ▲
//!            ├─ high    new ▸ ▸ ▸   old ▸ ▸ ▸ ▸ ─ round ─┤ first
//!            ├─ normal  new ▸ ▸     old ▸ ▸ ▸ ─── round ─┤ next, and at least an eighth
//!            └─ low     new ▸       old ▸ ▸ ───── round ─┘ last, and at least an eighth
//! ```
//!
//! A flow is in one class at a time, that of the lowest packet it has waiting, and moves as a whole: so
//! its packets leave in the order they came, whatever their classes. A flow that becomes low takes
//! what it has waiting with it, and one with a backlog has no packet overtake it for being small.
//!
//! How much may wait is `room`'s business, what leaves next is `drain`'s.

use std::sync::Arc;

use super::buffers::{FreeBuffers, capacity_for};
use super::codel::Limits;
use super::flow_queues::{Flows, List, Rank};
use super::hold::Hold;
use super::pace::Pace;
use super::packets::{Packets, Waiting};
use super::room::{HighExcess, QUEUE_PACKETS};
use crate::packet::{Offload, Split, split_front};
use crate::telemetry::{DropReason, Priority, Size, Traffic};

const CLASSES: usize = Priority::ALL.len();

/// Packets, flows, classes and buffers of one queue. Times are nanoseconds since its zero.
#[derive(Debug)]
pub(super) struct Backlog {
    pub(super) packets: Packets,
    pub(super) flows: Flows,
    pub(super) classes: [Class; CLASSES],
    pub(super) limits: Limits,
    pub(super) free: FreeBuffers,
    /// Capacities of the buffers that the consumer has.
    pub(super) lent: usize,
    pub(super) high_excess: HighExcess,
    pub(super) pace: Pace,
    /// What may be held beyond `QUEUE_BYTES`, by that pace.
    pub(super) extra: usize,
    pub(super) hold: Hold,
    /// Where the search for the fattest flow goes on.
    pub(super) cursor: u16,
    traffic: Arc<Traffic>,
    /// Something was pushed since the last trim.
    used: bool,
}

/// One class.
#[derive(Debug, Default)]
pub(super) struct Class {
    new: List,
    old: List,
    /// How many packets wait.
    pub(super) packets: usize,
    /// Their lengths.
    pub(super) bytes: usize,
    /// Capacities of their buffers.
    pub(super) occupied: usize,
    /// What the class is owed of its guaranteed share; see `drain`.
    pub(super) credit: i64,
    /// The fattest flow of the last search.
    pub(super) fattest: u16,
}

impl Class {
    pub(super) fn list(&mut self, rank: Rank) -> &mut List {
        match rank {
            Rank::New => &mut self.new,
            Rank::Old | Rank::None => &mut self.old,
        }
    }

    /// The flow whose turn it is.
    pub(super) fn first(&self) -> Option<u16> {
        self.new.first().or_else(|| self.old.first())
    }

    pub(super) fn has_old(&self) -> bool {
        self.old.first().is_some()
    }
}

impl Backlog {
    pub(super) fn new(traffic: Arc<Traffic>) -> Self {
        Self {
            packets: Packets::default(),
            flows: Flows::default(),
            classes: Default::default(),
            limits: Limits::default(),
            free: FreeBuffers::default(),
            lent: 0,
            high_excess: HighExcess::default(),
            pace: Pace::default(),
            extra: 0,
            hold: Hold::default(),
            cursor: 0,
            traffic,
            used: false,
        }
    }

    /// Queues a copy of a packet. What has no room, this packet or others that give way, is dropped and
    /// counted.
    pub(super) fn push(
        &mut self,
        now: u64,
        (hash, priority): (u64, Priority),
        packet: &[u8],
        offload: Offload,
    ) {
        let Some(capacity) = capacity_for(packet.len()) else {
            return self.refuse(priority, packet, offload, DropReason::TooBig);
        };
        self.used = true;
        self.age(now);
        self.follow_pace(now);
        self.relieve_high(now);
        let priority = self.join(hash, priority);
        if !self.make_room(priority, capacity) {
            return self.refuse(priority, packet, offload, DropReason::QueueFull);
        }
        // Who gave way may have been this flow, and the last of its class.
        let Some(flow) = self.flows.find(hash).or_else(|| self.open(hash, priority)) else {
            return self.refuse(priority, packet, offload, DropReason::QueueFull);
        };
        let mut buffer = self.buffer(capacity);
        buffer.extend_from_slice(packet);
        self.append(flow, Waiting { buffer, offload, arrived: now, ..Waiting::default() });
        self.watch_high(now);
    }

    /// Drops a packet that is not queued.
    pub(super) fn refuse(&mut self, priority: Priority, packet: &[u8], offload: Offload, reason: DropReason) {
        self.count(priority, reason, offload.size(packet.len()));
        self.hold.note(reason, packet, offload);
    }

    /// Drops everything.
    pub(super) fn discard(&mut self, reason: DropReason) {
        for priority in Priority::ALL {
            while let Some(flow) = self.classes[priority as usize].first() {
                while self.flows[flow].packets > 0 {
                    self.drop_head(flow, reason);
                }
                // The last packet of a class takes the flows with it.
                if self.classes[priority as usize].first() == Some(flow) {
                    self.close(flow);
                }
            }
        }
    }

    /// Frees what was not needed since the last call.
    pub(super) fn trim(&mut self) {
        if !std::mem::take(&mut self.used) && self.packets.len() == 0 {
            (self.packets, self.flows) = (Packets::default(), Flows::default());
        }
        self.free.trim();
    }

    /// Lengths of the packets that wait, a super-packet's as that of its segments.
    pub(super) fn bytes(&self) -> usize {
        self.classes.iter().map(|class| class.bytes).sum()
    }

    /// Capacities of the buffers of the packets that wait.
    pub(super) fn occupied(&self) -> usize {
        self.classes.iter().map(|class| class.occupied).sum()
    }

    /// Memory held besides buffers, in bytes.
    pub(super) fn bookkeeping_bytes(&self) -> usize {
        self.packets.held_bytes() + self.flows.held_bytes() + self.hold.held_bytes()
    }

    /// Takes the packet at the head of a flow out.
    pub(super) fn take_head(&mut self, index: u16) -> Option<Waiting> {
        let flow = &mut self.flows[index];
        let waiting = self.packets.pop(&mut flow.fifo)?;
        let (len, capacity) = (waiting.size().bytes as usize, waiting.buffer.capacity());
        flow.packets -= 1;
        flow.bytes -= len as u32;
        flow.occupied -= capacity as u32;
        let priority = flow.priority;
        let class = &mut self.classes[priority as usize];
        class.packets -= 1;
        class.bytes -= len;
        class.occupied -= capacity;
        if class.packets == 0 {
            self.emptied(priority);
        }
        if priority == Priority::High {
            self.high_shrank();
        }
        Some(waiting)
    }

    /// Takes the first `segments` segments of the super-packet at the head of a flow out; it has more.
    /// `None` if there is no memory for them, which there is as long as the consumer has nothing.
    pub(super) fn split_head(&mut self, index: u16, segments: usize) -> Option<Waiting> {
        let waiting = self.packets.head(&self.flows[index].fifo)?;
        let capacity = capacity_for((segments * waiting.segment_len()).min(waiting.packet().len()))?;
        if self.occupied() + self.lent + capacity > self.limit() {
            return None;
        }
        let mut buffer = self.buffer(capacity);
        let flow = &mut self.flows[index];
        let waiting = self.packets.head_mut(&flow.fifo)?;
        let before = waiting.size().bytes;
        let offload = waiting.offload;
        let Split { front, rest, at } = split_front(waiting.packet_mut(), offload, segments, &mut buffer);
        // Less than the packet's length, which fits 16 bits.
        waiting.start += at as u16;
        waiting.offload = rest;
        let gone = (before - waiting.size().bytes) as usize;
        let arrived = waiting.arrived;
        flow.bytes -= gone as u32;
        self.classes[flow.priority as usize].bytes -= gone;
        Some(Waiting { buffer, offload: front, arrived, ..Waiting::default() })
    }

    /// Drops the packet at the head of a flow.
    pub(super) fn drop_head(&mut self, index: u16, reason: DropReason) {
        let priority = self.flows[index].priority;
        if let Some(waiting) = self.take_head(index) {
            self.count(priority, reason, waiting.size());
            self.hold.note(reason, waiting.packet(), waiting.offload);
            self.free.put(waiting.buffer);
        }
    }

    /// Drops the first segment of what is at the head of a flow: all of it, but of a super-packet.
    pub(super) fn drop_segment(&mut self, index: u16, reason: DropReason) {
        let stands_for = self.packets.head(&self.flows[index].fifo).map_or(0, |head| head.size().packets);
        match (stands_for > 1).then(|| self.split_head(index, 1)).flatten() {
            Some(segment) => {
                self.count(self.flows[index].priority, reason, segment.size());
                self.free.put(segment.buffer);
            }
            None => self.drop_head(index, reason),
        }
    }

    /// Forgets a flow that has nothing waiting.
    pub(super) fn close(&mut self, index: u16) {
        let Self { flows, classes, .. } = self;
        let (priority, rank) = (flows[index].priority, flows[index].rank);
        flows.remove(index, classes[priority as usize].list(rank));
    }

    /// Puts a flow at the end of the old list of its class.
    pub(super) fn make_old(&mut self, index: u16) {
        let Self { flows, classes, .. } = self;
        let class = &mut classes[flows[index].priority as usize];
        flows.unlink(index, class.list(flows[index].rank));
        flows[index].rank = Rank::Old;
        flows.append(index, class.list(Rank::Old));
    }

    fn append(&mut self, index: u16, waiting: Waiting) {
        let (len, capacity) = (waiting.size().bytes as usize, waiting.buffer.capacity());
        let flow = &mut self.flows[index];
        flow.packets += 1;
        flow.bytes += len as u32;
        flow.occupied += capacity as u32;
        let class = &mut self.classes[flow.priority as usize];
        class.packets += 1;
        class.bytes += len;
        class.occupied += capacity;
        self.packets.push(&mut flow.fifo, waiting);
    }

    /// The class that a packet will wait in: its own, unless packets of its flow wait in a lower one.
    /// Those in a higher one move.
    fn join(&mut self, hash: u64, priority: Priority) -> Priority {
        let Some(index) = self.flows.find(hash) else { return priority };
        let flow = &self.flows[index];
        let priority = if flow.packets > 0 { priority.max(flow.priority) } else { priority };
        self.reclass(index, priority);
        priority
    }

    /// Moves a flow with all that it has waiting to another class. It stays new or old: changing its
    /// class gains it no place.
    fn reclass(&mut self, index: u16, priority: Priority) {
        let Self { flows, classes, .. } = self;
        let before = flows[index].priority;
        if before == priority {
            return;
        }
        let (rank, packets) = (flows[index].rank, usize::from(flows[index].packets));
        let (bytes, occupied) = (flows[index].bytes as usize, flows[index].occupied as usize);
        let from = &mut classes[before as usize];
        flows.unlink(index, from.list(rank));
        from.packets -= packets;
        from.bytes -= bytes;
        from.occupied -= occupied;
        let to = &mut classes[priority as usize];
        flows[index].priority = priority;
        flows.append(index, to.list(rank));
        to.packets += packets;
        to.bytes += bytes;
        to.occupied += occupied;
        if classes[before as usize].packets == 0 {
            self.emptied(before);
        }
        self.high_shrank();
    }

    /// A new flow, if there is a place once those with nothing waiting are forgotten. There is, but where a
    /// fast session has more than [`QUEUE_PACKETS`] waiting, each of another flow.
    fn open(&mut self, hash: u64, priority: Priority) -> Option<u16> {
        if self.flows.len() >= QUEUE_PACKETS {
            self.forget_idle();
        }
        let Self { flows, classes, .. } = self;
        (flows.len() < QUEUE_PACKETS)
            .then(|| flows.insert(hash, priority, classes[priority as usize].list(Rank::New)))
    }

    fn forget_idle(&mut self) {
        for place in 0..self.flows.places() as u16 {
            if self.flows.is_idle(place) {
                self.close(place);
            }
        }
    }

    /// Nothing waits in the class: nobody in it has to wait for a turn, and it is owed nothing.
    fn emptied(&mut self, priority: Priority) {
        while let Some(flow) = self.classes[priority as usize].first() {
            self.close(flow);
        }
        let class = &mut self.classes[priority as usize];
        class.credit = class.credit.min(0);
    }

    /// An empty buffer: a free one of the same capacity, else a new one, for which free ones of other
    /// capacities give way.
    fn buffer(&mut self, capacity: usize) -> Vec<u8> {
        self.free.take(capacity).unwrap_or_else(|| {
            // `make_room` has seen that it fits without the free ones.
            let room = self.limit().saturating_sub(self.occupied() + self.lent + capacity);
            self.free.shrink_to(room);
            Vec::with_capacity(capacity)
        })
    }

    /// Counts what is dropped. What a session under a rate limit has no room or time for, the limit has
    /// dropped, unless there is no connection.
    fn count(&self, priority: Priority, reason: DropReason, size: Size) {
        let reason = match reason {
            DropReason::QueueFull | DropReason::QueueDelay
                if self.limits.are_of_a_rate() && !self.hold.is_on() =>
            {
                DropReason::RateLimit
            }
            reason => reason,
        };
        self.traffic.drops().count(priority, reason, size);
    }
}
