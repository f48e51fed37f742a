//! What waits while there is no connection: what is young, to be delivered when there is one again.
//!
//! An application that begins just before a connection is back loses nothing. What has waited for longer is
//! dropped, not delivered late as a burst: its sender has sent it again or given up on it. How long something
//! was held is no delay of the queue's own, so that CoDel sees nothing of it.
//!
//! TCP senders are to be told of what they lose, so that they do not fall silent for longer than the outage
//! ([`Unreachable`]). Whoever pushes or [ages](super::PacketQueue::age) takes the list and answers, without the
//! lock.

use std::time::Duration;

use super::backlog::Backlog;
use crate::packet::{Offload, Unreachable};
use crate::telemetry::DropReason;

/// How long a packet may wait for a connection. A connection that can be made at once is there within it (a
/// back-off of 250 ms and some five round trips), so that a short interruption loses nothing; and it is less than
/// the 5 s after which a resolver asks again (resolv.conf(5)), and than anybody takes an answer for a late one.
pub const HELD_MAX_WAIT: Duration = Duration::from_secs(2);

const MAX_WAIT_NANOS: u64 = HELD_MAX_WAIT.as_nanos() as u64;

/// Whether a queue is held. Times are nanoseconds since the queue's zero.
#[derive(Debug, Default)]
pub(super) struct Hold {
    is_on: bool,
    /// When a connection was there again: what came before has waited for its turn since then only.
    released: u64,
    /// Until then nothing grows too old.
    due: u64,
    unreachable: Unreachable,
}

impl Hold {
    pub(super) fn is_on(&self) -> bool {
        self.is_on
    }

    /// How long a packet that came at `arrived` has waited for its turn.
    pub(super) fn sojourn(&self, now: u64, arrived: u64) -> u64 {
        now.saturating_sub(arrived.max(self.released))
    }

    /// Notes whom to tell of a packet that is dropped.
    pub(super) fn note(&mut self, reason: DropReason, packet: &[u8], offload: Offload) {
        let for_want_of_a_way =
            matches!(reason, DropReason::Stale | DropReason::QueueFull | DropReason::NotConnected);
        if self.is_on && for_want_of_a_way {
            self.unreachable.note(packet, offload);
        }
    }

    pub(super) fn take_unreachable(&mut self) -> Unreachable {
        std::mem::take(&mut self.unreachable)
    }

    /// Memory held, in bytes.
    pub(super) fn held_bytes(&self) -> usize {
        self.unreachable.held_bytes()
    }
}

impl Backlog {
    /// There is no connection. The buffers that the consumer has are gone with it.
    pub(super) fn hold(&mut self, now: u64) {
        if !self.hold.is_on {
            // Sequence numbers of an earlier outage say nothing.
            self.hold = Hold { is_on: true, released: self.hold.released, ..Hold::default() };
            self.lent = 0;
            self.age(now);
        }
    }

    /// There is a connection again.
    pub(super) fn release(&mut self, now: u64) {
        if self.hold.is_on {
            self.age(now);
            (self.hold.is_on, self.hold.released) = (false, now);
        }
    }

    /// Drops what has been held for too long.
    pub(super) fn age(&mut self, now: u64) {
        if !self.hold.is_on || now < self.hold.due {
            return;
        }
        let mut oldest = now;
        for index in 0..self.flows.places() as u16 {
            while let Some(arrived) = self.arrival(index) {
                if now.saturating_sub(arrived) <= MAX_WAIT_NANOS {
                    oldest = oldest.min(arrived);
                    break;
                }
                self.drop_head(index, DropReason::Stale);
            }
            if self.flows.is_idle(index) {
                self.close(index);
            }
        }
        self.hold.due = oldest + MAX_WAIT_NANOS + 1;
    }

    /// When the packet came that has waited longest.
    pub(super) fn oldest(&self) -> Option<u64> {
        (0..self.flows.places() as u16).filter_map(|index| self.arrival(index)).min()
    }

    /// When the packet at the head of a flow came, which is that flow's oldest; none of a free place.
    fn arrival(&self, index: u16) -> Option<u64> {
        self.packets.head(&self.flows[index].fifo).map(|head| head.arrived)
    }
}
