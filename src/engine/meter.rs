//! Rate limits of a session that runs (API §6).

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::qos::{Allowance, RateLimit, TokenBucket};

/// The limit of one client, which any task may change. Each direction has a [`Meter`] of its own.
#[derive(Debug, Default)]
pub struct Limits {
    limit: Mutex<Option<RateLimit>>,
    /// Counts the changes, so that a meter need not take the lock for each batch.
    changes: AtomicU32,
}

impl Limits {
    /// A client with this limit, or none.
    pub fn new(limit: Option<RateLimit>) -> Self {
        Self { limit: Mutex::new(limit), changes: AtomicU32::new(1) }
    }

    /// The limit in force.
    pub fn get(&self) -> Option<RateLimit> {
        *self.limit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts another limit in force. Whoever waits for tokens of the old one has to be woken.
    pub fn set(&self, limit: Option<RateLimit>) {
        *self.limit.lock().unwrap_or_else(PoisonError::into_inner) = limit;
        self.changes.fetch_add(1, Ordering::Release);
    }
}

/// What one direction may still move.
#[derive(Debug)]
pub struct Meter {
    limits: Arc<Limits>,
    /// The change that `bucket` follows.
    seen: u32,
    bucket: Option<TokenBucket>,
}

impl Meter {
    /// A direction that is held to `limits`, with a full burst.
    pub fn new(limits: Arc<Limits>) -> Self {
        Self { limits, seen: 0, bucket: None }
    }

    /// What may be taken from a queue now, in batches of `batch_bytes`.
    pub fn allowance(&mut self, now: Instant, batch_bytes: usize) -> Allowance {
        self.follow(now);
        match &mut self.bucket {
            Some(bucket) => Allowance { batch_bytes, tokens: bucket.available(now) },
            None => Allowance::unlimited(batch_bytes),
        }
    }

    /// Counts what was taken.
    pub fn take(&mut self, now: Instant, bytes: usize) {
        if let Some(bucket) = &mut self.bucket {
            bucket.take(now, bytes as u64);
        }
    }

    /// When there will be tokens for a packet of `length` bytes.
    pub fn ready_at(&mut self, now: Instant, length: usize) -> Instant {
        self.bucket.as_mut().map_or(now, |bucket| bucket.ready_at(now, length as u64))
    }

    /// Whether a limit is in force.
    pub fn is_limited(&self) -> bool {
        if self.limits.changes.load(Ordering::Acquire) == self.seen {
            self.bucket.is_some()
        } else {
            self.limits.get().is_some()
        }
    }

    fn follow(&mut self, now: Instant) {
        let changes = self.limits.changes.load(Ordering::Acquire);
        if changes == self.seen {
            return;
        }
        self.seen = changes;
        match (self.limits.get(), &mut self.bucket) {
            (Some(limit), Some(bucket)) => bucket.set_limit(now, limit),
            (Some(limit), bucket @ None) => *bucket = Some(TokenBucket::new(limit, now)),
            (None, bucket) => *bucket = None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::engine::clock;

    fn limit(rate: u64) -> RateLimit {
        RateLimit::new(rate, 65_536).unwrap()
    }

    #[test]
    fn follows_its_limit() {
        let now = clock::now();
        let limits = Arc::new(Limits::new(None));
        let mut meter = Meter::new(Arc::clone(&limits));
        assert!(!meter.is_limited());
        assert_eq!(meter.allowance(now, 1000), Allowance::unlimited(1000));
        limits.set(Some(limit(100_000)));
        assert!(meter.is_limited());
        assert_eq!(meter.allowance(now, 1000).tokens, 65_536);
        meter.take(now, 65_536);
        assert_eq!(meter.allowance(now, 1000).tokens, 0);
        assert_eq!(meter.ready_at(now, 1000), now + Duration::from_millis(10));
        limits.set(Some(limit(1_000_000)));
        assert_eq!(meter.allowance(now, 1000).tokens, 0, "another limit is no windfall");
        assert_eq!(meter.ready_at(now, 1000), now + Duration::from_millis(1));
        limits.set(None);
        assert_eq!(meter.allowance(now, 1000), Allowance::unlimited(1000));
    }
}
