//! Where packets wait, what they wait behind, and how fast they may leave (API §6).
//!
//! - [`PacketQueue`] is the only queue with any depth on a packet's way. It has three classes, drained
//!   with a bias; within a class flows take turns, within a flow CoDel keeps the delay short.
//! - [`FlowAccounting`](flows::FlowAccounting) knows which flows are bulk transfers.
//! - [`TokenBucket`] holds a client to its rate.
//! - [`DelayLimit`] keeps what a connection has under way from filling the queues of its path.

mod backlog;
mod batch;
mod buffers;
mod classifier;
mod codel;
mod delay_limit;
mod drain;
mod flow_queues;
pub mod flows;
mod fragments;
mod hash;
mod hold;
mod pace;
mod packets;
pub mod queue;
mod room;
#[cfg(test)]
mod simulation;
pub mod token_bucket;

pub use batch::{Allowance, Batch};
pub use codel::MAX_WAIT;
pub use delay_limit::{DelayLimit, PathSample};
pub use drain::GUARANTEED_SHARE;
pub use hash::FlowHasher;
pub use hold::HELD_MAX_WAIT;
pub use queue::{PacketQueue, Producer};
pub use room::{
    BULK_BYTES, HIGH_BYTES, HIGH_EXCESS_BYTES, HIGH_PATIENCE, QUEUE_BYTES, QUEUE_PACKETS, SHARE_BYTES,
};
pub use token_bucket::{RateLimit, RateLimitError, TokenBucket};

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Instant;

    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;
    use crate::packet::ip::tests::v4;
    use crate::telemetry::Traffic;

    /// Where simulated time begins.
    #[expect(clippy::disallowed_methods, reason = "an Instant can be had in no other way")]
    pub(super) fn epoch() -> Instant {
        Instant::now()
    }

    /// A queue and the counters of what it drops.
    pub(super) fn queue() -> (PacketQueue, Arc<Traffic>) {
        let traffic = Arc::new(Traffic::default());
        (PacketQueue::new(Arc::clone(&traffic), FlowHasher::new(&mut StdRng::seed_from_u64(7))), traffic)
    }

    /// A packet of `len` bytes, at least 36, of one of many flows, with its number.
    pub(super) fn udp(flow: u16, number: u32, len: usize) -> Vec<u8> {
        packet(17, flow, 9000, number, len)
    }

    /// As [`udp`], but high whatever its length.
    pub(super) fn dns(flow: u16, number: u32, len: usize) -> Vec<u8> {
        packet(17, flow, 53, number, len)
    }

    fn packet(protocol: u8, source: u16, destination: u16, number: u32, len: usize) -> Vec<u8> {
        let mut payload = vec![number as u8; len - 20];
        payload[..2].copy_from_slice(&(10_000 + source).to_be_bytes());
        payload[2..4].copy_from_slice(&destination.to_be_bytes());
        payload[8..12].copy_from_slice(&number.to_be_bytes());
        payload[12..16].copy_from_slice(&(len as u32).to_be_bytes());
        v4([10, 8, 0, 2], [192, 0, 2, 1], protocol, &payload)
    }

    /// The flow and the number of such a packet, which is whole.
    pub(super) fn read(packet: &[u8]) -> (u16, u32) {
        let word = |at: usize| u32::from_be_bytes(packet[at..at + 4].try_into().unwrap());
        assert_eq!(word(32) as usize, packet.len());
        let number = word(28);
        assert!(packet[36..].iter().all(|byte| *byte == number as u8));
        (u16::from_be_bytes([packet[20], packet[21]]) - 10_000, number)
    }
}
