//! When a keepalive goes out, what its answer says about the link, and when the peer is dead
//! (API §6, PROTOCOL §7).
//!
//! Both ends run the same machine, each for the way there and back as it sees it. One check is open
//! at a time:
//!
//! ```text
//!            85–95 % of the interval
//!   Resting ────────────────────────► Checking ──── third time-out in critical ───► Dead
//!      ▲                               │    │ ▲                                      ▲
//!      ├──────────── Ack ──────────────┘    │ │ first time-out in a row:             │
//!      └──────────── time-out ──────────────┘─┘ the next follows at once             │
//!      nothing at all came for three intervals, whatever the state ──────────────────┘
//! ```

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use rand::RngExt as _;
use rand_core::CryptoRng;

use crate::session::silence::KeepaliveCap;
use crate::telemetry::quality::{Estimator, LinkHealth, Quality};

/// Checks after which the link's health sets the interval; before, the configured one holds.
const CHECKS_UNTIL_KNOWN: u32 = 3;

/// The interval while the link is healthy (API §6): before a proxy's usual 60 s are over, with [`SPREAD`].
const HEALTHY_INTERVAL: Duration = Duration::from_secs(60);

/// The interval while it is degraded (API §6).
const DEGRADED_INTERVAL: Duration = Duration::from_secs(30);

/// The interval while it is critical (API §6), so that its end is noticed soon.
const CRITICAL_INTERVAL: Duration = Duration::from_secs(10);

/// Good checks in a row that lead from degraded to healthy.
const GOOD_TO_HEALTHY: u32 = 3;

/// Good checks in a row that lead out of critical.
const GOOD_TO_LEAVE_CRITICAL: u32 = 2;

/// Time-outs in a row in critical that make the peer dead.
const TIMEOUTS_UNTIL_DEAD: u32 = 3;

/// Intervals without any frame that make the peer dead.
const SILENT_INTERVALS: u32 = 3;

/// Bounds of the time-out max(4 · srtt + 4 · jitter, 2 s), at most 10 s.
const TIMEOUT_RANGE: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(10));

/// Share of the interval after which a keepalive goes out, in ten-thousandths: at random, so that
/// clients don't beat in step, and early enough for a proxy that cuts idle connections at 60 s.
const SPREAD: std::ops::RangeInclusive<u32> = 8_500..=9_500;

/// Timed-out keepalives whose answer is still recognised. Without any answer the peer is dead after
/// five time-outs.
const LATE_MAX: usize = 8;

/// What [`Keepalives::handle_timeout`] found due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// A keepalive with this timestamp.
    Keepalive(u64),
    /// The declaration that the peer is dead. Nothing follows it.
    PeerDead,
}

/// The keepalives of one end.
#[derive(Debug)]
pub struct Keepalives {
    configured: Duration,
    cap: KeepaliveCap,
    clock: Clock,
    phase: Phase,
    /// When the silence rule's clock started: at the last frame that opened or, if later, at the
    /// last change of the interval. A link that turns critical gets three of the short intervals,
    /// not none because the long ones before were quiet.
    quiet_since: Instant,
    checks: u32,
    estimator: Estimator,
    health: Health,
    late: VecDeque<Sent>,
}

#[derive(Debug)]
enum Phase {
    /// The next keepalive goes out `spread` ten-thousandths of the interval after `since`.
    Resting { since: Instant, spread: u32 },
    /// `sent` awaits its answer until `expires`.
    Checking { sent: Sent, spread: u32, expires: Instant },
    /// The peer was declared dead.
    Dead,
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    at: Instant,
    stamp: u64,
}

impl Keepalives {
    /// A machine whose first keepalive goes out after 85–95 % of `configured`, the interval until
    /// the link's health is known.
    pub fn new(now: Instant, configured: Duration, rng: &mut dyn CryptoRng) -> Self {
        Self {
            configured,
            cap: KeepaliveCap::default(),
            clock: Clock { zero: now, offset: rng.next_u64() },
            phase: Phase::Resting { since: now, spread: rng.random_range(SPREAD) },
            quiet_since: now,
            checks: 0,
            estimator: Estimator::default(),
            health: Health::default(),
            late: VecDeque::new(),
        }
    }

    /// Holds every interval, the configured one included, to what earlier connections taught.
    #[must_use]
    pub fn with_cap(self, cap: KeepaliveCap) -> Self {
        Self { cap, ..self }
    }

    /// Opens a check at once and returns the timestamp of its keepalive. A check that is open
    /// already is given up uncounted.
    pub fn send(&mut self, now: Instant, rng: &mut dyn CryptoRng) -> u64 {
        let stamp = self.clock.stamp(now);
        let spread = rng.random_range(SPREAD);
        self.phase = Phase::Checking { sent: Sent { at: now, stamp }, spread, expires: now + self.timeout() };
        stamp
    }

    /// The same without a new spread of the interval behind it: for the keepalive that a switch of keys asks for.
    pub fn send_again(&mut self, now: Instant) -> u64 {
        let stamp = self.clock.stamp(now);
        if let Phase::Resting { spread, .. } | Phase::Checking { spread, .. } = self.phase {
            self.phase =
                Phase::Checking { sent: Sent { at: now, stamp }, spread, expires: now + self.timeout() };
        }
        stamp
    }

    /// Opens a check at once unless one is open, and returns the timestamp of its keepalive: for when it is in
    /// doubt whether the peer is still there.
    pub fn probe(&mut self, now: Instant, rng: &mut dyn CryptoRng) -> Option<u64> {
        matches!(self.phase, Phase::Resting { .. }).then(|| self.send(now, rng))
    }

    /// A frame opened: the peer lives.
    pub fn heard(&mut self, now: Instant) {
        self.quiet_since = self.quiet_since.max(now);
    }

    /// A KeepaliveAck came. Returns the round trip, or `None` if it answers nothing that was asked.
    pub fn acknowledged(&mut self, now: Instant, stamp: u64) -> Option<Duration> {
        match self.phase {
            Phase::Checking { sent, spread, .. } if sent.stamp == stamp => {
                let rtt = now.saturating_duration_since(sent.at);
                self.estimator.answered(now, rtt);
                self.phase = Phase::Resting { since: sent.at, spread };
                // Answers keep the order of questions, so what is older stays unanswered.
                self.late.clear();
                self.close_check(now, Outcome::Answered);
                Some(rtt)
            }
            Phase::Resting { .. } | Phase::Checking { .. } => self.acknowledged_late(now, stamp),
            Phase::Dead => None,
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do; never once the peer is
    /// dead.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let next = match self.phase {
            Phase::Resting { since, spread } => since + self.interval() * spread / 10_000,
            Phase::Checking { expires, .. } => expires,
            Phase::Dead => return None,
        };
        Some(next.min(self.silence_ends()))
    }

    /// Does what is due at `now`. Afterwards [`poll_timeout`](Self::poll_timeout) lies in the future.
    pub fn handle_timeout(&mut self, now: Instant, rng: &mut dyn CryptoRng) -> Option<Due> {
        if self.poll_timeout().is_none_or(|at| now < at) {
            return None;
        }
        self.cap.forget_old(now);
        if now >= self.silence_ends() {
            return Some(self.die());
        }
        if let Phase::Checking { sent, spread, .. } = self.phase {
            self.phase = Phase::Resting { since: sent.at, spread };
            self.time_out(now, sent);
            if self.health.timeouts >= TIMEOUTS_UNTIL_DEAD {
                return Some(self.die());
            }
            let first_in_a_row = self.estimator.consecutive_timeouts() == 1;
            if !first_in_a_row && self.poll_timeout().is_some_and(|at| now < at) {
                return None;
            }
        }
        Some(Due::Keepalive(self.send(now, rng)))
    }

    /// Time between two keepalives, before its random shortening.
    pub fn interval(&self) -> Duration {
        self.cap.limit(match self.health.current {
            _ if self.checks < CHECKS_UNTIL_KNOWN => self.configured,
            LinkHealth::Healthy => HEALTHY_INTERVAL,
            LinkHealth::Degraded => DEGRADED_INTERVAL,
            LinkHealth::Critical => CRITICAL_INTERVAL,
        })
    }

    /// Keepalives that timed out since the last answer.
    pub const fn consecutive_timeouts(&self) -> u32 {
        self.estimator.consecutive_timeouts()
    }

    /// What the checks so far say about the link.
    pub fn quality(&self, now: Instant) -> Quality {
        self.estimator.quality(now, self.health.current, self.interval())
    }

    fn acknowledged_late(&mut self, now: Instant, stamp: u64) -> Option<Duration> {
        let position = self.late.iter().position(|sent| sent.stamp == stamp)?;
        let sent = self.late.drain(..=position).next_back()?;
        let rtt = now.saturating_duration_since(sent.at);
        self.estimator.answered_late(now, rtt);
        self.health.timeouts = 0;
        Some(rtt)
    }

    fn time_out(&mut self, now: Instant, sent: Sent) {
        self.estimator.timed_out();
        if self.late.len() == LATE_MAX {
            self.late.pop_front();
        }
        self.late.push_back(sent);
        self.close_check(now, Outcome::TimedOut);
    }

    fn close_check(&mut self, now: Instant, outcome: Outcome) {
        let interval = self.interval();
        self.checks = self.checks.saturating_add(1);
        self.health.judge(&self.estimator, outcome);
        if self.interval() != interval {
            self.quiet_since = now;
        }
    }

    fn die(&mut self) -> Due {
        self.phase = Phase::Dead;
        self.late.clear();
        Due::PeerDead
    }

    fn silence_ends(&self) -> Instant {
        self.quiet_since + self.interval() * SILENT_INTERVALS
    }

    fn timeout(&self) -> Duration {
        let (least, most) = TIMEOUT_RANGE;
        (self.estimator.srtt() * 4 + self.estimator.jitter() * 4).clamp(least, most)
    }
}

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Answered,
    TimedOut,
}

/// The table of API §6 with its hysteresis.
#[derive(Debug, Default)]
struct Health {
    current: LinkHealth,
    /// Good checks since the last one that was not; values between the rows leave it alone.
    good: u32,
    /// Time-outs since critical was entered or, if later, since the last answer.
    timeouts: u32,
}

impl Health {
    /// Takes a check that `estimator` has counted.
    fn judge(&mut self, estimator: &Estimator, outcome: Outcome) {
        let timed_out = outcome == Outcome::TimedOut;
        let jitter = estimator.jitter();
        let critical = estimator.loss_exceeds(20) || estimator.consecutive_timeouts() >= 2;
        let degraded = timed_out || estimator.loss_exceeds(5) || jitter > Duration::from_millis(50);
        let healthy = !timed_out && estimator.loss_below(2) && jitter < Duration::from_millis(30);
        match self.current {
            LinkHealth::Critical => {
                self.timeouts = if timed_out { self.timeouts + 1 } else { 0 };
                self.count(!critical && !timed_out, critical || timed_out);
                if self.good == GOOD_TO_LEAVE_CRITICAL {
                    self.enter(LinkHealth::Degraded);
                }
            }
            LinkHealth::Healthy | LinkHealth::Degraded if critical => self.enter(LinkHealth::Critical),
            LinkHealth::Healthy if degraded => self.enter(LinkHealth::Degraded),
            LinkHealth::Healthy => {}
            LinkHealth::Degraded => {
                self.count(healthy, degraded);
                if self.good == GOOD_TO_HEALTHY {
                    self.enter(LinkHealth::Healthy);
                }
            }
        }
    }

    const fn count(&mut self, good: bool, bad: bool) {
        if good {
            self.good += 1;
        } else if bad {
            self.good = 0;
        }
    }

    const fn enter(&mut self, health: LinkHealth) {
        *self = Self { current: health, good: 0, timeouts: 0 };
    }
}

/// Timestamps: microseconds from a zero that tells the peer nothing about this host's uptime.
#[derive(Debug)]
struct Clock {
    zero: Instant,
    offset: u64,
}

impl Clock {
    fn stamp(&self, now: Instant) -> u64 {
        let elapsed = now.saturating_duration_since(self.zero).as_micros();
        self.offset.wrapping_add(u64::try_from(elapsed).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use super::*;
    use crate::session::epoch;

    const CONFIGURED: Duration = Duration::from_secs(30);

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    const fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    /// One machine, its clock, and a link that answers as the test says.
    struct Bench {
        now: Instant,
        rng: StdRng,
        machine: Keepalives,
        /// When the last keepalive went out, and its timestamp.
        sent: (Instant, u64),
    }

    impl Bench {
        fn new(configured: Duration, seed: u64) -> Self {
            let now = epoch();
            let mut rng = StdRng::seed_from_u64(seed);
            let mut machine = Keepalives::new(now, configured, &mut rng);
            let stamp = machine.send(now, &mut rng);
            Self { now, rng, machine, sent: (now, stamp) }
        }

        /// A machine past its first three checks, in perfect health.
        fn known() -> Self {
            let mut bench = Self::new(CONFIGURED, 1);
            bench.answer_many(3, ms(20));
            assert_eq!(bench.health(), LinkHealth::Healthy);
            bench
        }

        fn health(&self) -> LinkHealth {
            self.machine.health.current
        }

        fn deadline(&self) -> Instant {
            self.machine.poll_timeout().expect("a live machine has a deadline")
        }

        /// Goes to the next deadline and does what is due there.
        fn step(&mut self) -> Option<Due> {
            self.now = self.deadline();
            let due = self.machine.handle_timeout(self.now, &mut self.rng);
            if let Some(Due::Keepalive(stamp)) = due {
                self.sent = (self.now, stamp);
            }
            assert!(self.machine.poll_timeout().is_none_or(|at| at > self.now), "a deadline in the past");
            due
        }

        /// Waits for the next keepalive if none is open, and answers it after `rtt`.
        fn answer(&mut self, rtt: Duration) {
            if matches!(self.machine.phase, Phase::Resting { .. }) {
                assert!(matches!(self.step(), Some(Due::Keepalive(_))));
            }
            self.now = self.sent.0 + rtt;
            self.machine.heard(self.now);
            assert_eq!(self.machine.acknowledged(self.now, self.sent.1), Some(rtt));
        }

        fn answer_many(&mut self, n: usize, rtt: Duration) {
            for _ in 0..n {
                self.answer(rtt);
            }
        }

        /// Waits for the next keepalive if none is open, and lets it time out.
        fn lose(&mut self) -> Option<Due> {
            if matches!(self.machine.phase, Phase::Resting { .. }) {
                assert!(matches!(self.step(), Some(Due::Keepalive(_))));
            }
            self.step()
        }

        /// Answers until no loss is left in the window.
        fn forget_losses(&mut self) {
            self.answer_many(64, ms(20));
            assert_eq!(self.health(), LinkHealth::Healthy);
        }

        fn gap_to_next(&mut self) -> Duration {
            let before = self.sent.0;
            assert!(matches!(self.step(), Some(Due::Keepalive(_))));
            self.now - before
        }
    }

    fn assert_spread(gap: Duration, interval: Duration) {
        assert!(gap >= interval * 85 / 100 && gap <= interval * 95 / 100, "{gap:?} of {interval:?}");
    }

    #[test]
    fn configured_interval_holds_for_three_checks() {
        for configured in [secs(5), secs(30), secs(120)] {
            let mut bench = Bench::new(configured, 3);
            for _ in 0..2 {
                bench.answer(ms(20));
                assert_eq!(bench.machine.interval(), configured);
                assert_spread(bench.gap_to_next(), configured);
            }
            bench.answer(ms(20));
            assert_eq!(bench.machine.interval(), secs(60));
            assert_spread(bench.gap_to_next(), secs(60));
        }
    }

    #[test]
    fn a_machine_that_did_not_begin_with_a_keepalive_waits_for_it() {
        let now = epoch();
        let mut rng = StdRng::seed_from_u64(5);
        let machine = Keepalives::new(now, CONFIGURED, &mut rng);
        assert_spread(machine.poll_timeout().unwrap() - now, CONFIGURED);
    }

    #[test]
    fn keepalives_spread_over_85_to_95_percent() {
        let mut gaps = Vec::new();
        for seed in 0..500 {
            let mut bench = Bench::new(secs(100), seed);
            bench.answer(ms(20));
            let gap = bench.gap_to_next();
            assert_spread(gap, secs(100));
            gaps.push(gap);
        }
        assert!(gaps.iter().min().unwrap() < &ms(85_200));
        assert!(gaps.iter().max().unwrap() > &ms(94_800));
    }

    #[test]
    fn health_sets_the_interval() {
        let mut bench = Bench::known();
        assert_eq!(bench.machine.interval(), secs(60));
        bench.lose();
        assert_eq!((bench.health(), bench.machine.interval()), (LinkHealth::Degraded, secs(30)));
        bench.lose();
        assert_eq!((bench.health(), bench.machine.interval()), (LinkHealth::Critical, secs(10)));
        assert_spread(bench.gap_to_next(), secs(10));
    }

    #[test]
    fn first_timeout_is_followed_at_once_the_second_is_not() {
        let mut bench = Bench::known();
        let due = bench.lose();
        assert!(matches!(due, Some(Due::Keepalive(_))), "{due:?}");
        assert_eq!(bench.sent.0, bench.now);
        assert_eq!(bench.lose(), None);
        assert_spread(bench.gap_to_next(), secs(10));
    }

    #[test]
    fn a_timeout_after_an_answer_is_a_first_one_again() {
        let mut bench = Bench::known();
        bench.lose();
        bench.answer(ms(20));
        assert!(matches!(bench.lose(), Some(Due::Keepalive(_))));
    }

    #[test]
    fn timeout_is_2_s_on_a_fast_link_and_10_s_at_most() {
        let mut bench = Bench::known();
        let keepalive = bench.step();
        assert!(matches!(keepalive, Some(Due::Keepalive(_))));
        assert_eq!(bench.machine.poll_timeout().unwrap() - bench.now, secs(2));

        let mut slow = Bench::known();
        slow.answer_many(100, ms(900));
        slow.step();
        let timeout = slow.machine.poll_timeout().unwrap() - slow.now;
        assert!(timeout > ms(3_590) && timeout < ms(3_650), "{timeout:?}");

        let mut slowest = Bench::known();
        for rtt in [1_500, 4_000, 5_500, 7_000, 9_000, 9_000] {
            slowest.answer(ms(rtt));
        }
        slowest.step();
        assert_eq!(slowest.machine.poll_timeout().unwrap() - slowest.now, secs(10));
    }

    #[test]
    fn jitter_over_50_ms_degrades_and_50_does_not() {
        // From one round trip to the next J becomes 15/16 J + |D|/16.
        let mut bench = Bench::known();
        bench.answer(ms(20 + 800));
        assert_eq!(bench.machine.estimator.jitter(), ms(50));
        assert_eq!(bench.health(), LinkHealth::Healthy);

        let mut bench = Bench::known();
        bench.answer(ms(20 + 801));
        assert!(bench.machine.estimator.jitter() > ms(50));
        assert_eq!(bench.health(), LinkHealth::Degraded);
    }

    #[test]
    fn jitter_between_the_rows_keeps_the_state_and_the_count() {
        let mut bench = Bench::known();
        bench.answer(ms(20 + 850));
        assert_eq!(bench.health(), LinkHealth::Degraded);
        let mut good = 0;
        while bench.health() == LinkHealth::Degraded {
            bench.answer(ms(870));
            let jitter = bench.machine.estimator.jitter();
            if jitter < ms(30) {
                good += 1;
            } else {
                assert_eq!(bench.machine.health.good, 0, "{jitter:?}");
            }
        }
        assert_eq!(good, 3);

        // One check between the rows, amid good ones, is no setback.
        let mut bench = Bench::known();
        bench.answer(ms(870));
        while bench.machine.health.good < 2 {
            bench.answer(ms(870));
        }
        let jitter = bench.machine.estimator.jitter();
        let difference = (ms(40) - jitter * 15 / 16) * 16;
        bench.answer(ms(870) + difference);
        let jitter = bench.machine.estimator.jitter();
        assert!(jitter > ms(39) && jitter < ms(41), "{jitter:?}");
        assert_eq!((bench.health(), bench.machine.health.good), (LinkHealth::Degraded, 2));
    }

    #[test]
    fn a_degraded_check_resets_the_count_of_good_ones() {
        let mut bench = Bench::known();
        bench.forget_losses();
        bench.lose();
        bench.answer_many(2, ms(20));
        assert_eq!(bench.machine.health.good, 2);
        bench.lose();
        assert_eq!((bench.health(), bench.machine.health.good), (LinkHealth::Degraded, 0));
    }

    #[test]
    fn three_good_checks_lead_back_to_healthy() {
        let mut bench = Bench::known();
        bench.forget_losses();
        bench.lose();
        assert_eq!(bench.health(), LinkHealth::Degraded);
        // One of 64 is 1.6 %: under 2 %.
        bench.answer_many(2, ms(20));
        assert_eq!(bench.health(), LinkHealth::Degraded);
        bench.answer(ms(20));
        assert_eq!(bench.health(), LinkHealth::Healthy);
    }

    #[test]
    fn loss_from_2_to_5_percent_neither_degrades_nor_heals() {
        let mut bench = Bench::known();
        bench.forget_losses();
        bench.lose();
        bench.answer(ms(20));
        bench.lose();
        // Two of 64 are 3.1 %.
        bench.answer_many(50, ms(20));
        assert_eq!(bench.health(), LinkHealth::Degraded);
        // The first of them leaves the window; three good checks later all is well.
        bench.answer_many(11, ms(20));
        assert_eq!(bench.health(), LinkHealth::Degraded);
        bench.answer_many(3, ms(20));
        assert_eq!(bench.health(), LinkHealth::Healthy);
    }

    #[test]
    fn loss_is_not_judged_before_16_checks() {
        let mut bench = Bench::known();
        bench.lose();
        // One of seven, as yet unjudged.
        bench.answer_many(3, ms(20));
        assert_eq!(bench.health(), LinkHealth::Healthy);
        bench.answer_many(8, ms(20));
        assert_eq!(bench.health(), LinkHealth::Healthy);
        // Of 16 it is 6.25 %.
        bench.answer(ms(20));
        assert_eq!(bench.machine.checks, 16);
        assert_eq!(bench.health(), LinkHealth::Degraded);
    }

    #[test]
    fn loss_over_20_percent_is_critical_without_two_timeouts_in_a_row() {
        let mut bench = Bench::known();
        bench.answer_many(9, ms(20));
        for _ in 0..3 {
            bench.lose();
            bench.answer(ms(20));
        }
        // Three of 18; one more is 4 of 19, 21 %.
        assert_eq!(bench.health(), LinkHealth::Degraded);
        bench.lose();
        assert_eq!(bench.health(), LinkHealth::Critical);
        assert_eq!(bench.machine.estimator.consecutive_timeouts(), 1);
        // The time-out that led here is not one of the three that kill.
        assert_eq!(bench.machine.health.timeouts, 0);
    }

    #[test]
    fn two_good_checks_leave_critical_whatever_the_jitter() {
        let mut bench = Bench::known();
        bench.lose();
        bench.lose();
        assert_eq!(bench.health(), LinkHealth::Critical);
        bench.answer(ms(1_900));
        assert_eq!(bench.health(), LinkHealth::Critical);
        bench.answer(ms(20));
        assert!(bench.machine.estimator.jitter() > ms(50));
        assert_eq!(bench.health(), LinkHealth::Degraded);
        assert_eq!(bench.machine.health.good, 0);
    }

    #[test]
    fn a_timeout_in_critical_resets_the_count_of_good_checks() {
        let mut bench = Bench::known();
        bench.forget_losses();
        bench.lose();
        bench.lose();
        bench.answer(ms(20));
        bench.lose();
        bench.answer(ms(20));
        assert_eq!(bench.health(), LinkHealth::Critical);
        bench.answer(ms(20));
        assert_eq!(bench.health(), LinkHealth::Degraded);
    }

    #[test]
    fn critical_holds_while_loss_is_over_20_percent() {
        let mut bench = Bench::known();
        bench.answer_many(9, ms(20));
        for _ in 0..4 {
            bench.lose();
            bench.answer(ms(20));
        }
        assert_eq!(bench.health(), LinkHealth::Critical);
        // 4 of 20 are 20 %, which is not over 20 %; that check and the next are good.
        assert_eq!(bench.machine.checks, 20);
        assert_eq!(bench.machine.health.good, 1);
        bench.answer(ms(20));
        assert_eq!(bench.health(), LinkHealth::Degraded);
    }

    #[test]
    fn dead_at_the_third_timeout_after_critical_was_entered() {
        let mut bench = Bench::known();
        bench.lose();
        bench.lose();
        assert_eq!(bench.health(), LinkHealth::Critical);
        assert_eq!(bench.lose(), None);
        assert_eq!(bench.lose(), None);
        assert_eq!(bench.lose(), Some(Due::PeerDead));
        assert_eq!(bench.machine.poll_timeout(), None);
        assert_eq!(bench.machine.handle_timeout(bench.now + secs(999), &mut bench.rng), None);
        assert_eq!(bench.machine.acknowledged(bench.now, bench.sent.1), None);
    }

    #[test]
    fn an_answer_between_timeouts_saves_the_peer() {
        let mut bench = Bench::known();
        bench.lose();
        bench.lose();
        for _ in 0..20 {
            bench.lose();
            let due = bench.lose();
            assert_ne!(due, Some(Due::PeerDead));
            bench.answer(ms(20));
        }
        assert_eq!(bench.health(), LinkHealth::Critical);
    }

    #[test]
    fn a_late_answer_is_a_round_trip_but_no_check() {
        let mut bench = Bench::known();
        bench.step();
        let (at, stamp) = bench.sent;
        bench.step();
        let checks = bench.machine.checks;
        assert_eq!(bench.machine.estimator.consecutive_timeouts(), 1);
        assert_eq!(bench.machine.acknowledged(at + ms(2_500), stamp), Some(ms(2_500)));
        assert_eq!(bench.machine.estimator.consecutive_timeouts(), 0);
        assert_eq!(bench.machine.checks, checks);
        assert!(bench.machine.estimator.srtt() > ms(300));
        // Only once.
        assert_eq!(bench.machine.acknowledged(at + ms(2_600), stamp), None);
    }

    #[test]
    fn a_link_that_became_slower_than_the_timeout_is_not_given_up() {
        let mut bench = Bench::known();
        let rtt = ms(7_000);
        let mut in_flight = VecDeque::new();
        for _ in 0..200 {
            let deadline = bench.machine.poll_timeout().expect("the peer was declared dead");
            match in_flight.front() {
                Some(&(at, stamp)) if at + rtt <= deadline => {
                    in_flight.pop_front();
                    bench.now = at + rtt;
                    bench.machine.heard(bench.now);
                    assert_eq!(bench.machine.acknowledged(bench.now, stamp), Some(rtt));
                }
                _ => {
                    if let Some(Due::Keepalive(_)) = bench.step() {
                        in_flight.push_back(bench.sent);
                    }
                }
            }
        }
        assert_eq!(bench.machine.estimator.consecutive_timeouts(), 0);
        assert!(bench.machine.estimator.srtt() > ms(6_000));
    }

    #[test]
    fn a_late_answer_saves_the_peer() {
        let mut bench = Bench::known();
        for _ in 0..4 {
            bench.lose();
        }
        assert_eq!(bench.machine.health.timeouts, 2);
        let late = bench.machine.late[3];
        bench.machine.heard(bench.now);
        assert!(bench.machine.acknowledged(bench.now, late.stamp).is_some());
        for _ in 0..2 {
            assert_ne!(bench.lose(), Some(Due::PeerDead));
        }
        assert_eq!(bench.lose(), Some(Due::PeerDead));
    }

    #[test]
    fn an_answer_settles_all_older_questions() {
        // In time.
        let mut bench = Bench::known();
        bench.lose();
        let older = bench.machine.late[0].stamp;
        bench.answer(ms(20));
        assert_eq!(bench.machine.acknowledged(bench.now, older), None);
        // Late.
        let mut bench = Bench::known();
        bench.lose();
        bench.lose();
        let [older, newer] = [0, 1].map(|n| bench.machine.late[n].stamp);
        assert!(bench.machine.acknowledged(bench.now, newer).is_some());
        assert_eq!(bench.machine.acknowledged(bench.now, older), None);
    }

    #[test]
    fn unasked_answers_are_not_counted_as_checks() {
        let mut bench = Bench::known();
        bench.step();
        let checks = bench.machine.checks;
        assert_eq!(bench.machine.acknowledged(bench.now, bench.sent.1.wrapping_add(1)), None);
        assert_eq!(bench.machine.checks, checks);
        bench.answer(ms(20));
        assert_eq!(bench.machine.acknowledged(bench.now, bench.sent.1), None);
    }

    #[test]
    fn silence_for_three_intervals_is_death_even_without_timeouts() {
        // Time-outs of 10 s, so that silence is first.
        let mut bench = Bench::known();
        for rtt in [1_500, 4_000, 5_500, 7_000, 9_000, 9_000, 9_000, 9_000] {
            bench.answer(ms(rtt));
        }
        let mut deaths = None;
        for _ in 0..20 {
            let quiet_since = bench.machine.quiet_since;
            let interval = bench.machine.interval();
            if bench.step() == Some(Due::PeerDead) {
                deaths = Some((bench.now - quiet_since, interval));
                break;
            }
        }
        assert_eq!(deaths, Some((secs(30), secs(10))));
    }

    #[test]
    fn any_frame_is_life_but_no_check() {
        let mut bench = Bench::known();
        let checks = bench.machine.checks;
        let deadline = bench.machine.silence_ends();
        bench.machine.heard(bench.now + secs(5));
        assert!(bench.machine.silence_ends() > deadline);
        assert_eq!(bench.machine.checks, checks);
        // Time does not go back.
        bench.machine.heard(bench.now);
        assert!(bench.machine.silence_ends() > deadline);
    }

    #[test]
    fn a_shorter_interval_does_not_make_past_silence_deadly() {
        let mut bench = Bench::known();
        // 55 s of silence, then two time-outs: critical, whose three intervals are 30 s.
        bench.lose();
        assert_eq!(bench.lose(), None);
        assert_eq!(bench.health(), LinkHealth::Critical);
        assert_eq!(bench.machine.silence_ends(), bench.now + secs(30));
    }

    #[test]
    fn a_clock_that_jumps_far_ahead_means_death_by_silence() {
        let mut bench = Bench::known();
        let later = bench.now + secs(3_600);
        assert_eq!(bench.machine.handle_timeout(later, &mut bench.rng), Some(Due::PeerDead));
    }

    #[test]
    fn a_clock_that_goes_back_stands_still() {
        let mut bench = Bench::known();
        bench.step();
        let earlier = bench.now - secs(30);
        bench.machine.heard(earlier);
        assert_eq!(bench.machine.handle_timeout(earlier, &mut bench.rng), None);
        assert_eq!(bench.machine.acknowledged(earlier, bench.sent.1), Some(Duration::ZERO));
        let quality = bench.machine.quality(earlier);
        assert!(quality.min_rtt <= quality.srtt && quality.srtt <= ms(20), "{quality:?}");
        assert_eq!((quality.consecutive_timeouts, quality.max_rtt), (0, ms(20)));
    }

    #[test]
    fn a_host_that_slept_through_a_timeout_has_one_timeout_and_no_long_round_trip() {
        // The clock stands still while Linux sleeps; what is left is a timer that fires late.
        let mut bench = Bench::known();
        bench.step();
        let woke = bench.now + secs(20);
        let due = bench.machine.handle_timeout(woke, &mut bench.rng);
        assert!(matches!(due, Some(Due::Keepalive(_))), "{due:?}");
        let quality = bench.machine.quality(woke);
        assert_eq!((quality.consecutive_timeouts, quality.max_rtt), (1, ms(20)));
        assert_eq!(bench.health(), LinkHealth::Degraded);
    }

    #[test]
    fn a_cap_holds_in_every_row_of_the_table() {
        let capped = |silence: u64| {
            let mut cap = KeepaliveCap::default();
            assert!(cap.learn(epoch(), secs(silence)));
            let mut bench = Bench::new(CONFIGURED, 4);
            bench.machine = bench.machine.with_cap(cap);
            let mut seen = vec![bench.machine.interval()];
            bench.answer(ms(20));
            assert_spread(bench.gap_to_next(), seen[0]);
            bench.answer_many(2, ms(20));
            seen.push(bench.machine.interval());
            for _ in 0..2 {
                bench.lose();
                seen.push(bench.machine.interval());
            }
            assert_eq!(bench.health(), LinkHealth::Critical);
            assert_spread(bench.gap_to_next(), seen[3]);
            assert_eq!(bench.machine.silence_ends() - bench.machine.quiet_since, seen[3] * 3);
            seen
        };
        // Before three checks, healthy, degraded, critical.
        assert_eq!(capped(100), [30, 60, 30, 10].map(secs));
        assert_eq!(capped(50), [30, 40, 30, 10].map(secs));
        assert_eq!(capped(25), [20, 20, 20, 10].map(secs));
        assert_eq!(capped(4), [5, 5, 5, 5].map(secs));
    }

    #[test]
    fn nothing_is_due_before_the_deadline() {
        let mut bench = Bench::known();
        let deadline = bench.machine.poll_timeout().unwrap();
        let early = deadline - Duration::from_nanos(1);
        assert_eq!(bench.machine.handle_timeout(early, &mut bench.rng), None);
        assert_eq!(bench.machine.poll_timeout(), Some(deadline));
    }

    #[test]
    fn timestamps_tell_nothing_about_uptime() {
        let stamps: Vec<u64> = (0..4).map(|seed| Bench::new(CONFIGURED, seed).sent.1).collect();
        assert!(stamps.windows(2).all(|pair| pair[0].abs_diff(pair[1]) > 1 << 32), "{stamps:?}");
    }

    #[test]
    fn memory_of_late_keepalives_is_bounded() {
        let mut bench = Bench::known();
        for _ in 0..50 {
            let sent = Sent { at: bench.now, stamp: 0 };
            bench.machine.time_out(bench.now, sent);
        }
        assert_eq!(bench.machine.late.len(), LATE_MAX);
    }
}
