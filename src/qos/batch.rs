//! Packets on their way out of a queue.

use std::fmt;

use super::packets::Waiting;
use super::room::BATCH_PACKETS;
use crate::packet::{Offload, Record};
use crate::telemetry::Size;

/// How much one drain may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// Bytes with which a batch is long enough. A longer packet is taken nevertheless, alone; a
    /// super-packet is cut, unless it is only a little longer.
    pub batch_bytes: usize,
    /// Bytes that are exceeded by nothing: what a token bucket has.
    pub tokens: u64,
}

impl Allowance {
    /// Batches of up to `batch_bytes`, for a session without a rate limit.
    pub const fn unlimited(batch_bytes: usize) -> Self {
        Self { batch_bytes, tokens: u64::MAX }
    }
}

/// Packets taken out of a queue. Its consumer keeps one and fills it again and again.
pub struct Batch {
    pub(super) packets: Vec<Waiting>,
    pub(super) size: Size,
    pub(super) limit: usize,
    pub(super) short_of: Option<usize>,
}

/// What the next packet of a batch may have, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    /// What there are tokens for.
    pub(super) tokens: u64,
    /// With this the batch is long enough.
    pub(super) batch: u64,
    /// Nothing is in the batch: what is longer goes alone.
    pub(super) is_first: bool,
}

impl Batch {
    /// An empty batch for up to `limit` packets (at least one) at a time.
    pub fn new(limit: usize) -> Self {
        Self { packets: Vec::new(), size: Size::ZERO, limit: limit.max(1), short_of: None }
    }

    /// The packets, in the order in which they are to be sent.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&[u8], Offload)> {
        self.packets.iter().map(|waiting| (waiting.packet(), waiting.offload))
    }

    /// The same, free to be changed in place.
    pub fn iter_mut(&mut self) -> impl ExactSizeIterator<Item = Record<'_>> {
        self.packets.iter_mut().map(|waiting| {
            let offload = waiting.offload;
            Record { packet: waiting.packet_mut(), offload }
        })
    }

    /// How many packets it holds; a super-packet is one.
    pub fn len(&self) -> usize {
        self.packets.len()
    }

    /// It holds no packet.
    pub fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// Frees the room in the list that nothing lies in.
    pub fn shrink(&mut self) {
        self.packets.shrink_to_fit();
    }

    /// How much its packets count for.
    pub fn size(&self) -> Size {
        self.size
    }

    /// Bytes of its packets, super-packets counted as their segments.
    pub fn len_bytes(&self) -> usize {
        self.size.bytes as usize
    }

    /// The length of the packet that would have come next, had there been the tokens for it. Another
    /// one may be first by the time there are.
    pub fn short_of(&self) -> Option<usize> {
        self.short_of
    }

    pub(super) fn room(&self, allowance: Allowance) -> Room {
        Room {
            tokens: allowance.tokens.saturating_sub(self.size.bytes),
            batch: (allowance.batch_bytes as u64).saturating_sub(self.size.bytes),
            is_first: self.is_empty(),
        }
    }
}

impl Default for Batch {
    /// A batch for up to 128 packets.
    fn default() -> Self {
        Self::new(BATCH_PACKETS)
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch")
            .field("packets", &self.len())
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}
