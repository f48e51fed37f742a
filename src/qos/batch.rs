//! Packets on their way out of a queue.

use std::fmt;

use super::room::BATCH_PACKETS;

/// How much one drain may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// Bytes with which a batch is long enough. A longer packet is taken nevertheless, alone.
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
    pub(super) packets: Vec<Vec<u8>>,
    pub(super) bytes: usize,
    pub(super) limit: usize,
    pub(super) short_of: Option<usize>,
}

impl Batch {
    /// An empty batch for up to `limit` packets (at least one) at a time.
    pub fn new(limit: usize) -> Self {
        Self { packets: Vec::new(), bytes: 0, limit: limit.max(1), short_of: None }
    }

    /// The packets, in the order in which they are to be sent.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.packets.iter().map(Vec::as_slice)
    }

    /// The same, free to be changed in place.
    pub fn iter_mut(&mut self) -> impl ExactSizeIterator<Item = &mut [u8]> {
        self.packets.iter_mut().map(Vec::as_mut_slice)
    }

    /// How many packets it holds.
    pub fn len(&self) -> usize {
        self.packets.len()
    }

    /// It holds no packet.
    pub fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// Bytes of its packets.
    pub fn len_bytes(&self) -> usize {
        self.bytes
    }

    /// The length of the packet that would have come next, had there been the tokens for it. Another
    /// one may be first by the time there are.
    pub fn short_of(&self) -> Option<usize> {
        self.short_of
    }

    /// Bytes that the next packet may have, and whether it is the tokens that say so.
    pub(super) fn room(&self, allowance: Allowance) -> (u64, bool) {
        let tokens = allowance.tokens.saturating_sub(self.bytes as u64);
        let batch =
            if self.is_empty() { usize::MAX } else { allowance.batch_bytes.saturating_sub(self.bytes) };
        (tokens.min(batch as u64), tokens <= batch as u64)
    }
}

impl Default for Batch {
    /// A batch for up to 64 packets.
    fn default() -> Self {
        Self::new(BATCH_PACKETS)
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch")
            .field("packets", &self.len())
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}
