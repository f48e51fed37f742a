//! The server's memory of first messages, so that a recorded one is not answered twice.

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

/// Remembers the ephemeral keys of recent first messages that opened (PROTOCOL §3).
///
/// When it is full, the oldest key is forgotten. Refusing new clients instead would let anyone who
/// knows the server's public key lock everybody out by filling the memory. Forgetting costs little:
/// what makes a replay harmless is the key confirmation, which a replayer cannot send; this memory
/// only spares the server the work of answering and the address reserved meanwhile.
#[derive(Debug)]
pub struct ReplayCache {
    lifetime: Duration,
    keys: BTreeSet<[u8; 32]>,
    /// The same keys in the order they came, so also that in which they expire.
    ages: VecDeque<(Instant, [u8; 32])>,
}

impl ReplayCache {
    /// Keys remembered at most. One core opens under 5,000 first messages a second, so that many fit
    /// into the default handshake timeout of 10 s; full, the memory takes about 6 MiB.
    pub const CAPACITY: usize = 65_536;

    /// A memory that keeps each key for `lifetime`: the handshake timeout.
    pub const fn new(lifetime: Duration) -> Self {
        Self { lifetime, keys: BTreeSet::new(), ages: VecDeque::new() }
    }

    /// Whether a first message with this key opened less than a lifetime ago.
    pub fn contains(&mut self, now: Instant, ephemeral: &[u8; 32]) -> bool {
        self.expire(now);
        self.keys.contains(ephemeral)
    }

    /// Remembers the key of a message that opened. False if it was known already.
    pub fn insert(&mut self, now: Instant, ephemeral: [u8; 32]) -> bool {
        self.expire(now);
        if !self.keys.insert(ephemeral) {
            return false;
        }
        self.ages.push_back((now, ephemeral));
        if self.ages.len() > Self::CAPACITY {
            self.forget_oldest();
        }
        true
    }

    /// Keys remembered now.
    pub fn len(&self) -> usize {
        self.ages.len()
    }

    /// Whether no key is remembered.
    pub fn is_empty(&self) -> bool {
        self.ages.is_empty()
    }

    fn expire(&mut self, now: Instant) {
        while let Some((since, _)) = self.ages.front()
            && now.saturating_duration_since(*since) >= self.lifetime
        {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((_, ephemeral)) = self.ages.pop_front() {
            self.keys.remove(&ephemeral);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::epoch;

    const LIFETIME: Duration = Duration::from_secs(10);

    fn key(n: usize) -> [u8; 32] {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&n.to_be_bytes());
        key
    }

    #[test]
    fn knows_a_key_for_its_lifetime() {
        let start = epoch();
        let mut cache = ReplayCache::new(LIFETIME);
        assert!(!cache.contains(start, &key(1)));
        assert!(cache.insert(start, key(1)));
        assert!(!cache.insert(start, key(1)));
        assert!(cache.contains(start + LIFETIME - Duration::from_nanos(1), &key(1)));
        assert!(!cache.contains(start + LIFETIME, &key(1)));
        assert!(cache.is_empty());
    }

    #[test]
    fn a_repeated_key_does_not_live_longer() {
        let start = epoch();
        let mut cache = ReplayCache::new(LIFETIME);
        cache.insert(start, key(1));
        cache.insert(start + LIFETIME / 2, key(1));
        assert!(!cache.contains(start + LIFETIME, &key(1)));
    }

    #[test]
    fn forgets_the_oldest_when_full() {
        let now = epoch();
        let mut cache = ReplayCache::new(LIFETIME);
        for n in 0..=ReplayCache::CAPACITY {
            assert!(cache.insert(now, key(n)));
        }
        assert_eq!(cache.len(), ReplayCache::CAPACITY);
        assert!(!cache.contains(now, &key(0)));
        assert!(cache.contains(now, &key(1)));
        assert!(cache.contains(now, &key(ReplayCache::CAPACITY)));
    }
}
