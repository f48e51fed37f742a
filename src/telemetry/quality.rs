//! The quality of a link, measured by keepalives: round trips, jitter, loss.
//!
//! A *check* is a keepalive that was answered or timed out. [`Estimator`] turns checks into numbers;
//! what follows from the numbers (health, intervals, a dead peer) is decided by the session.

use std::time::{Duration, Instant};

/// Checks that the loss ratio looks back on (API §6): the bits of one word.
pub const LOSS_WINDOW: u32 = u64::BITS;

/// Fewer checks than this say nothing about loss (API §6): one lost of ten would read as 10 %.
pub const LOSS_MIN_CHECKS: u32 = 16;

/// How far back [`Quality::min_rtt`] and [`Quality::max_rtt`] look (API §2).
pub const RTT_WINDOW: Duration = Duration::from_secs(600);

/// Slices of [`RTT_WINDOW`], each with its own extremes: the window moves in steps of 30 s, and its
/// memory does not depend on how many round trips it saw.
const RTT_SLICES: usize = 20;

/// Length of one slice.
const RTT_SLICE: Duration = Duration::from_secs(RTT_WINDOW.as_secs() / RTT_SLICES as u64);

/// How good a link is (API §6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LinkHealth {
    /// Jitter under 30 ms, loss under 2 %, no time-out.
    #[default]
    Healthy,
    /// Jitter over 50 ms, or loss over 5 %, or a time-out.
    Degraded,
    /// Loss over 20 %, or two time-outs in a row.
    Critical,
}

impl LinkHealth {
    /// The string that JavaScript and JSON see.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Critical => "critical",
        }
    }
}

/// What is known about a link at one moment. Durations are zero before the first round trip.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quality {
    /// Smoothed round-trip time (RFC 6298).
    pub srtt: Duration,
    /// Smoothed difference between one round trip and the next (RFC 3550).
    pub jitter: Duration,
    /// The shortest round trip of the last [`RTT_WINDOW`].
    pub min_rtt: Duration,
    /// The longest round trip of the last [`RTT_WINDOW`].
    pub max_rtt: Duration,
    /// Timed out ÷ sent over the last [`LOSS_WINDOW`] checks, 0 to 1.
    pub loss_ratio: f64,
    /// Time-outs since the last answer.
    pub consecutive_timeouts: u32,
    /// What the numbers add up to.
    pub link_health: LinkHealth,
    /// Time between two keepalives now, before its random shortening.
    pub keepalive_interval: Duration,
}

/// Collects checks; a few hundred bytes, whatever it is fed.
#[derive(Clone, Debug, Default)]
pub struct Estimator {
    /// Smoothed round trip and jitter, from the first round trip on.
    smoothed: Option<Smoothed>,
    losses: Losses,
    extremes: Extremes,
    consecutive_timeouts: u32,
}

impl Estimator {
    /// A keepalive was answered in time, after `rtt`.
    pub fn answered(&mut self, now: Instant, rtt: Duration) {
        self.losses.push(false);
        self.round_trip(now, rtt);
    }

    /// A keepalive that had timed out was answered after all. That is no second check, but a round
    /// trip: without it a link that became slower than the time-out would stay unmeasured for good.
    pub fn answered_late(&mut self, now: Instant, rtt: Duration) {
        self.round_trip(now, rtt);
    }

    /// A keepalive timed out.
    pub fn timed_out(&mut self) {
        self.losses.push(true);
        self.consecutive_timeouts = self.consecutive_timeouts.saturating_add(1);
    }

    /// Smoothed round-trip time; zero before the first one.
    pub fn srtt(&self) -> Duration {
        self.smoothed.as_ref().map_or(Duration::ZERO, |s| s.srtt)
    }

    /// Smoothed jitter; zero before the second round trip.
    pub fn jitter(&self) -> Duration {
        self.smoothed.as_ref().map_or(Duration::ZERO, |s| s.jitter)
    }

    /// Time-outs since the last answer.
    pub const fn consecutive_timeouts(&self) -> u32 {
        self.consecutive_timeouts
    }

    /// Whether more than `percent` of the checks in the window timed out. No before
    /// [`LOSS_MIN_CHECKS`] checks.
    pub const fn loss_exceeds(&self, percent: u32) -> bool {
        self.losses.judged() && self.losses.lost() * 100 > percent * self.losses.checks
    }

    /// Whether less than `percent` of the checks in the window timed out. Yes before
    /// [`LOSS_MIN_CHECKS`] checks.
    pub const fn loss_below(&self, percent: u32) -> bool {
        !self.losses.judged() || self.losses.lost() * 100 < percent * self.losses.checks
    }

    /// The numbers at `now`, with the two that are decided elsewhere.
    pub fn quality(&self, now: Instant, link_health: LinkHealth, keepalive_interval: Duration) -> Quality {
        let (min_rtt, max_rtt) = self.extremes.within_window(now).unwrap_or_default();
        Quality {
            srtt: self.srtt(),
            jitter: self.jitter(),
            min_rtt,
            max_rtt,
            loss_ratio: self.losses.ratio(),
            consecutive_timeouts: self.consecutive_timeouts,
            link_health,
            keepalive_interval,
        }
    }

    fn round_trip(&mut self, now: Instant, rtt: Duration) {
        match &mut self.smoothed {
            Some(smoothed) => smoothed.update(rtt),
            None => self.smoothed = Some(Smoothed::first(rtt)),
        }
        self.extremes.push(now, rtt);
        self.consecutive_timeouts = 0;
    }
}

#[derive(Clone, Debug)]
struct Smoothed {
    srtt: Duration,
    jitter: Duration,
    last: Duration,
}

impl Smoothed {
    const fn first(rtt: Duration) -> Self {
        Self { srtt: rtt, jitter: Duration::ZERO, last: rtt }
    }

    fn update(&mut self, rtt: Duration) {
        // RFC 6298 §2.3: SRTT <- (1 - 1/8) * SRTT + 1/8 * R'
        self.srtt = self.srtt * 7 / 8 + rtt / 8;
        // RFC 3550 §6.4.1: J <- J + (|D| - J) / 16, D being the difference of two transit times;
        // those of two round trips here.
        self.jitter = self.jitter * 15 / 16 + rtt.abs_diff(self.last) / 16;
        self.last = rtt;
    }
}

/// The outcomes of the last checks, the newest in the lowest bit, set if it timed out.
#[derive(Clone, Debug, Default)]
struct Losses {
    outcomes: u64,
    checks: u32,
}

impl Losses {
    const fn push(&mut self, lost: bool) {
        self.outcomes = self.outcomes << 1 | lost as u64;
        if self.checks < LOSS_WINDOW {
            self.checks += 1;
        }
    }

    const fn lost(&self) -> u32 {
        self.outcomes.count_ones()
    }

    const fn judged(&self) -> bool {
        self.checks >= LOSS_MIN_CHECKS
    }

    fn ratio(&self) -> f64 {
        if self.checks == 0 { 0.0 } else { f64::from(self.lost()) / f64::from(self.checks) }
    }
}

/// The extremes of each slice of the window, a ring.
#[derive(Clone, Debug, Default)]
struct Extremes {
    slices: [Option<Slice>; RTT_SLICES],
    newest: usize,
}

#[derive(Clone, Copy, Debug)]
struct Slice {
    since: Instant,
    min: Duration,
    max: Duration,
}

impl Extremes {
    fn push(&mut self, now: Instant, rtt: Duration) {
        if let Some(Some(slice)) = self.slices.get_mut(self.newest) {
            if now.saturating_duration_since(slice.since) < RTT_SLICE {
                slice.min = slice.min.min(rtt);
                slice.max = slice.max.max(rtt);
                return;
            }
            self.newest = (self.newest + 1) % RTT_SLICES;
        }
        // A slice begins with its first round trip, so the one that is overwritten here began at
        // least RTT_WINDOW ago.
        self.slices[self.newest] = Some(Slice { since: now, min: rtt, max: rtt });
    }

    fn within_window(&self, now: Instant) -> Option<(Duration, Duration)> {
        self.slices
            .iter()
            .flatten()
            .filter(|slice| now.saturating_duration_since(slice.since) < RTT_WINDOW)
            .map(|slice| (slice.min, slice.max))
            .reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    /// Where simulated time begins.
    #[expect(clippy::disallowed_methods, reason = "an Instant can be had in no other way")]
    fn epoch() -> Instant {
        Instant::now()
    }

    fn extremes(estimator: &Estimator, now: Instant) -> (Duration, Duration) {
        let quality = estimator.quality(now, LinkHealth::Healthy, ms(0));
        (quality.min_rtt, quality.max_rtt)
    }

    #[test]
    fn nothing_measured_is_all_zero() {
        let quality = Estimator::default().quality(epoch(), LinkHealth::Healthy, ms(30_000));
        assert_eq!(quality.srtt, ms(0));
        assert_eq!(quality.jitter, ms(0));
        assert_eq!((quality.min_rtt, quality.max_rtt), (ms(0), ms(0)));
        assert_eq!(quality.loss_ratio, 0.0);
        assert_eq!(quality.keepalive_interval, ms(30_000));
    }

    #[test]
    fn smooths_as_the_rfcs_do() {
        let now = epoch();
        let mut estimator = Estimator::default();
        estimator.answered(now, ms(80));
        assert_eq!((estimator.srtt(), estimator.jitter()), (ms(80), ms(0)));
        estimator.answered(now, ms(160));
        // 7/8 of 80 + 160/8; 80/16
        assert_eq!((estimator.srtt(), estimator.jitter()), (ms(90), ms(5)));
        estimator.answered(now, ms(160));
        assert_eq!(estimator.srtt(), Duration::from_micros(98_750));
        assert_eq!(estimator.jitter(), Duration::from_nanos(4_687_500));
    }

    #[test]
    fn jitter_of_a_steady_link_fades() {
        let now = epoch();
        let mut estimator = Estimator::default();
        estimator.answered(now, ms(10));
        estimator.answered(now, ms(1_000));
        for _ in 0..100 {
            estimator.answered(now, ms(1_000));
        }
        assert!(estimator.jitter() < ms(1), "{:?}", estimator.jitter());
        assert!(estimator.srtt() > ms(999), "{:?}", estimator.srtt());
    }

    #[test]
    fn loss_is_not_judged_before_16_checks() {
        let mut estimator = Estimator::default();
        for _ in 0..15 {
            estimator.timed_out();
        }
        assert!(!estimator.loss_exceeds(0));
        assert!(estimator.loss_below(1));
        estimator.timed_out();
        assert!(estimator.loss_exceeds(99));
        assert!(!estimator.loss_below(100));
    }

    #[test]
    fn loss_bounds_are_exclusive() {
        let now = epoch();
        let mut estimator = Estimator::default();
        for check in 0..20 {
            if check == 0 { estimator.timed_out() } else { estimator.answered(now, ms(10)) }
        }
        // 1 of 20 is 5 %.
        assert!(!estimator.loss_exceeds(5) && estimator.loss_exceeds(4));
        assert!(!estimator.loss_below(5) && estimator.loss_below(6));
    }

    #[test]
    fn loss_forgets_what_is_older_than_64_checks() {
        let now = epoch();
        let mut estimator = Estimator::default();
        estimator.timed_out();
        for _ in 0..63 {
            estimator.answered(now, ms(10));
        }
        assert_eq!(estimator.quality(now, LinkHealth::Healthy, ms(0)).loss_ratio, 1.0 / 64.0);
        estimator.answered(now, ms(10));
        assert_eq!(estimator.quality(now, LinkHealth::Healthy, ms(0)).loss_ratio, 0.0);
    }

    #[test]
    fn an_answer_ends_the_row_of_timeouts() {
        let now = epoch();
        let mut estimator = Estimator::default();
        estimator.timed_out();
        estimator.timed_out();
        assert_eq!(estimator.consecutive_timeouts(), 2);
        estimator.answered_late(now, ms(3_000));
        assert_eq!(estimator.consecutive_timeouts(), 0);
        // The late answer was no check of its own.
        assert_eq!(estimator.quality(now, LinkHealth::Healthy, ms(0)).loss_ratio, 1.0);
    }

    #[test]
    fn extremes_look_back_ten_minutes() {
        let start = epoch();
        let mut estimator = Estimator::default();
        estimator.answered(start, ms(500));
        estimator.answered(start + ms(60_000), ms(5));
        estimator.answered(start + ms(120_000), ms(50));
        let end = start + RTT_WINDOW;
        assert_eq!(extremes(&estimator, end - ms(1)), (ms(5), ms(500)));
        assert_eq!(extremes(&estimator, end), (ms(5), ms(50)));
        assert_eq!(extremes(&estimator, end + ms(60_000)), (ms(50), ms(50)));
        assert_eq!(extremes(&estimator, end + ms(120_000)), (ms(0), ms(0)));
    }

    #[test]
    fn a_clock_that_jumps_makes_nothing_absurd() {
        let start = epoch() + RTT_WINDOW;
        let mut estimator = Estimator::default();
        estimator.answered(start, ms(30));
        estimator.answered(start - ms(60_000), ms(20));
        assert_eq!(extremes(&estimator, start - ms(60_000)), (ms(20), ms(30)));
        // A day later nothing of it is left, but what was smoothed.
        let later = start + Duration::from_secs(86_400);
        assert_eq!(extremes(&estimator, later), (ms(0), ms(0)));
        estimator.answered(later, ms(25));
        assert_eq!(extremes(&estimator, later), (ms(25), ms(25)));
        assert!(estimator.srtt() >= ms(20) && estimator.srtt() <= ms(30), "{:?}", estimator.srtt());
    }

    #[test]
    fn extremes_of_a_busy_hour_are_those_of_its_end() {
        let start = epoch();
        let mut estimator = Estimator::default();
        for second in 0..3_600_u64 {
            estimator.answered(start + Duration::from_secs(second), ms(1 + second));
        }
        let (min, max) = extremes(&estimator, start + Duration::from_secs(3_599));
        assert_eq!(max, ms(3_600));
        // The window moves by whole slices.
        assert!(min >= ms(3_000) && min < ms(3_000) + ms(31), "{min:?}");
    }

    #[test]
    fn health_is_ordered_and_has_names() {
        assert!(LinkHealth::Healthy < LinkHealth::Degraded && LinkHealth::Degraded < LinkHealth::Critical);
        let names = [LinkHealth::Healthy, LinkHealth::Degraded, LinkHealth::Critical].map(LinkHealth::as_str);
        assert_eq!(names, ["healthy", "degraded", "critical"]);
    }
}
