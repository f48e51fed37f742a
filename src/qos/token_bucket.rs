//! How many bytes a client may move (API §6): `rate` a second on average, `burst` at once.

use std::time::{Duration, Instant};

/// The least and the greatest rate, in bytes per second (API §3).
pub const RATE_RANGE: std::ops::RangeInclusive<u64> = 1_000..=100_000_000_000;

/// The least burst, in bytes (API §3): every IP packet fits.
pub const MIN_BURST: u64 = 65_536;

/// The greatest burst, in bytes: the integers that JavaScript can say.
pub const MAX_BURST: u64 = (1 << 53) - 1;

/// The unit that levels are kept in: with rates in bytes and times in nanoseconds nothing is rounded.
const NANOS: i128 = 1_000_000_000;

/// A rate limit whose numbers are in range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    rate: u64,
    burst: u64,
}

/// Why a rate limit is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RateLimitError {
    /// Outside [`RATE_RANGE`].
    #[error("the rate must be 1,000 to 100,000,000,000 bytes per second, not {0}")]
    Rate(u64),
    /// Under [`MIN_BURST`] or over [`MAX_BURST`].
    #[error("the burst must be 65,536 to 9,007,199,254,740,991 bytes, not {0}")]
    Burst(u64),
}

impl RateLimit {
    /// `rate` in bytes per second, `burst` in bytes.
    pub fn new(rate: u64, burst: u64) -> Result<Self, RateLimitError> {
        if !RATE_RANGE.contains(&rate) {
            return Err(RateLimitError::Rate(rate));
        }
        if !(MIN_BURST..=MAX_BURST).contains(&burst) {
            return Err(RateLimitError::Burst(burst));
        }
        Ok(Self { rate, burst })
    }

    /// The burst of a limit that names none: one second of its rate (API §3), in range.
    pub fn default_burst(rate: u64) -> u64 {
        rate.clamp(MIN_BURST, MAX_BURST)
    }

    /// Bytes per second.
    pub fn rate(&self) -> u64 {
        self.rate
    }

    /// Bytes.
    pub fn burst(&self) -> u64 {
        self.burst
    }
}

/// A bucket that begins full and fills at the limit's rate.
///
/// Who can ask before sending takes what is [`available`](Self::available), which is never more than
/// there is. Who learns how long something is by receiving it may take that too: the level then goes
/// below zero, and what follows waits until the debt is paid.
///
/// The arithmetic is exact: over any time and however often it is asked, as many bytes come in as rate ×
/// time says. A clock that jumps ahead fills the bucket and no more; one that goes back changes nothing.
#[derive(Clone, Debug)]
pub struct TokenBucket {
    limit: RateLimit,
    /// In billionths of a byte, at `at`; at most the burst.
    level: i128,
    at: Instant,
}

impl TokenBucket {
    /// A full bucket.
    pub fn new(limit: RateLimit, now: Instant) -> Self {
        Self { limit, level: full(limit), at: now }
    }

    /// The limit in force.
    pub fn limit(&self) -> RateLimit {
        self.limit
    }

    /// Bytes that may be taken now; 0 while there is a debt.
    pub fn available(&mut self, now: Instant) -> u64 {
        self.fill(now);
        u64::try_from(self.level / NANOS).unwrap_or(0)
    }

    /// Takes `bytes`, whether they are there or not.
    pub fn take(&mut self, now: Instant, bytes: u64) {
        self.fill(now);
        // Bounded, so that no number of calls overflows it: 10^28 bytes are never paid.
        self.level = (self.level - i128::from(bytes) * NANOS).max(i128::MIN / 2);
    }

    /// When `bytes` (more than the burst count as the burst) will be there if nothing is taken
    /// meanwhile; `now` if they are.
    pub fn ready_at(&mut self, now: Instant, bytes: u64) -> Instant {
        self.fill(now);
        let missing = i128::from(bytes.min(self.limit.burst)) * NANOS - self.level;
        if missing <= 0 {
            return now;
        }
        let nanos = (missing + i128::from(self.limit.rate) - 1) / i128::from(self.limit.rate);
        let wait = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        // Beyond what an Instant can say is as good as never; asked again then, the answer is right.
        self.at.checked_add(wait).unwrap_or(now + Duration::from_secs(86_400))
    }

    /// Puts another limit in force. What was saved up is kept as far as the new burst allows, and
    /// a debt is paid at the new rate.
    pub fn set_limit(&mut self, now: Instant, limit: RateLimit) {
        self.fill(now);
        self.limit = limit;
        self.level = self.level.min(full(limit));
    }

    fn fill(&mut self, now: Instant) {
        let Some(elapsed) = now.checked_duration_since(self.at) else { return };
        // 10^11 bytes a second for the 584 years of 2^64 ns stay below 2^101.
        let nanos = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
        let gained = i128::from(self.limit.rate) * i128::from(nanos);
        self.level = self.level.saturating_add(gained).min(full(self.limit));
        self.at = now;
    }
}

fn full(limit: RateLimit) -> i128 {
    i128::from(limit.burst) * NANOS
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::epoch;
    use super::*;

    fn limit(rate: u64, burst: u64) -> RateLimit {
        RateLimit::new(rate, burst).unwrap()
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn limits_are_in_range() {
        assert!(RateLimit::new(1000, 65_536).is_ok());
        assert!(RateLimit::new(100_000_000_000, MAX_BURST).is_ok());
        for rate in [0, 999, 100_000_000_001, u64::MAX] {
            assert_eq!(RateLimit::new(rate, 65_536), Err(RateLimitError::Rate(rate)));
        }
        for burst in [0, 65_535, MAX_BURST + 1, u64::MAX] {
            assert_eq!(RateLimit::new(1000, burst), Err(RateLimitError::Burst(burst)));
        }
        for (rate, burst) in [(1000, 65_536), (65_537, 65_537), (100_000_000_000, 100_000_000_000)] {
            assert_eq!(RateLimit::default_burst(rate), burst);
        }
    }

    #[test]
    fn begins_full_and_fills_at_its_rate() {
        let now = epoch();
        let mut bucket = TokenBucket::new(limit(10_000, 70_000), now);
        assert_eq!(bucket.available(now), 70_000);
        bucket.take(now, 70_000);
        assert_eq!(bucket.available(now), 0);
        assert_eq!(bucket.available(now + SECOND / 2), 5_000);
        assert_eq!(bucket.available(now + 100 * SECOND), 70_000);
        assert_eq!(bucket.available(now + 4_000_000_000 * SECOND), 70_000, "a century");
    }

    #[test]
    fn says_when_bytes_will_be_there() {
        let now = epoch();
        let mut bucket = TokenBucket::new(limit(3000, 65_536), now);
        assert_eq!(bucket.ready_at(now, 65_536), now);
        bucket.take(now, 65_536);
        let ready = bucket.ready_at(now, 1420);
        assert_eq!((ready - now).as_nanos(), 473_333_334, "rounded up");
        assert_eq!(bucket.available(ready - Duration::from_nanos(1)), 1419);
        assert_eq!(bucket.available(ready), 1420);
        let all = bucket.ready_at(now, u64::MAX);
        assert_eq!(bucket.available(all), 65_536, "more than the burst never comes");
    }

    #[test]
    fn a_debt_is_paid_first() {
        let now = epoch();
        let mut bucket = TokenBucket::new(limit(1000, 65_536), now);
        bucket.take(now, 66_536);
        assert_eq!(bucket.ready_at(now, 500), now + SECOND * 3 / 2);
        assert_eq!(bucket.available(now + SECOND), 0);
        assert_eq!(bucket.available(now + 2 * SECOND), 1000);
        (0..100).for_each(|_| bucket.take(now, u64::MAX));
        assert_eq!(bucket.available(now + 4_000_000_000 * SECOND), 0);
        bucket.ready_at(now, 1);
    }

    #[test]
    fn a_change_gives_nothing_and_takes_nothing() {
        let now = epoch();
        let mut bucket = TokenBucket::new(limit(1_000_000, 1_000_000), now);
        bucket.take(now, 900_000);
        bucket.set_limit(now, limit(1_000_000, 65_536));
        assert_eq!(bucket.available(now), 65_536, "at most the new burst");
        bucket.set_limit(now, limit(1_000_000, 10_000_000));
        assert_eq!(bucket.available(now), 65_536, "no windfall");
        bucket.take(now, 165_536);
        bucket.set_limit(now, limit(1000, 65_536));
        assert_eq!(bucket.available(now + 100 * SECOND), 0, "the debt stays what it was");
        assert_eq!(bucket.available(now + 101 * SECOND), 1000);
        assert_eq!(bucket.limit().rate(), 1000);

        // Time before the change counts at the old rate.
        let mut bucket = TokenBucket::new(limit(1000, 100_000), now);
        bucket.take(now, 100_000);
        bucket.set_limit(now + SECOND, limit(50_000, 100_000));
        assert_eq!(bucket.available(now + SECOND), 1000);
        assert_eq!(bucket.available(now + 2 * SECOND), 51_000);
    }

    #[test]
    fn a_clock_that_goes_back_changes_nothing() {
        let now = epoch() + 1000 * SECOND;
        let mut bucket = TokenBucket::new(limit(1000, 65_536), now);
        bucket.take(now, 65_536);
        assert_eq!(bucket.available(now - 500 * SECOND), 0);
        assert_eq!(bucket.available(now), 0);
        assert_eq!(bucket.available(now + SECOND), 1000);
    }

    #[test]
    fn years_of_small_steps_do_not_drift() {
        let mut now = epoch();
        // A rate that divides nothing evenly.
        let mut bucket = TokenBucket::new(limit(999_983, 65_536), now);
        bucket.take(now, 65_536);
        let (step, steps) = (Duration::from_nanos(777_777_777), 1_000_000_u64);
        let mut taken = 0_u64;
        for _ in 0..steps {
            now += step / 13;
            let bytes = bucket.available(now);
            bucket.take(now, bytes);
            taken += bytes;
        }
        let elapsed = u128::from(steps) * (step / 13).as_nanos();
        assert_eq!(u128::from(taken), 999_983 * elapsed / 1_000_000_000);
    }

    proptest! {
        /// Over every stretch of time, no more than the burst and the rate allow.
        #[test]
        fn never_more_than_the_limit_allows(
            rate in 1000_u64..1_000_000_000, burst in MIN_BURST..10_000_000,
            steps in proptest::collection::vec((0_u64..20_000_000, 0_u64..70_000), 1..200),
        ) {
            let start = epoch();
            let mut now = start;
            let mut bucket = TokenBucket::new(limit(rate, burst), now);
            let mut taken = Vec::new();
            for (wait, len) in steps {
                now += Duration::from_nanos(wait);
                if bucket.available(now) >= len {
                    bucket.take(now, len);
                    taken.push((now - start, len));
                } else {
                    let ready = bucket.ready_at(now, len);
                    // What exceeds the burst counts as the burst, which may be there.
                    prop_assert!(ready > now || len > burst);
                    let there = bucket.clone().available(ready);
                    prop_assert!(there >= len.min(burst), "{} of {}", there, len);
                }
            }
            for from in 0..taken.len() {
                let mut sum = 0;
                for (at, len) in &taken[from..] {
                    sum += len;
                    let nanos = (*at - taken[from].0).as_nanos();
                    prop_assert!(u128::from(sum) <= u128::from(burst) + u128::from(rate) * nanos / 1_000_000_000 + 1);
                }
            }
        }
    }
}
