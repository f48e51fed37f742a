//! How long a connection had been silent when it was cut, and what that teaches (API §6): something on
//! its way lets no connection be silent for so long.
//!
//! ```text
//!  last frame, either way          the cut
//!        ├──────── silence ──────────┤            noticed at once
//!        ├──────── silence ──────┬───┤            noticed by the next frame sent, which is never answered
//! ```

use std::time::{Duration, Instant};

/// A cut after a shorter silence did not come for being idle: no proxy is that impatient, and a
/// connection is as likely to break just after its last frame for any other reason.
const LEAST_SILENCE: Duration = Duration::from_secs(3);

/// No cap is lower: what API §2 allows as an interval. The last keepalive of 95 % of it still comes before
/// a cut after 5 s, and more frequent ones would cost more than the connection is worth.
const LEAST_CAP: Duration = Duration::from_secs(5);

/// A connection that something on the way has forgotten is reset in answer to the next frame: within a
/// round trip, or what TCP needs to send that frame again. As long as a keepalive waits at most.
const ANSWER_WAIT: Duration = Duration::from_secs(10);

/// When a connection was last used, in either direction.
#[derive(Debug)]
pub(super) struct Silence {
    last: Instant,
    /// The first frame sent since anything came.
    probe: Option<Probe>,
}

#[derive(Clone, Copy, Debug)]
struct Probe {
    at: Instant,
    /// How long nothing had passed before it.
    before: Duration,
}

impl Silence {
    /// Begins with the handshake, which is a frame in each direction.
    pub(super) const fn new(now: Instant) -> Self {
        Self { last: now, probe: None }
    }

    /// Frames came.
    pub(super) fn received(&mut self, now: Instant) {
        self.last = self.last.max(now);
        self.probe = None;
    }

    /// Frames were sent.
    pub(super) fn sent(&mut self, now: Instant) {
        let before = now.saturating_duration_since(self.last);
        self.probe.get_or_insert(Probe { at: now, before });
        self.last = self.last.max(now);
    }

    /// How long the connection had been silent when it was cut, which is noticed `now`; none if it was
    /// not idle. `stuck`: something that was sent did not get through, so that silence since proves nothing.
    pub(super) fn before_cut(&self, now: Instant, stuck: bool) -> Option<Duration> {
        let by_probe = self
            .probe
            .filter(|probe| now.saturating_duration_since(probe.at) <= ANSWER_WAIT)
            .map(|probe| probe.before);
        let until_now = (!stuck).then(|| now.saturating_duration_since(self.last));
        by_probe.max(until_now).filter(|silence| *silence >= LEAST_SILENCE)
    }
}

/// The longest interval between keepalives that the way to a server bears, as far as is known. A client
/// keeps one for as long as it stays with a server, over all its connections. What was learned a day ago is
/// forgotten: the way may be another one, and finding out again costs one cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeepaliveCap(Option<Learned>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Learned {
    bound: Duration,
    at: Instant,
}

/// How long it is remembered what a way bears.
const MEMORY: Duration = Duration::from_secs(24 * 3_600);

impl KeepaliveCap {
    /// Takes in that a connection was cut, noticed `now`, after so long a silence: four fifths of it are the new
    /// bound, if that is lower than the old one; never less than 5 s. True if it is.
    pub fn learn(&mut self, now: Instant, silence: Duration) -> bool {
        self.forget_old(now);
        let bound = (silence / 5).saturating_mul(4).max(LEAST_CAP);
        let lower = self.0.is_none_or(|known| bound < known.bound);
        if lower {
            self.0 = Some(Learned { bound, at: now });
        }
        lower
    }

    /// The bound; none before anything was learned.
    pub fn get(self) -> Option<Duration> {
        self.0.map(|learned| learned.bound)
    }

    /// Forgets what was learned a day ago.
    pub fn forget_old(&mut self, now: Instant) {
        self.0 = self.0.filter(|learned| now.saturating_duration_since(learned.at) < MEMORY);
    }

    /// The interval, or the bound if that is shorter.
    pub(super) fn limit(self, interval: Duration) -> Duration {
        self.0.map_or(interval, |learned| interval.min(learned.bound))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::epoch;

    const fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn a_cut_is_measured_from_the_last_frame_in_either_direction() {
        let start = epoch();
        let mut silence = Silence::new(start);
        assert_eq!(silence.before_cut(start + secs(20), false), Some(secs(20)));
        silence.sent(start + secs(20));
        silence.received(start + secs(21));
        assert_eq!(silence.before_cut(start + secs(30), false), Some(secs(9)));
        // A packet that nobody answers is use, too.
        silence.sent(start + secs(25));
        assert_eq!(silence.before_cut(start + secs(45), false), Some(secs(20)));
    }

    #[test]
    fn a_cut_that_the_next_frame_meets_counts_up_to_that_frame() {
        let start = epoch();
        let mut silence = Silence::new(start);
        silence.sent(start + secs(50));
        for noticed in [Duration::ZERO, Duration::from_millis(80), secs(10)] {
            assert_eq!(silence.before_cut(start + secs(50) + noticed, false), Some(secs(50)));
            assert_eq!(silence.before_cut(start + secs(50) + noticed, true), Some(secs(50)));
        }
        // The next ones, sent as no answer comes, change nothing.
        silence.sent(start + secs(52));
        assert_eq!(silence.before_cut(start + secs(53), true), Some(secs(50)));
        // Much later it is another matter.
        assert_eq!(silence.before_cut(start + secs(61), true), None);
        // An answer: the connection was whole after those 50 s.
        silence.received(start + secs(54));
        assert_eq!(silence.before_cut(start + secs(55), false), None);
    }

    #[test]
    fn a_cut_amid_traffic_teaches_nothing() {
        let start = epoch();
        let mut silence = Silence::new(start);
        for second in 1..100 {
            silence.sent(start + secs(second));
            assert_eq!(silence.before_cut(start + secs(second + 2), false), None);
        }
        assert_eq!(silence.before_cut(start + secs(102), false), Some(secs(3)));
        assert_eq!(silence.before_cut(start + secs(102), true), None, "what was sent did not get through");
    }

    #[test]
    fn a_clock_that_goes_back_makes_no_silence() {
        let start = epoch();
        let mut silence = Silence::new(start + secs(100));
        silence.sent(start);
        silence.received(start);
        silence.sent(start);
        assert_eq!(silence.before_cut(start, false), None);
        assert_eq!(silence.before_cut(start + secs(104), false), Some(secs(4)));
    }

    #[test]
    fn a_cap_is_four_fifths_of_the_silence_and_only_goes_down() {
        let mut cap = KeepaliveCap::default();
        assert_eq!(cap.limit(secs(60)), secs(60));
        assert!(cap.learn(epoch(), secs(50)));
        assert_eq!(
            (cap.get(), cap.limit(secs(60)), cap.limit(secs(10))),
            (Some(secs(40)), secs(40), secs(10))
        );
        assert!(!cap.learn(epoch(), secs(50)));
        assert!(!cap.learn(epoch(), secs(100)));
        assert!(cap.learn(epoch(), secs(20)));
        assert_eq!(cap.get(), Some(secs(16)));
        assert!(cap.learn(epoch(), secs(3)));
        assert_eq!(cap.get(), Some(secs(5)), "keepalives don't go out more often than every 5 s");
        assert!(!cap.learn(epoch(), secs(3)), "there is nothing lower");
        assert!(KeepaliveCap::default().learn(epoch(), Duration::MAX));
    }

    #[test]
    fn what_was_learned_a_day_ago_is_forgotten() {
        let start = epoch();
        let mut cap = KeepaliveCap::default();
        assert!(cap.learn(start, secs(50)));
        cap.forget_old(start + MEMORY - secs(1));
        assert_eq!(cap.get(), Some(secs(40)));
        cap.forget_old(start + MEMORY);
        assert_eq!(cap.get(), None);
        assert!(cap.learn(start, secs(50)) && !cap.learn(start + MEMORY / 2, secs(60)));
        assert!(
            cap.learn(start + MEMORY, secs(60)),
            "a longer silence counts when the shorter one is forgotten"
        );
    }
}
