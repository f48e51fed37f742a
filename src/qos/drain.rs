//! What leaves next.
//!
//! *Between classes:* the highest that has something waiting. But a class that waits is owed an eighth of
//! all bytes that leave: it earns a seventh of what the others send, and when that is a full packet's worth,
//! goes first with one. So normal and low each get at least an eighth while they have something to send,
//! and high at least three quarters; what one does not use is the next one's.
//!
//! *Within a class:* deficit round robin over flows, those that had nothing waiting first, for one
//! quantum (RFC 8290 §4). A flow that sends little is hardly ever anything but new.
//!
//! *Within a flow:* the oldest packet, unless CoDel drops it, in normal and low, or it has waited beyond
//! all bounds.

use super::backlog::Backlog;
use super::codel::QUANTUM;
use super::flow_queues::Rank;
use crate::telemetry::{DropReason, Priority};

/// Of so many bytes, one is a waiting class's own.
pub const GUARANTEED_SHARE: usize = 8;

/// What a class earns per byte that another sends, in sevenths of a byte, is 1; a byte costs it this.
const PRICE: i64 = GUARANTEED_SHARE as i64 - 1;

/// With this a class goes first: a full packet.
const ENOUGH: i64 = PRICE * QUANTUM as i64;

/// The answer to who asks for a packet.
#[derive(Debug)]
pub(super) enum Next {
    /// This one.
    Packet(Vec<u8>),
    /// The next one is longer than asked for: its length.
    Longer(usize),
    /// Nothing waits.
    Empty,
}

impl Backlog {
    /// Takes the next packet out, if it is no longer than `room`. What waited too long is dropped on the
    /// way.
    pub(super) fn next(&mut self, now: u64, room: u64) -> Next {
        while let Some((priority, owed)) = self.turn() {
            let Some((index, len)) = self.pick(priority, now) else { continue };
            if len as u64 > room {
                return Next::Longer(len);
            }
            self.flows[index].deficit -= len as i32;
            self.charge(priority, owed, len);
            if let Some(waiting) = self.take_head(index) {
                return Next::Packet(waiting.buffer);
            }
        }
        Next::Empty
    }

    /// The class that goes next, and whether it is because it is owed its share.
    fn turn(&self) -> Option<(Priority, bool)> {
        let waits = |priority: &Priority| self.classes[*priority as usize].packets > 0;
        let owed = |priority: &Priority| self.classes[*priority as usize].credit >= ENOUGH;
        let by_right =
            [Priority::Low, Priority::Normal].into_iter().find(|class| waits(class) && owed(class));
        match by_right {
            Some(priority) => Some((priority, true)),
            None => Priority::ALL.into_iter().find(waits).map(|priority| (priority, false)),
        }
    }

    /// `len` bytes of a class are about to leave.
    fn charge(&mut self, priority: Priority, owed: bool, len: usize) {
        let len = len as i64;
        for other in Priority::ALL {
            let class = &mut self.classes[other as usize];
            if other != priority && class.packets > 0 {
                class.credit += len;
            }
        }
        let class = &mut self.classes[priority as usize];
        // What it gets while nobody is before it settles what it is owed, but is no debt.
        let floor = if owed { i64::MIN } else { class.credit.min(0) };
        class.credit = (class.credit - PRICE * len).max(floor);
    }

    /// The flow of a class that goes next, and the length of its packet. `None` if all that waited had
    /// waited too long.
    fn pick(&mut self, priority: Priority, now: u64) -> Option<(u16, usize)> {
        while let Some(index) = self.classes[priority as usize].first() {
            if self.flows[index].deficit <= 0 {
                self.flows[index].deficit += QUANTUM as i32;
                self.make_old(index);
                continue;
            }
            if let Some(len) = self.cull(index, now) {
                return Some((index, len));
            }
            if self.classes[priority as usize].packets == 0 {
                // Its flows are forgotten already.
                return None;
            }
            // Whoever was new must wait for a turn before being new again (RFC 8290 §4.2).
            if self.flows[index].rank == Rank::New && self.classes[priority as usize].has_old() {
                self.make_old(index);
            } else {
                self.close(index);
            }
        }
        None
    }

    /// Drops what has waited too long from the head of a flow; the length of the packet that is there
    /// then.
    fn cull(&mut self, index: u16, now: u64) -> Option<usize> {
        loop {
            let Self { packets, flows, limits, .. } = self;
            let flow = &mut flows[index];
            let waiting = packets.head(&flow.fifo)?;
            let (len, sojourn) = (waiting.buffer.len(), now.saturating_sub(waiting.arrived));
            let late = limits.is_overdue(sojourn, len)
                || flow.priority != Priority::High
                    && flow.codel.should_drop(limits, now, sojourn, flow.bytes as usize, len);
            if !late {
                return Some(len);
            }
            self.drop_head(index, DropReason::QueueDelay);
        }
    }
}
