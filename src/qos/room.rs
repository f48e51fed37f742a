//! How much may wait, and what gives way.
//!
//! The memory is one pool of [`QUEUE_BYTES`] with two rooms that never lend to each other: one for high,
//! one for normal and low together. Of the shared room each of the two may use all that the other does
//! not; where it is used up, whoever has more than a share of it gives way to who has less, and low gives
//! way to normal. Within a class the flow with the most memory loses its oldest packet: the newcomer
//! mostly stays, a flood drops its own, and a sender learns of the loss a queue's length sooner.
//!
//! A third room, for what is cut off a super-packet, is there whenever the consumer has taken nothing yet.
//!
//! High that is full waits 5 ms for room before it drops (API §6): its room has an excess that may be
//! used for so long.

use std::time::Duration;

use super::backlog::{Backlog, Class};
use super::buffers::{FREE_BUFFER, LARGEST, SMALLEST};
use super::flow_queues::FLOW;
use super::pace::EXTRA_BYTES;
use super::packets::{NIL, SLOT};
use crate::packet::unreachable::UNREACHABLE_BYTES;
use crate::telemetry::{DropReason, Priority};

/// The memory that one session's packets occupy at most, in bytes of buffer capacity: those that
/// wait, those the consumer has taken and not given back, and those kept for reuse.
///
/// A client that has stopped reading must cost its server no more than 1 MiB, bookkeeping and the
/// connection's own buffers included; three fifths of it are for packets. That is 304 packets of
/// 1,420 bytes or 9 of 64 KiB: at 50 Mbit/s it drains in 70 ms, at 1 Gbit/s in 4 ms, so it absorbs
/// the bursts of a TCP sender without becoming a delay of its own.
pub const QUEUE_BYTES: usize = 608 * 1024;

/// Packets that wait at most (more where a session drains fast), and flows: each may have a queue of its own. With the smallest buffers
/// [`QUEUE_BYTES`] would admit 2,432; each also costs a place, and all of them must be sealed before the
/// last one leaves.
pub const QUEUE_PACKETS: usize = 1024;

/// Packets taken out under one lock, unless the consumer asks for fewer: enough that the lock and the
/// flush behind it vanish in the cost of small packets, few enough that the batch's own memory (6 KiB, while
/// there is traffic) does not matter. How long one batch holds up what comes behind it is its bytes' business.
pub(super) const BATCH_PACKETS: usize = 128;

/// The room of high, in bytes of buffer capacity: 384 acknowledgements or questions, or the longest
/// packet and a half. At 60,000 acknowledgements a second, those of a gigabit, that is 6 ms of them.
pub const HIGH_BYTES: usize = 96 * 1024;

/// What high may have beyond [`HIGH_BYTES`] for [`HIGH_PATIENCE`], in bytes of buffer capacity.
pub const HIGH_EXCESS_BYTES: usize = 32 * 1024;

/// How long high may be full before it drops (API §6).
pub const HIGH_PATIENCE: Duration = Duration::from_millis(5);

/// The room for the part that is cut off a super-packet, in bytes of buffer capacity.
const SPLIT_BYTES: usize = LARGEST;

/// The room that normal and low share, in bytes of buffer capacity.
pub const BULK_BYTES: usize = QUEUE_BYTES - HIGH_BYTES - HIGH_EXCESS_BYTES - SPLIT_BYTES;

/// Packets of normal and low: what high can't fill with the smallest.
pub(super) const BULK_PACKETS: usize = QUEUE_PACKETS - (HIGH_BYTES + HIGH_EXCESS_BYTES) / SMALLEST;

/// What normal or low may always have of it: two of the longest packets.
pub const SHARE_BYTES: usize = 2 * LARGEST;

/// The same in packets.
const SHARE_PACKETS: usize = BULK_PACKETS / 4;

/// Of what a fast session may have more, each packet more needs this much, in bytes: the places are kept when
/// it stops, and must fit what a session may cost then.
pub(super) const EXTRA_PER_PACKET: usize = 4096;
const EXTRA_PACKETS: usize = EXTRA_BYTES / EXTRA_PER_PACKET;
const _: () = assert!(QUEUE_PACKETS + EXTRA_PACKETS < NIL as usize);

/// Flows that are compared to find the one that gives way. With more flows than this waiting the
/// choice is the best of those seen, and of the one found before: a fat flow is found within 16 searches.
const SEARCH: usize = 64;

/// An allocator's own cost for a buffer.
const HEADER: usize = 16;

/// Buffers that can exist: as many of the smallest as packets wait and lie in a batch, the rest of the
/// memory in buffers of the next size, which nobody else fills.
const SMALLEST_BUFFERS: usize = QUEUE_PACKETS + BATCH_PACKETS;
const BUFFERS: usize = SMALLEST_BUFFERS + (QUEUE_BYTES - SMALLEST_BUFFERS * SMALLEST) / (2 * SMALLEST);
/// The lists of free ones grow by doubling.
const BOOKKEEPING: usize =
    QUEUE_PACKETS * (SLOT + FLOW) + EXTRA_PACKETS * SLOT + BUFFERS * (2 * FREE_BUFFER + HEADER);
/// For the accounting of flows, the fragments' memory and the buckets of flows.
const TABLES: usize = 12 * 1024;
/// For the connection: a batch sealed and four records of TLS.
const CONNECTION: usize = 139 * 1024;
const _: () = assert!(QUEUE_BYTES + BOOKKEEPING + UNREACHABLE_BYTES + TABLES + CONNECTION < 1024 * 1024);
const _: () = assert!(HIGH_BYTES > LARGEST && BULK_BYTES >= 2 * SHARE_BYTES, "the longest packets can queue");

const PATIENCE_NANOS: u64 = HIGH_PATIENCE.as_nanos() as u64;

/// Since when high has had more than its room.
#[derive(Debug, Default)]
pub(super) struct HighExcess {
    since: Option<u64>,
}

impl Class {
    fn has_its_share(&self) -> bool {
        self.occupied >= SHARE_BYTES || self.packets >= SHARE_PACKETS
    }

    fn is_over_share(&self) -> bool {
        self.occupied > SHARE_BYTES || self.packets > SHARE_PACKETS
    }
}

impl Backlog {
    /// Lets others give way until a packet of the class fits; false if it does not.
    pub(super) fn make_room(&mut self, priority: Priority, capacity: usize) -> bool {
        while !self.fits(priority, capacity) {
            let Some(yielding) = self.yielding_to(priority, capacity) else { return false };
            self.drop_fattest(yielding);
        }
        true
    }

    /// The bound on all buffers, in bytes of their capacity.
    pub(super) fn limit(&self) -> usize {
        QUEUE_BYTES + self.extra
    }

    /// Follows the pace at which the queue is drained: what is too much now goes.
    pub(super) fn follow_pace(&mut self, now: u64) {
        let before = std::mem::replace(&mut self.extra, self.pace.extra(now, BULK_BYTES));
        // What was cut off is the consumer's; who has taken nothing leaves the room for it free.
        let split = SPLIT_BYTES.min(self.lent);
        while self.bulk_occupied() + self.lent > BULK_BYTES + split + self.extra {
            let [_, normal, low] = &self.classes;
            let fattest = if low.occupied >= normal.occupied { Priority::Low } else { Priority::Normal };
            if self.classes[fattest as usize].packets == 0 {
                break;
            }
            self.drop_fattest(fattest);
        }
        if self.occupied() + self.lent + self.free.bytes() > self.limit() {
            self.free.shrink_to(self.limit().saturating_sub(self.occupied() + self.lent));
        }
        if before > 0 && self.extra == 0 {
            self.free.fit();
        }
    }

    fn bulk_occupied(&self) -> usize {
        let [_, normal, low] = &self.classes;
        normal.occupied + low.occupied
    }

    /// High is full, for longer than it may: what is too much goes.
    pub(super) fn relieve_high(&mut self, now: u64) {
        let overdue = |since: u64| now.saturating_sub(since) >= PATIENCE_NANOS;
        if self.high_excess.since.is_some_and(overdue) {
            while self.high_is_over() {
                self.drop_fattest(Priority::High);
            }
        }
    }

    /// Something was queued.
    pub(super) fn watch_high(&mut self, now: u64) {
        if self.high_excess.since.is_none() && self.high_is_over() {
            self.high_excess.since = Some(now);
        }
    }

    /// High has fewer packets than before.
    pub(super) fn high_shrank(&mut self) {
        if !self.high_is_over() {
            self.high_excess.since = None;
        }
    }

    fn high_is_over(&self) -> bool {
        self.classes[Priority::High as usize].occupied > HIGH_BYTES
    }

    /// A packet fits, if the free buffers give way.
    fn fits(&self, priority: Priority, capacity: usize) -> bool {
        self.occupied() + self.lent + capacity <= self.limit() && self.fits_room(priority, capacity)
    }

    /// A packet fits into the room of its class.
    fn fits_room(&self, priority: Priority, capacity: usize) -> bool {
        let [high, normal, low] = &self.classes;
        match priority {
            Priority::High => high.occupied + capacity <= HIGH_BYTES + HIGH_EXCESS_BYTES,
            // Whatever class the consumer's buffers had, they count here: high's room is always there.
            Priority::Normal | Priority::Low => {
                self.bulk_occupied() + self.lent + capacity <= BULK_BYTES + self.extra
                    && normal.packets + low.packets < BULK_PACKETS + self.extra / EXTRA_PER_PACKET
            }
        }
    }

    /// The class that gives way to a packet of `priority` that does not fit.
    fn yielding_to(&self, priority: Priority, capacity: usize) -> Option<Priority> {
        let [_, normal, low] = &self.classes;
        let yielding = match priority {
            // The consumer holds buffers that were high's, and the others have all the rest.
            Priority::High if self.fits_room(priority, capacity) => {
                if low.occupied > normal.occupied {
                    Priority::Low
                } else {
                    Priority::Normal
                }
            }
            Priority::Normal if low.is_over_share() => Priority::Low,
            Priority::Low if normal.is_over_share() && !low.has_its_share() => Priority::Normal,
            own => own,
        };
        (self.classes[yielding as usize].packets > 0).then_some(yielding)
    }

    /// The oldest packet of the flow of this class that has the most memory.
    fn drop_fattest(&mut self, priority: Priority) {
        if let Some(flow) = self.fattest(priority) {
            self.drop_head(flow, DropReason::QueueFull);
        }
    }

    fn fattest(&mut self, priority: Priority) -> Option<u16> {
        let places = self.flows.places();
        let known = self.classes[priority as usize].fattest;
        let mut best: Option<(u32, u16)> = None;
        let mut consider = |flows: &super::flow_queues::Flows, index: u16| {
            let flow = &flows[index];
            let waits = flow.packets > 0 && flow.priority == priority;
            if waits && best.is_none_or(|(occupied, _)| flow.occupied > occupied) {
                best = Some((flow.occupied, index));
            }
            best.is_some()
        };
        if usize::from(known) < places {
            consider(&self.flows, known);
        }
        for step in 0..places {
            self.cursor = if usize::from(self.cursor) + 1 < places { self.cursor + 1 } else { 0 };
            if consider(&self.flows, self.cursor) && step + 1 >= SEARCH {
                break;
            }
        }
        let (_, index) = best?;
        self.classes[priority as usize].fattest = index;
        Some(index)
    }
}
