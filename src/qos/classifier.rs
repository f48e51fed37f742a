//! The class and the flow of a packet, by its headers and by what was seen before.

use std::time::Instant;

use super::flows::FlowAccounting;
use super::fragments::Fragments;
use super::hash::FlowHasher;
use crate::packet::{Fragment, Offload, classify};
use crate::telemetry::Priority;

/// Classifies the packets of one queue.
///
/// Only packets of 128 bytes and more count towards the megabyte that makes a flow low: the stream of
/// acknowledgements of a fast download is no bulk transfer. The megabyte comes before the ports:
/// copying files over SSH is one.
#[derive(Debug)]
pub(super) struct Classifier {
    hasher: FlowHasher,
    flows: FlowAccounting,
    fragments: Fragments,
}

impl Classifier {
    pub(super) fn new(hasher: FlowHasher) -> Self {
        Self { hasher, flows: FlowAccounting::default(), fragments: Fragments::default() }
    }

    /// The keyed hash of the packet's flow, and its class. A super-packet counts as its segments.
    pub(super) fn classify(&mut self, now: Instant, packet: &[u8], offload: Offload) -> (u64, Priority) {
        let class = classify(packet, offload.segment_len());
        let hash = self.hasher.hash(&class.flow);
        let (flow, priority) = match class.fragment {
            Fragment::None => (hash, class.priority),
            Fragment::First(datagram) => {
                self.fragments.first(now, self.hasher.hash(&datagram), hash, class.priority);
                (hash, class.priority)
            }
            Fragment::Later => self.fragments.later(now, hash).unwrap_or((hash, class.priority)),
        };
        if !class.small && self.flows.add(now, flow, offload.size(packet.len()).bytes as usize) {
            return (flow, Priority::Low);
        }
        (flow, priority)
    }

    /// The class of a packet that is dropped: nothing of its flow has moved by it.
    pub(super) fn class_of(&mut self, now: Instant, packet: &[u8], offload: Offload) -> Priority {
        let class = classify(packet, offload.segment_len());
        let hash = self.hasher.hash(&class.flow);
        let (flow, priority) = match class.fragment {
            Fragment::Later => self.fragments.later(now, hash).unwrap_or((hash, class.priority)),
            Fragment::None | Fragment::First(_) => (hash, class.priority),
        };
        if !class.small && self.flows.is_heavy(now, flow) { Priority::Low } else { priority }
    }

    /// Frees what was not used since the last call.
    pub(super) fn trim(&mut self) {
        self.flows.trim();
        self.fragments.trim();
    }

    /// The memory held, in bytes.
    pub(super) fn held_bytes(&self) -> usize {
        self.flows.held_bytes() + self.fragments.held_bytes()
    }
}
