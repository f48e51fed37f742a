//! Where packets wait, what they wait behind, and how fast they may leave (API §6).
//!
//! - [`PacketQueue`] is the only queue with any depth on a packet's way. It has three classes, drained
//!   with a bias; within a class flows take turns, within a flow CoDel keeps the delay short.
//! - [`FlowAccounting`](flows::FlowAccounting) knows which flows are bulk transfers.
//! - [`TokenBucket`] holds a client to its rate.

mod backlog;
mod batch;
mod buffers;
mod classifier;
mod codel;
mod drain;
mod flow_queues;
pub mod flows;
mod fragments;
mod hash;
mod packets;
pub mod queue;
mod room;
#[cfg(test)]
mod simulation;
pub mod token_bucket;

pub use batch::{Allowance, Batch};
pub use codel::MAX_WAIT;
pub use drain::GUARANTEED_SHARE;
pub use hash::FlowHasher;
pub use queue::{PacketQueue, Producer};
pub use room::{
    BULK_BYTES, HIGH_BYTES, HIGH_EXCESS_BYTES, HIGH_PATIENCE, QUEUE_BYTES, QUEUE_PACKETS, SHARE_BYTES,
};
pub use token_bucket::{RateLimit, RateLimitError, TokenBucket};

#[cfg(test)]
mod tests {
    use std::time::Instant;

    /// Where simulated time begins.
    #[expect(clippy::disallowed_methods, reason = "an Instant can be had in no other way")]
    pub(super) fn epoch() -> Instant {
        Instant::now()
    }
}
