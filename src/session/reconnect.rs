//! How long a client waits before it tries again.

use std::time::Duration;

use rand::RngExt as _;
use rand_core::CryptoRng;

/// Exponential back-off with full jitter: each delay is uniform between nothing and a bound that
/// doubles. After a server's restart its clients come back spread out, not in waves.
#[derive(Clone, Debug)]
pub struct Backoff {
    base: Duration,
    max: Duration,
    attempts: Option<u32>,
    made: u32,
}

impl Backoff {
    /// Bound of the first delay, unless configured.
    pub const DEFAULT_BASE: Duration = Duration::from_millis(250);

    /// Bound of every later one, unless configured.
    pub const DEFAULT_MAX: Duration = Duration::from_secs(30);

    /// Delays of at most `base`, then twice that and so on, never over `max`; `attempts` of them,
    /// or without end.
    pub const fn new(base: Duration, max: Duration, attempts: Option<u32>) -> Self {
        Self { base, max, attempts, made: 0 }
    }

    /// Time to wait before the next attempt, uniform in [0, min(max, base · 2ⁿ)] for the n-th since
    /// the last [`reset`](Self::reset), counted from 0. `None` once the attempts are used up.
    pub fn next_delay(&mut self, rng: &mut dyn CryptoRng) -> Option<Duration> {
        if self.attempts.is_some_and(|attempts| self.made >= attempts) {
            return None;
        }
        let factor = 1_u32.checked_shl(self.made).unwrap_or(u32::MAX);
        let bound = self.base.saturating_mul(factor).min(self.max);
        self.made = self.made.saturating_add(1);
        Some(Duration::from_micros(rng.random_range(0..=micros(bound))))
    }

    /// The connection was up: the next failure starts from the base again.
    pub const fn reset(&mut self) {
        self.made = 0;
    }
}

impl Default for Backoff {
    /// 250 ms, 30 s, without end.
    fn default() -> Self {
        Self::new(Self::DEFAULT_BASE, Self::DEFAULT_MAX, None)
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use super::*;

    fn rng() -> StdRng {
        StdRng::seed_from_u64(7)
    }

    #[test]
    fn delays_fill_their_bounds_and_never_leave_them() {
        let bounds =
            [250, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000].map(Duration::from_millis);
        let mut longest = [Duration::ZERO; 9];
        let mut shortest = [Duration::MAX; 9];
        let mut rng = rng();
        for _ in 0..2_000 {
            let mut backoff = Backoff::default();
            for n in 0..bounds.len() {
                let delay = backoff.next_delay(&mut rng).unwrap();
                longest[n] = longest[n].max(delay);
                shortest[n] = shortest[n].min(delay);
            }
        }
        for (n, bound) in bounds.into_iter().enumerate() {
            assert!(longest[n] <= bound && longest[n] > bound * 98 / 100, "{n}: {:?}", longest[n]);
            assert!(shortest[n] < bound * 2 / 100, "{n}: {:?}", shortest[n]);
        }
    }

    #[test]
    fn attempts_end() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(2), Some(2));
        let mut rng = rng();
        assert!(backoff.next_delay(&mut rng).is_some());
        assert!(backoff.next_delay(&mut rng).is_some());
        assert_eq!(backoff.next_delay(&mut rng), None);
        assert_eq!(backoff.next_delay(&mut rng), None);
        backoff.reset();
        assert!(backoff.next_delay(&mut rng).is_some());
        assert_eq!(Backoff::new(Duration::ZERO, Duration::ZERO, Some(0)).next_delay(&mut rng), None);
    }

    #[test]
    fn reset_starts_from_the_base() {
        let mut backoff = Backoff::default();
        let mut rng = rng();
        for _ in 0..100 {
            assert!(backoff.next_delay(&mut rng).unwrap() <= Backoff::DEFAULT_MAX);
        }
        backoff.reset();
        assert!(backoff.next_delay(&mut rng).unwrap() <= Backoff::DEFAULT_BASE);
    }

    #[test]
    fn extreme_settings_do_not_overflow() {
        let mut backoff = Backoff::new(Duration::MAX, Duration::MAX, None);
        let mut rng = rng();
        for _ in 0..100 {
            backoff.next_delay(&mut rng).unwrap();
        }
    }
}
