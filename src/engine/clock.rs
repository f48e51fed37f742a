//! The one place that reads the clock; everything below takes `now` as an argument.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// The monotonic present. The clock stands still while the host sleeps.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the clock")]
pub fn now() -> Instant {
    Instant::now()
}

/// The time since the host started, that in which it slept included (`CLOCK_BOOTTIME`).
pub fn since_boot() -> Duration {
    // It never is negative.
    clock_gettime(ClockId::Boottime).try_into().unwrap_or_default()
}
