//! How long a client waits before it tries again.

use std::time::{Duration, Instant};

use rand::RngExt as _;
use rand_core::CryptoRng;

/// The longest delay while an outage is young, or somebody waits for it to end.
const QUICK_MAX: Duration = Duration::from_secs(2);

/// So long an outage is young: most are over by then, and a server that restarts has told its clients or refuses
/// them, which counts as [`Pace::Plain`].
const YOUNG: Duration = Duration::from_secs(180);

/// What the last attempt says about how soon the next makes sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Nothing answered: the way is interrupted, and nobody is troubled by another try.
    Quick,
    /// Somebody is there and says no, or not yet: a server that is full or not started, a proxy.
    Plain,
}

/// Exponential back-off with full jitter: each delay is uniform between nothing and a bound that
/// doubles. After a server's restart its clients come back spread out, not in waves.
///
/// The bound ends at the maximum; but at 2 s after [`Pace::Quick`], for the first three minutes of an outage and
/// for as long as an application's packet waits.
#[derive(Clone, Debug)]
pub struct Backoff {
    base: Duration,
    max: Duration,
    attempts: Option<u32>,
    made: u32,
    /// When the first delay since the last [`reset`](Self::reset) was asked for.
    outage: Option<Instant>,
}

impl Backoff {
    /// Bound of the first delay, unless configured.
    pub const DEFAULT_BASE: Duration = Duration::from_millis(250);

    /// Bound of every later one, unless configured.
    pub const DEFAULT_MAX: Duration = Duration::from_secs(30);

    /// Delays of at most `base`, then twice that and so on, never over `max`; `attempts` of them,
    /// or without end.
    pub const fn new(base: Duration, max: Duration, attempts: Option<u32>) -> Self {
        Self { base, max, attempts, made: 0, outage: None }
    }

    /// Time to wait before the next attempt, uniform in [0, min(max, base · 2ⁿ)] for the n-th since
    /// the last [`reset`](Self::reset), counted from 0. `waiting`: an application's packet waits. `None` once the
    /// attempts are used up.
    pub fn next_delay(
        &mut self,
        now: Instant,
        pace: Pace,
        waiting: bool,
        rng: &mut dyn CryptoRng,
    ) -> Option<Duration> {
        let since = *self.outage.get_or_insert(now);
        if self.attempts.is_some_and(|attempts| self.made >= attempts) {
            return None;
        }
        let is_young = now.saturating_duration_since(since) < YOUNG;
        let max = match pace {
            Pace::Quick if waiting || is_young => self.max.min(QUICK_MAX),
            Pace::Quick | Pace::Plain => self.max,
        };
        let factor = 1_u32.checked_shl(self.made).unwrap_or(u32::MAX);
        let bound = self.base.saturating_mul(factor).min(max);
        self.made = self.made.saturating_add(1);
        Some(uniform(bound, rng))
    }

    /// What is left to wait now that an application's packet waits, of what [`next_delay`](Self::next_delay) gave
    /// after [`Pace::Quick`].
    pub fn hurry(&self, left: Duration, rng: &mut dyn CryptoRng) -> Duration {
        left.min(uniform(self.max.min(QUICK_MAX), rng))
    }

    /// The connection was up, or the network is another one: the next failure starts from the base again.
    pub const fn reset(&mut self) {
        self.made = 0;
        self.outage = None;
    }
}

impl Default for Backoff {
    /// 250 ms, 30 s, without end.
    fn default() -> Self {
        Self::new(Self::DEFAULT_BASE, Self::DEFAULT_MAX, None)
    }
}

fn uniform(bound: Duration, rng: &mut dyn CryptoRng) -> Duration {
    Duration::from_micros(rng.random_range(0..=micros(bound)))
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use super::*;
    use crate::session::epoch;

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
                let delay = backoff.next_delay(epoch(), Pace::Plain, false, &mut rng).unwrap();
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
        assert!(backoff.next_delay(epoch(), Pace::Plain, false, &mut rng).is_some());
        assert!(backoff.next_delay(epoch(), Pace::Plain, false, &mut rng).is_some());
        assert_eq!(backoff.next_delay(epoch(), Pace::Plain, false, &mut rng), None);
        assert_eq!(backoff.next_delay(epoch(), Pace::Plain, false, &mut rng), None);
        backoff.reset();
        assert!(backoff.next_delay(epoch(), Pace::Plain, false, &mut rng).is_some());
        assert_eq!(
            Backoff::new(Duration::ZERO, Duration::ZERO, Some(0)).next_delay(
                epoch(),
                Pace::Plain,
                false,
                &mut rng
            ),
            None
        );
    }

    #[test]
    fn reset_starts_from_the_base() {
        let mut backoff = Backoff::default();
        let mut rng = rng();
        for _ in 0..100 {
            assert!(
                backoff.next_delay(epoch(), Pace::Plain, false, &mut rng).unwrap() <= Backoff::DEFAULT_MAX
            );
        }
        backoff.reset();
        assert!(backoff.next_delay(epoch(), Pace::Plain, false, &mut rng).unwrap() <= Backoff::DEFAULT_BASE);
    }

    #[test]
    fn extreme_settings_do_not_overflow() {
        let mut backoff = Backoff::new(Duration::MAX, Duration::MAX, None);
        let mut rng = rng();
        for _ in 0..100 {
            backoff.next_delay(epoch(), Pace::Plain, false, &mut rng).unwrap();
        }
    }

    /// The longest of many delays that are asked for so long after the first, when the bound has grown.
    fn longest(pace: Pace, waiting: bool, since: Duration) -> Duration {
        let mut rng = rng();
        let delays = (0..1_000).map(|_| {
            let mut backoff = Backoff::default();
            for _ in 0..12 {
                backoff.next_delay(epoch(), pace, waiting, &mut rng);
            }
            backoff.next_delay(epoch() + since, pace, waiting, &mut rng).unwrap()
        });
        delays.max().unwrap()
    }

    #[test]
    fn a_young_outage_and_one_that_matters_are_ended_soon() {
        let (young, old) = (Duration::from_secs(179), Duration::from_secs(181));
        let is_about = |delay: Duration, secs: u64| {
            assert!(
                delay <= Duration::from_secs(secs) && delay > Duration::from_secs(secs) * 9 / 10,
                "{delay:?}"
            );
        };
        is_about(longest(Pace::Quick, false, young), 2);
        is_about(longest(Pace::Quick, false, old), 30);
        is_about(longest(Pace::Quick, true, old), 2);
        is_about(longest(Pace::Plain, true, young), 30);
    }

    #[test]
    fn a_packet_that_comes_meanwhile_shortens_the_wait() {
        let (backoff, mut rng) = (Backoff::default(), rng());
        for left in [Duration::ZERO, Duration::from_millis(3), Duration::from_secs(30)] {
            let hurried = backoff.hurry(left, &mut rng);
            assert!(hurried <= left && hurried <= QUICK_MAX);
        }
    }

    #[test]
    fn a_reset_makes_the_outage_young_again() {
        let mut rng = rng();
        let mut backoff = Backoff::default();
        backoff.next_delay(epoch(), Pace::Quick, false, &mut rng);
        backoff.reset();
        let later = epoch() + YOUNG * 2;
        for _ in 0..100 {
            assert!(backoff.next_delay(later, Pace::Quick, false, &mut rng).unwrap() <= QUICK_MAX);
        }
    }
}
