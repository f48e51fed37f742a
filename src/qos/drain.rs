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
use super::batch::Room;
use super::codel::QUANTUM;
use super::flow_queues::Rank;
use super::packets::Waiting;
use crate::telemetry::{DropReason, Priority, Size};

/// Of so many bytes, one is a waiting class's own.
pub const GUARANTEED_SHARE: usize = 8;

/// What a class earns per byte that another sends, in sevenths of a byte, is 1; a byte costs it this.
const PRICE: i64 = GUARANTEED_SHARE as i64 - 1;

/// With this a class goes first: a full packet.
const ENOUGH: i64 = PRICE * QUANTUM as i64;

/// A super-packet that is longer than a batch by no more than this part of it goes whole: the few
/// segments behind it are not worth a cut.
const WHOLE: u64 = 4;

/// The answer to who asks for a packet.
#[derive(Debug)]
pub(super) enum Next {
    /// This one.
    Packet(Waiting),
    /// There are not the tokens for this many bytes, of the next one or its first segment.
    ShortOf(usize),
    /// The next one is not for this batch.
    Full,
    /// Nothing waits.
    Empty,
}

/// How much of a packet may leave.
enum Portion {
    Whole,
    /// So many of its segments, fewer than all.
    Segments(usize),
    ShortOf(usize),
    None,
}

impl Backlog {
    /// Takes the next packet out, or as much of a super-packet as there is room for. What waited too long
    /// is dropped on the way.
    pub(super) fn next(&mut self, now: u64, room: Room) -> Next {
        while let Some((priority, owed)) = self.turn() {
            let Some(index) = self.pick(priority, now) else { continue };
            let Some(head) = self.packets.head(&self.flows[index].fifo) else { continue };
            let (segments, len) = match portion(head, room) {
                Portion::Whole => (None, head.size().bytes as usize),
                Portion::Segments(segments) => (Some(segments), segments * head.segment_len()),
                Portion::ShortOf(len) => return Next::ShortOf(len),
                Portion::None => return Next::Full,
            };
            self.flows[index].deficit -= len as i32;
            self.charge(priority, owed, len);
            let taken = match segments {
                Some(segments) => self.split_head(index, segments),
                None => self.take_head(index),
            };
            if let Some(waiting) = taken {
                return Next::Packet(waiting);
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

    /// The flow of a class that goes next. `None` if all that waited had waited too long.
    fn pick(&mut self, priority: Priority, now: u64) -> Option<u16> {
        while let Some(index) = self.classes[priority as usize].first() {
            if self.flows[index].deficit <= 0 {
                self.flows[index].deficit += QUANTUM as i32;
                self.make_old(index);
                continue;
            }
            if self.cull(index, now) {
                return Some(index);
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

    /// Drops what has waited too long from the head of a flow; whether anything is there then. CoDel drops
    /// one segment of a super-packet at a time, as it would of those that it stands for.
    fn cull(&mut self, index: u16, now: u64) -> bool {
        loop {
            let Self { packets, flows, limits, hold, .. } = self;
            let flow = &mut flows[index];
            let Some(waiting) = packets.head(&flow.fifo) else { return false };
            let (len, sojourn) = (waiting.segment_len(), hold.sojourn(now, waiting.arrived));
            if limits.is_overdue(sojourn, len) {
                self.drop_head(index, DropReason::QueueDelay);
            } else if flow.priority != Priority::High
                && flow.codel.should_drop(limits, now, sojourn, flow.bytes as usize, len)
            {
                self.drop_segment(index, DropReason::QueueDelay);
            } else {
                return true;
            }
        }
    }
}

fn portion(head: &Waiting, room: Room) -> Portion {
    let Size { packets, bytes: len } = head.size();
    let most = match (room.is_first, packets > 1) {
        (true, false) => u64::MAX,
        (true, true) => room.batch.saturating_add(room.batch / WHOLE),
        (false, _) => room.batch,
    };
    let segment = head.segment_len();
    if len <= most.min(room.tokens) {
        Portion::Whole
    } else if segment as u64 > room.tokens {
        Portion::ShortOf(segment)
    } else if room.is_first {
        // Of what is longer than there is room for, so that fewer than all fit.
        Portion::Segments(head.segments_within(room.tokens.min(room.batch)).max(1))
    } else {
        Portion::None
    }
}
