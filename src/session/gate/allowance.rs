//! A token bucket in one moment: that at which it would be full again.

use std::time::{Duration, Instant};

/// How much may be done at once, and how often. Rate and burst are the caller's.
#[derive(Clone, Copy, Debug)]
pub(super) struct Allowance {
    full_at: Instant,
}

impl Allowance {
    /// One of which nothing has been taken.
    pub(super) const fn full(now: Instant) -> Self {
        Self { full_at: now }
    }

    /// Whether nothing is missing.
    pub(super) fn is_full(&self, now: Instant) -> bool {
        self.full_at <= now
    }

    /// How long it takes to be full again.
    pub(super) fn debt(&self, now: Instant) -> Duration {
        self.full_at.saturating_duration_since(now)
    }

    /// Takes one of `burst` that come back at `rate` a second, if there is one.
    pub(super) fn take(&mut self, now: Instant, rate: u32, burst: u32) -> bool {
        let has_one = self.has_one(now, rate, burst);
        if has_one {
            self.full_at = self.full_at.max(now) + interval(rate);
        }
        has_one
    }

    /// Whether there is one to take.
    pub(super) fn has_one(&self, now: Instant, rate: u32, burst: u32) -> bool {
        self.debt(now) + interval(rate) <= interval(rate) * burst
    }

    /// Adds to the debt, up to `most`.
    pub(super) fn owe(&mut self, now: Instant, more: Duration, most: Duration) {
        self.full_at = (self.full_at.max(now) + more).min(now + most);
    }
}

fn interval(rate: u32) -> Duration {
    Duration::from_secs(1) / rate.max(1)
}
