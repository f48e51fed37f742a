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
        match (self.limits.get().map(kept_between_timers), &mut self.bucket) {
            (Some(limit), Some(bucket)) => bucket.set_limit(now, limit),
            (Some(limit), bucket @ None) => *bucket = Some(TokenBucket::new(limit, now)),
            (None, bucket) => *bucket = None,
        }
    }
}

/// A timer may fire two milliseconds after the moment that it was set to: a bucket that is full sooner would lose
/// what comes until then.
const TIMERS_PER_SECOND: u64 = 500;

/// The limit with a burst that outlasts a late timer.
fn kept_between_timers(limit: RateLimit) -> RateLimit {
    let burst = limit.burst().max(limit.rate() / TIMERS_PER_SECOND);
    // No other burst than the limit's can be refused, and a greater one is not.
    RateLimit::new(limit.rate(), burst).unwrap_or(limit)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::engine::clock;
    use crate::packet::Offload;
    use crate::packet::ip::tests::v4;
    use crate::qos::{Batch, FlowHasher, PacketQueue};
    use crate::telemetry::Traffic;

    fn limit(rate: u64) -> RateLimit {
        RateLimit::new(rate, 65_536).unwrap()
    }

    #[test]
    fn a_fast_limit_keeps_what_comes_between_two_timers() {
        let now = clock::now();
        let fast = RateLimit::new(100_000_000, 65_536).unwrap();
        let mut meter = Meter::new(Arc::new(Limits::new(Some(fast))));
        assert_eq!(meter.allowance(now, 1000).tokens, 200_000);
        meter.take(now, 200_000);
        let later = now + Duration::from_millis(2);
        assert_eq!(meter.allowance(later, 1000).tokens, 200_000, "all of two milliseconds");
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

    /// What a link or a port takes out of a backlog that never ends, in simulated time: the size of each
    /// batch, at the millisecond that its task's timer fires.
    fn batches(rate: u64, batch_bytes: usize, seconds: u64) -> Vec<(Duration, usize)> {
        let start = clock::now();
        let mut meter = Meter::new(Arc::new(Limits::new(Some(limit(rate)))));
        let queue = PacketQueue::new(Arc::<Traffic>::default(), FlowHasher::new(&mut rand::rng()));
        queue.set_rate(Some(rate));
        let packet = v4([192, 0, 2, 1], [10, 8, 0, 2], 17, &[1; 1400]);
        let (mut batch, mut seen) = (Batch::default(), Vec::new());
        let mut elapsed = Duration::ZERO;
        while elapsed < Duration::from_secs(seconds) {
            let now = start + elapsed;
            let missing = 64_usize.saturating_sub(queue.len());
            let mut producer = queue.producer(now);
            (0..missing).for_each(|_| producer.push(&packet, Offload::NONE));
            drop(producer);
            queue.drain_into(now, &mut batch, meter.allowance(now, batch_bytes));
            meter.take(now, batch.len_bytes());
            if batch.len_bytes() > 0 {
                seen.push((elapsed, batch.len_bytes()));
            }
            if let Some(length) = batch.short_of() {
                let wait = meter.ready_at(now, length) - start;
                // Timers fire at the end of a millisecond.
                elapsed = Duration::from_millis(wait.as_nanos().div_ceil(1_000_000) as u64).max(elapsed);
            }
        }
        seen
    }

    #[test]
    fn a_limited_session_sends_in_small_batches_once_its_burst_is_spent() {
        const PACKET: usize = 1420;
        // In batches as of a link, and as of what is let go of in the other direction.
        for batch_bytes in [32 * 1024, 64 * 1024] {
            for rate in [10_000, 100_000, 1_000_000, 2_000_000, 10_000_000] {
                let seconds = 4;
                let seen = batches(rate, batch_bytes, seconds);
                let mut burst = 65_536_usize;
                let mut total = 0;
                for (at, bytes) in &seen {
                    total += bytes;
                    if burst > 0 {
                        burst = burst.saturating_sub(*bytes).saturating_sub(PACKET);
                        continue;
                    }
                    // What comes in within the timer's millisecond, and the packet it waited for.
                    let most = PACKET + rate as usize / 1000;
                    assert!(*bytes <= most, "{rate} B/s: {bytes} bytes at {at:?}");
                }
                let allowed = 65_536 + rate as usize * seconds as usize;
                assert!(
                    total <= allowed && total + PACKET * 2 + rate as usize / 500 >= allowed,
                    "{rate}: {total}"
                );
            }
        }
    }
}
