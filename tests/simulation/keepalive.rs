//! The keepalive machine on links that do anything: what must hold whatever they do (API §6).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use smartvpn::session::KeepaliveCap;
use smartvpn::session::keepalive::{Due, Keepalives};
use smartvpn::telemetry::quality::{LinkHealth, Quality};

use crate::world::epoch;

/// What the link does next.
#[derive(Clone, Copy, Debug)]
enum Act {
    /// Answers the open keepalive after so long, unless that is too late.
    Answer(u64),
    /// Lets the open keepalive time out.
    Lose,
    /// Answers the oldest keepalive that timed out.
    AnswerLate,
    /// Brings something else so long from now.
    Data(u64),
    /// The host sleeps: its timers fire so much later.
    Jump(u64),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        8 => (0..400_u64).prop_map(Act::Answer),
        2 => (0..12_000_u64).prop_map(Act::Answer),
        4 => Just(Act::Lose),
        1 => Just(Act::AnswerLate),
        1 => (0..30_000_u64).prop_map(Act::Data),
        1 => prop_oneof![0..5_000_u64, 0..200_000_u64, Just(40_000_000)].prop_map(Act::Jump),
    ]
}

/// Links have moods: some stretches are good, some flap.
fn story() -> impl Strategy<Value = Vec<Act>> {
    let good = proptest::collection::vec((5..60_u64).prop_map(Act::Answer), 0..70);
    let any = proptest::collection::vec(act(), 0..40);
    let flapping = (1..30_usize).prop_map(|n| [Act::Answer(30), Act::Lose].repeat(n));
    let stretch = prop_oneof![good, any, flapping];
    proptest::collection::vec(stretch, 1..5).prop_map(|stretches| stretches.concat())
}

struct Bench {
    now: Instant,
    rng: StdRng,
    machine: Keepalives,
    open: Option<(Instant, u64)>,
    late: VecDeque<(Instant, u64)>,
    model: Model,
}

/// What was seen from outside, and what the table makes of it.
struct Model {
    configured: Duration,
    cap: Option<Duration>,
    lost: VecDeque<bool>,
    checks: usize,
    row: u32,
    health: LinkHealth,
    good: u32,
    timeouts_in_critical: u32,
    quiet_since: Instant,
    longest: Duration,
    shortest: Duration,
}

impl Model {
    fn interval(&self) -> Duration {
        let of_table = match self.health {
            _ if self.checks < 3 => self.configured,
            LinkHealth::Healthy => Duration::from_secs(60),
            LinkHealth::Degraded => Duration::from_secs(30),
            LinkHealth::Critical => Duration::from_secs(10),
        };
        self.cap.map_or(of_table, |cap| of_table.min(cap))
    }

    fn answered(&mut self, rtt: Duration) {
        self.row = 0;
        self.longest = self.longest.max(rtt);
        self.shortest = self.shortest.min(rtt);
    }

    /// A check was answered or timed out; `jitter` is the machine's own figure, tested elsewhere.
    fn close_check(&mut self, now: Instant, timed_out: bool, jitter: Duration) {
        let interval = self.interval();
        self.checks += 1;
        self.row = if timed_out { self.row + 1 } else { 0 };
        self.lost.push_back(timed_out);
        if self.lost.len() > 64 {
            self.lost.pop_front();
        }
        let percent = match self.lost.len() {
            0..16 => 0.0,
            checks => self.lost.iter().filter(|lost| **lost).count() as f64 * 100.0 / checks as f64,
        };
        let ms = |n| Duration::from_millis(n);
        let critical = percent > 20.0 || self.row >= 2;
        let degraded = critical || timed_out || percent > 5.0 || jitter > ms(50);
        let healthy = !timed_out && percent < 2.0 && jitter < ms(30);
        let leaves_critical = percent <= 20.0 && !timed_out;
        let enter = |model: &mut Self, health| {
            (model.health, model.good, model.timeouts_in_critical) = (health, 0, 0);
        };
        match self.health {
            LinkHealth::Critical => {
                self.timeouts_in_critical = if timed_out { self.timeouts_in_critical + 1 } else { 0 };
                self.good = if leaves_critical { self.good + 1 } else { 0 };
                if self.good == 2 {
                    enter(self, LinkHealth::Degraded);
                }
            }
            _ if critical => enter(self, LinkHealth::Critical),
            LinkHealth::Healthy if degraded => enter(self, LinkHealth::Degraded),
            LinkHealth::Healthy => {}
            LinkHealth::Degraded => {
                if healthy {
                    self.good += 1;
                } else if degraded {
                    self.good = 0;
                }
                if self.good == 3 {
                    enter(self, LinkHealth::Healthy);
                }
            }
        }
        if self.interval() != interval {
            self.quiet_since = now;
        }
    }
}

impl Bench {
    fn new(seed: u64, configured: u64, cap: Option<u64>) -> Self {
        let (now, mut rng) = (epoch(), StdRng::seed_from_u64(seed));
        let configured = Duration::from_secs(configured);
        let mut known = KeepaliveCap::default();
        cap.map(|silence| known.learn(now, Duration::from_secs(silence)));
        let mut machine = Keepalives::new(now, configured, &mut rng).with_cap(known);
        let stamp = machine.send(now, &mut rng);
        let model = Model {
            configured,
            cap: known.get(),
            lost: VecDeque::new(),
            checks: 0,
            row: 0,
            health: LinkHealth::Healthy,
            good: 0,
            timeouts_in_critical: 0,
            quiet_since: now,
            longest: Duration::ZERO,
            shortest: Duration::MAX,
        };
        Self { now, rng, machine, open: Some((now, stamp)), late: VecDeque::new(), model }
    }

    /// Does one thing; false once the peer is dead.
    fn act(&mut self, act: Act) -> bool {
        match act {
            Act::Answer(ms) => {
                if self.open.is_none() && !self.expire(Duration::ZERO) {
                    return false;
                }
                let Some((at, _)) = self.open else { return true };
                let arrives = at + Duration::from_millis(ms);
                if self.machine.poll_timeout().is_some_and(|deadline| arrives < deadline) {
                    self.now = self.now.max(arrives);
                    self.answer();
                    return true;
                }
                self.expire(Duration::ZERO)
            }
            Act::Lose => {
                if self.open.is_none() && !self.expire(Duration::ZERO) {
                    return false;
                }
                self.expire(Duration::ZERO)
            }
            Act::AnswerLate => {
                if let Some((at, stamp)) = self.late.pop_front() {
                    self.hear();
                    let rtt = self.machine.acknowledged(self.now, stamp);
                    assert_eq!(rtt, Some(self.now - at));
                    self.model.answered(self.now - at);
                    self.model.timeouts_in_critical = 0;
                }
                true
            }
            Act::Data(ms) => {
                let arrives = self.now + Duration::from_millis(ms);
                while self.machine.poll_timeout().is_some_and(|deadline| deadline <= arrives) {
                    if !self.expire(Duration::ZERO) {
                        return false;
                    }
                }
                self.now = arrives;
                self.hear();
                true
            }
            Act::Jump(ms) => self.expire(Duration::from_millis(ms)),
        }
    }

    fn hear(&mut self) {
        self.machine.heard(self.now);
        self.model.quiet_since = self.now;
    }

    fn answer(&mut self) {
        let (at, stamp) = self.open.take().unwrap();
        self.hear();
        let rtt = self.now - at;
        assert_eq!(self.machine.acknowledged(self.now, stamp), Some(rtt));
        self.late.clear();
        self.model.answered(rtt);
        let jitter = self.machine.quality(self.now).jitter;
        self.model.close_check(self.now, false, jitter);
    }

    /// Goes to the next deadline, or `late` beyond it, and does what is due; false if that is death.
    fn expire(&mut self, late: Duration) -> bool {
        let deadline = self.machine.poll_timeout().expect("a living machine has a deadline");
        let begun = self.now;
        // An answer that took longer than the interval leaves the next keepalive overdue.
        self.now = deadline.max(self.now) + late;
        let interval = self.model.interval();
        assert!(
            deadline.saturating_duration_since(begun) <= interval.max(Duration::from_secs(10)),
            "a deadline beyond the interval"
        );
        let row = self.machine.quality(self.now).consecutive_timeouts;
        let due = self.machine.handle_timeout(self.now, &mut self.rng);
        assert!(self.machine.poll_timeout().is_none_or(|at| at > self.now), "a deadline in the past");
        let quality = self.machine.quality(self.now);
        if quality.consecutive_timeouts > row {
            let timed_out = self.open.take().expect("nothing was asked");
            self.late.push_back(timed_out);
            if self.late.len() > 8 {
                self.late.pop_front();
            }
            self.model.close_check(self.now, true, quality.jitter);
        }
        match due {
            Some(Due::Keepalive(stamp)) => {
                assert_eq!(self.open.replace((self.now, stamp)), None, "two checks at a time");
                true
            }
            None => true,
            Some(Due::PeerDead) => {
                let silent = self.now - self.model.quiet_since >= interval * 3;
                assert!(self.model.timeouts_in_critical >= 3 || silent, "the peer was given up too early");
                assert_eq!(self.machine.poll_timeout(), None);
                false
            }
        }
    }

    fn check(&self) {
        let Model { lost, longest, shortest, .. } = &self.model;
        let quality: Quality = self.machine.quality(self.now);
        assert_eq!(quality.link_health, self.model.health);
        assert_eq!(quality.keepalive_interval, self.model.interval());
        assert_eq!(self.machine.interval(), self.model.interval());
        assert_eq!(quality.consecutive_timeouts, self.model.row);
        let ratio = lost.iter().filter(|lost| **lost).count() as f64 / lost.len().max(1) as f64;
        assert_eq!(quality.loss_ratio, ratio);
        assert!(quality.srtt <= *longest && quality.jitter <= *longest, "{quality:?} of {longest:?}");
        assert!(quality.min_rtt <= quality.max_rtt && quality.max_rtt <= *longest, "{quality:?}");
        if quality.max_rtt > Duration::ZERO {
            assert!(quality.min_rtt >= *shortest, "{quality:?}");
        }
        // The mean of what lies above the shortest, but for what the divisions round off.
        if *shortest < Duration::MAX {
            assert!(quality.srtt + Duration::from_nanos(200) >= *shortest, "{quality:?} of {shortest:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_500))]

    #[test]
    fn whatever_the_link_does_the_table_holds(
        seed: u64,
        configured in 5..=120_u64,
        cap in proptest::option::of(3..80_u64),
        story in story(),
    ) {
        let mut bench = Bench::new(seed, configured, cap);
        for act in story {
            let alive = bench.act(act);
            bench.check();
            if !alive {
                break;
            }
        }
    }
}
