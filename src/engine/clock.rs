//! The one place that reads the clock; everything below takes `now` as an argument.

use std::time::Instant;

/// The monotonic present.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the clock")]
pub fn now() -> Instant {
    Instant::now()
}
