//! The keyed hash that flows are known by.

use rand_core::CryptoRng;
use siphasher::sip::SipHasher13;

use crate::packet::FlowTuple;

/// A random key, so that nobody outside can make flows collide: SipHash-1-3 of the tuple, some 10 ns.
#[derive(Clone, Copy)]
pub struct FlowHasher(SipHasher13);

impl FlowHasher {
    /// A key of its own, drawn from `rng`.
    pub fn new(rng: &mut dyn CryptoRng) -> Self {
        let mut key = [0; 16];
        rng.fill_bytes(&mut key);
        Self(SipHasher13::new_with_key(&key))
    }

    /// 64 bits: among a million flows two are alike with a chance of 3 in 100 million.
    pub fn hash(&self, flow: &FlowTuple) -> u64 {
        self.0.hash(flow.as_bytes())
    }
}

impl std::fmt::Debug for FlowHasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FlowHasher")
    }
}
