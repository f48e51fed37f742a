//! How fast a queue is drained, and how much more it may hold for that.
//!
//! [`QUEUE_BYTES`](super::room::QUEUE_BYTES) is what a client that has stopped may cost. To one that takes a
//! gigabyte in two seconds it is less than a millisecond's worth, and would be used up whenever the scheduler
//! lets others run; what is dropped then is dropped for nothing. So whoever drains fast gets room by time, as
//! long as it drains: all sessions together get what the machine moves in [`WORTH`].

use std::time::Duration;

/// The time that a fast session's packets may wait for their turn: somewhat more than CoDel's target, which
/// so governs before the room is used up.
const WORTH: Duration = Duration::from_millis(8);

/// More is of no use, in bytes: 3.5 Gbit/s for [`WORTH`], with what every session has.
pub(super) const EXTRA_BYTES: usize = 3 * 1024 * 1024;

/// How long is counted what leaves, for one value of the rate. Of two such values the better one counts.
const INTERVAL: u64 = Duration::from_millis(2).as_nanos() as u64;

/// After so long without draining a session has stopped, and has the same room as any other.
const STOPPED: u64 = Duration::from_millis(20).as_nanos() as u64;

/// The rate of one queue. Times are nanoseconds since the queue's zero.
#[derive(Debug, Default)]
pub(super) struct Pace {
    since: u64,
    bytes: u64,
    /// Bytes per second, in the last interval and in the one before.
    rates: [u64; 2],
    drained_at: u64,
}

impl Pace {
    /// `bytes` leave the queue.
    pub(super) fn drained(&mut self, now: u64, bytes: u64) {
        let elapsed = now.saturating_sub(self.since);
        if elapsed >= INTERVAL {
            let rate = u128::from(self.bytes) * 1_000_000_000 / u128::from(elapsed);
            self.rates = [u64::try_from(rate).unwrap_or(u64::MAX), self.rates[0]];
            (self.since, self.bytes) = (now, 0);
        }
        self.bytes += bytes;
        self.drained_at = now;
    }

    /// How much more than `room` the queue may hold now, in bytes.
    pub(super) fn extra(&self, now: u64, room: usize) -> usize {
        if now.saturating_sub(self.drained_at) > STOPPED {
            return 0;
        }
        let [last, before] = self.rates;
        let worth = u128::from(last.max(before)) * WORTH.as_nanos() / 1_000_000_000;
        usize::try_from(worth).unwrap_or(usize::MAX).saturating_sub(room).min(EXTRA_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn paced(bytes_per_ms: u64, milliseconds: u64) -> Pace {
        let mut pace = Pace::default();
        (0..milliseconds).for_each(|ms| pace.drained(ms * MS, bytes_per_ms));
        pace
    }

    #[test]
    fn who_drains_fast_gets_room_by_time() {
        let room = 448 * 1024;
        assert_eq!(Pace::default().extra(0, room), 0);
        assert_eq!(paced(1_000, 50).extra(50 * MS, room), 0, "8 Mbit/s need none");
        let extra = paced(200_000, 50).extra(50 * MS, room);
        assert!((1_100_000..1_200_000).contains(&extra), "{extra}");
        let extra = paced(500_000, 50).extra(50 * MS, room);
        assert!(extra == EXTRA_BYTES, "{extra}");
        assert_eq!(paced(5_000_000, 50).extra(50 * MS, room), EXTRA_BYTES);
    }

    #[test]
    fn who_stops_has_none() {
        let pace = paced(500_000, 50);
        assert!(pace.extra(60 * MS, 0) > 0);
        assert_eq!(pace.extra(70 * MS, 0), 0);
    }

    #[test]
    fn a_pause_is_no_rate() {
        let mut pace = paced(500_000, 50);
        pace.drained(1_000 * MS, 500_000);
        pace.drained(1_002 * MS, 100);
        pace.drained(1_004 * MS, 100);
        assert_eq!(pace.extra(1_004 * MS, 1_000_000 * 8), 0);
        pace.drained(1_006 * MS, 100);
        assert_eq!(pace.extra(1_006 * MS, 448 * 1024), 0);
    }
}
