//! Controlled delay (RFC 8289): packets that have waited for more than a target, for a whole interval,
//! are dropped at a slowly growing rate until the flow's queue has become short.
//!
//! Times are nanoseconds since the queue's own zero.

use std::time::Duration;

/// The standing delay that is accepted (RFC 8289 §4.4).
const TARGET: u64 = Duration::from_millis(5).as_nanos() as u64;

/// The time a sender has to react, about the longest usual round trip (RFC 8289 §4.3).
const INTERVAL: u64 = Duration::from_millis(100).as_nanos() as u64;

/// The time a packet may wait, also in a flow whose sender reacts to nothing.
///
/// Longer than the connection beneath stands still after a loss that only its timer mends (200 ms and
/// a round trip): one packet lost outside must not become a window of packets lost inside. Shorter than a
/// second, after which an answer is no longer waited for: TCP and DNS have sent again by then.
pub const MAX_WAIT: Duration = Duration::from_millis(500);

const MAX_WAIT_NANOS: u64 = MAX_WAIT.as_nanos() as u64;

/// Bytes of a flow that are never dropped for their delay: one full packet (RFC 8289 §5.3), with
/// Ethernet's header as in RFC 8290 §5.2.3, whose quantum it is too.
pub(super) const QUANTUM: usize = 1514;

/// Full packets that a slow session's flows keep, in count and, as the target, in time: with fewer under
/// way a TCP sender that loses one gets no three duplicate acknowledgements and waits for its timer.
const SLOW_PACKETS: usize = 4;

/// What is too long, for one session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    target: u64,
    interval: u64,
    /// Bytes of a flow that stay out of CoDel's reach.
    floor: usize,
    max_wait: u64,
    /// Bytes per second, if limited.
    rate: Option<u64>,
}

impl Default for Limits {
    fn default() -> Self {
        Self { target: TARGET, interval: INTERVAL, floor: QUANTUM, max_wait: MAX_WAIT_NANOS, rate: None }
    }
}

impl Limits {
    /// For a session that is held to `rate` bytes per second: where a few packets take longer than the
    /// target, they are the target.
    pub(super) fn at_rate(rate: Option<u64>) -> Self {
        let Some(rate) = rate else { return Self::default() };
        let floor = SLOW_PACKETS * QUANTUM;
        let few = nanos_at(rate, floor);
        let target = TARGET.max(few);
        Self {
            target,
            interval: (INTERVAL + (target - TARGET)).max(2 * target),
            floor,
            max_wait: MAX_WAIT_NANOS.max(few),
            rate: Some(rate),
        }
    }

    /// The session is held to a rate, which is then why packets wait.
    pub(super) fn are_of_a_rate(&self) -> bool {
        self.rate.is_some()
    }

    /// A packet of `len` bytes has waited too long, its own time on a slow session apart.
    pub(super) fn is_overdue(&self, sojourn: u64, len: usize) -> bool {
        sojourn > self.max_wait + self.rate.map_or(0, |rate| nanos_at(rate, len))
    }
}

/// The time that `bytes` take.
fn nanos_at(rate: u64, bytes: usize) -> u64 {
    bytes as u64 * 1_000_000_000 / rate.max(1)
}

/// The state of one flow.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Codel {
    /// When the delay will have been above the target for an interval; 0 while it is not above.
    first_above: u64,
    /// When the next packet is dropped, or the last one would have been.
    drop_next: u64,
    /// Packets dropped since dropping began.
    count: u16,
    /// `count` when dropping began last.
    last_count: u16,
    dropping: bool,
}

impl Codel {
    /// Whether the packet at the head, of `len` bytes, which has waited for `sojourn`, is to be dropped.
    /// `backlog` are the bytes of the flow that wait, this packet's among them.
    pub(super) fn should_drop(
        &mut self,
        limits: &Limits,
        now: u64,
        sojourn: u64,
        backlog: usize,
        len: usize,
    ) -> bool {
        let late = self.is_late(limits, now, sojourn, backlog, len);
        if self.dropping {
            self.dropping = late;
            if !late || now < self.drop_next {
                return false;
            }
            self.count = self.count.saturating_add(1);
            self.drop_next = control_law(limits.interval, self.drop_next, self.count);
        } else {
            if !late {
                return false;
            }
            self.dropping = true;
            // Where dropping ended only just now, it goes on about as fast.
            let recent = self.count - self.last_count;
            let soon = now.saturating_sub(self.drop_next) < 16 * limits.interval;
            self.count = if recent > 1 && soon { recent } else { 1 };
            self.last_count = self.count;
            self.drop_next = control_law(limits.interval, now, self.count);
        }
        true
    }

    fn is_late(&mut self, limits: &Limits, now: u64, sojourn: u64, backlog: usize, len: usize) -> bool {
        if sojourn < limits.target || backlog <= limits.floor.max(len) {
            self.first_above = 0;
            return false;
        }
        if self.first_above == 0 {
            self.first_above = now + limits.interval;
            return false;
        }
        now >= self.first_above
    }
}

/// The drop rate grows with the square root of what was dropped, to which a TCP sender's own rate
/// answers linearly.
fn control_law(interval: u64, from: u64, count: u16) -> u64 {
    from + (interval as f64 / f64::from(count).sqrt()) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;
    const MANY: usize = 100 * QUANTUM;

    /// When a queue whose packets have all waited for `sojourn`, looked at every millisecond, drops.
    fn drops(limits: &Limits, sojourn: u64, backlog: usize, millis: u64) -> Vec<u64> {
        let mut codel = Codel::default();
        (0..millis).filter(|ms| codel.should_drop(limits, ms * MS, sojourn, backlog, 1420)).collect()
    }

    #[test]
    fn drops_follow_the_control_law() {
        let limits = Limits::default();
        assert_eq!(drops(&limits, 5 * MS, MANY, 100), [0; 0], "not within the first interval");
        let at = drops(&limits, 5 * MS, MANY, 600);
        // The gaps are 100 ms ÷ √1, √2, √3 …
        assert_eq!(&at[..6], [100, 200, 271, 329, 379, 424]);
        assert_eq!(drops(&limits, 5 * MS - 1, MANY, 10_000), [0; 0], "not below the target");
    }

    #[test]
    fn the_last_packet_is_never_dropped() {
        let limits = Limits::default();
        assert_eq!(drops(&limits, 1000 * MS, QUANTUM, 10_000), [0; 0]);
        assert!(!drops(&limits, 1000 * MS, QUANTUM + 1, 10_000).is_empty());
        let mut codel = Codel::default();
        let long = (0..10_000).any(|ms| codel.should_drop(&limits, ms * MS, 1000 * MS, 60_000, 60_000));
        assert!(!long, "however long it is");
    }

    #[test]
    fn one_short_wait_ends_dropping_and_it_resumes_where_it_was() {
        let (limits, mut codel) = (Limits::default(), Codel::default());
        let mut at = Vec::new();
        for ms in 0..3000 {
            // The queue is empty once, after two seconds.
            let sojourn = if ms == 2000 { 0 } else { 20 * MS };
            if codel.should_drop(&limits, ms * MS, sojourn, MANY, 1420) {
                at.push(ms);
            }
        }
        let before = at.iter().filter(|ms| **ms < 2000).count();
        let resumed: Vec<_> = at.iter().filter(|ms| **ms >= 2000).collect();
        assert!(before > 50);
        assert_eq!(**resumed.first().unwrap(), 2101, "an interval later");
        let gap = resumed[1] - resumed[0];
        assert!(gap < 30, "as fast as before: {gap} ms");
    }

    #[test]
    fn a_slow_session_may_keep_a_few_packets_waiting() {
        let fast = Limits::at_rate(Some(10_000_000));
        assert_eq!((fast.target, fast.interval), (TARGET, INTERVAL));
        let slow = Limits::at_rate(Some(100_000));
        assert_eq!(slow.target / MS, 60, "4 packets of 1,514 bytes");
        assert_eq!(slow.interval / MS, 155);
        assert_eq!(slow.max_wait, MAX_WAIT_NANOS);
        let slowest = Limits::at_rate(Some(1000));
        assert_eq!(slowest.target / MS, 6056);
        assert_eq!(slowest.interval, 2 * slowest.target);
        assert!(!slowest.is_overdue(65_000 * MS, 60_000), "a minute for a packet of 60 kB");
        assert_eq!(drops(&slow, 1000 * MS, 4 * QUANTUM, 10_000), [0; 0]);
        assert_eq!(Limits::at_rate(None), Limits::default());
    }

    #[test]
    fn nothing_waits_for_more_than_the_bound() {
        let limits = Limits::default();
        assert!(!limits.is_overdue(500 * MS, 1420));
        assert!(limits.is_overdue(500 * MS + 1, 1420));
        let limited = Limits::at_rate(Some(1_000_000));
        assert!(!limited.is_overdue(501 * MS, 1420), "its own 1.4 ms");
        assert!(limited.is_overdue(502 * MS, 1420));
    }

    #[test]
    fn a_clock_that_jumps_back_is_harmless() {
        let (limits, mut codel) = (Limits::default(), Codel::default());
        for ms in [1000, 1200, 1300, 0, 500, 1, 2000] {
            codel.should_drop(&limits, ms * MS, 20 * MS, MANY, 1420);
        }
    }
}
