//! How much a connection may have under way, so that it does not fill the queues of its path.
//!
//! TCP's usual congestion control sends until the bottleneck's buffer overflows, and whatever shares
//! the tunnel with a bulk transfer then waits behind that buffer. This limit watches the round-trip
//! time instead: what is under way beyond the bandwidth-delay product only makes it longer. While
//! the queue's share of it is above [`TARGET`], no more may be under way than the path carries in
//! its shortest round-trip time and the target; while it is far below, the limit rises until the
//! congestion control governs alone.
//!
//! A queue that stays although this connection holds back is somebody else's. Holding back further
//! would only hand them the rest of the path, so the limit then stands aside for a while
//! ([`Mode::Free`]), longer each time it finds the same.

use std::time::{Duration, Instant};

/// Queueing delay that the connection may cause: half of what is noticed in a conversation or a
/// game is 20 ms, and some of it is needed to keep the bottleneck busy between two looks.
const TARGET: Duration = Duration::from_millis(10);

/// Below this the path's queue counts as empty.
const EMPTY: Duration = Duration::from_millis(4);

/// Never less than this may be under way, in bytes: four full segments, so that acknowledgements of
/// every second one keep coming.
const FLOOR: u64 = 4 * 1460;

/// The share by which the limit rises each round trip while the queue is empty.
const RISE: f64 = 1.25;

/// How long is counted what arrives, for one value of the rate: less would take the bursts in which
/// acknowledgements come for the rate.
const RATE_INTERVAL: Duration = Duration::from_millis(20);

/// How long the best rate is remembered, in round trips, and at least [`RATE_MEMORY_MIN`]: BBR's ten,
/// so that a moment's stall does not count as the path's rate.
const RATE_MEMORY_ROUNDS: u32 = 10;
const RATE_MEMORY_MIN: Duration = Duration::from_millis(200);

/// A queue that stays this long, in round trips and at least in time, makes the connection hold back to
/// [`FLOOR`]; one that stays as long again is others'. It takes a round trip until a change arrives, and
/// a few acknowledgements until the smoothed round-trip time shows it.
const PATIENCE_ROUNDS: u32 = 2;
const PATIENCE_MIN: Duration = Duration::from_millis(100);

/// How long the limit then stands aside: first, and at most (it doubles in between). What the others
/// leave is used that long without regard to the delay, and the look whether they are still there costs
/// some of this connection's share each time.
const FREE_FIRST: Duration = Duration::from_secs(4);
const FREE_MAX: Duration = Duration::from_secs(16);

/// What the connection's sender knows at one moment.
#[derive(Clone, Copy, Debug)]
pub struct PathSample {
    /// The smoothed round-trip time.
    pub rtt: Duration,
    /// The shortest round-trip time of the last minutes: the path without queues.
    pub min_rtt: Duration,
    /// What the peer has acknowledged since the connection began, in bytes.
    pub delivered: u64,
    /// Sent and not acknowledged, in bytes.
    pub in_flight: u64,
    /// Written and not sent, in bytes.
    pub not_sent: u64,
}

/// Who governs.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mode {
    /// The congestion control alone, as no queue has been seen.
    Unlimited,
    /// At most so many bytes under way.
    Limited { bytes: f64, last_empty: Instant },
    /// The congestion control alone, as the queue is others'.
    Free { until: Instant },
}

/// The limit of one connection.
#[derive(Debug)]
pub struct DelayLimit {
    mode: Mode,
    rate: DeliveryRate,
    /// The end of the round trip in which the limit rose last.
    risen_until: Option<Instant>,
    next_free: Duration,
}

impl Default for DelayLimit {
    fn default() -> Self {
        Self {
            mode: Mode::Unlimited,
            rate: DeliveryRate::default(),
            risen_until: None,
            next_free: FREE_FIRST,
        }
    }
}

impl DelayLimit {
    /// Takes what the sender knows now, and whether data has had to wait for the connection since the last
    /// look. Returns how many more bytes may be written before the next
    /// look; `None` is no limit.
    pub fn observe(&mut self, now: Instant, path: &PathSample, waited: bool) -> Option<u64> {
        if path.min_rtt.is_zero() || path.rtt.is_zero() {
            return None;
        }
        let queue = path.rtt.saturating_sub(path.min_rtt);
        let rate = self.rate.observe(now, path, waited || queue >= EMPTY || path.not_sent > 0);
        self.mode = match self.mode {
            Mode::Unlimited if queue > TARGET => limited(now, carried(rate, path.min_rtt)),
            Mode::Free { until } if now >= until => limited(now, carried(rate, path.min_rtt)),
            Mode::Limited { bytes, last_empty } => self.adjust(now, path, rate, bytes, last_empty),
            other => other,
        };
        match self.mode {
            Mode::Limited { bytes, .. } => {
                Some((bytes as u64).saturating_sub(path.in_flight + path.not_sent))
            }
            Mode::Unlimited | Mode::Free { .. } => None,
        }
    }

    /// What the path carries, in bytes per second; 0 as long as data has not had to wait for it.
    pub const fn rate(&self) -> u64 {
        self.rate.best()
    }

    /// Whether others fill the path's queue, and the congestion control is to compete with them.
    pub const fn competes(&self) -> bool {
        matches!(self.mode, Mode::Free { .. })
    }

    fn adjust(
        &mut self,
        now: Instant,
        path: &PathSample,
        rate: u64,
        bytes: f64,
        last_empty: Instant,
    ) -> Mode {
        let queue = path.rtt.saturating_sub(path.min_rtt);
        if queue > TARGET {
            let patience = PATIENCE_MIN.max(path.rtt * PATIENCE_ROUNDS);
            let lasts = now.saturating_duration_since(last_empty);
            if lasts > patience * 2 {
                let free = self.next_free;
                self.next_free = (free * 2).min(FREE_MAX);
                return Mode::Free { until: now + free };
            }
            let most = if lasts > patience { FLOOR as f64 } else { carried(rate, path.min_rtt) };
            return Mode::Limited { bytes: bytes.min(most), last_empty };
        }
        // The queue obeys.
        self.next_free = FREE_FIRST;
        let is_used = (path.in_flight + path.not_sent) as f64 > bytes * 0.75;
        let is_over = self.risen_until.is_none_or(|until| now >= until);
        let bytes = if queue < EMPTY && is_used && is_over {
            self.risen_until = Some(now + path.rtt);
            bytes * RISE
        } else {
            bytes
        };
        Mode::Limited { bytes, last_empty: now }
    }
}

fn limited(now: Instant, bytes: f64) -> Mode {
    Mode::Limited { bytes, last_empty: now }
}

/// What the path carries in its shortest round-trip time and the target.
fn carried(rate: u64, min_rtt: Duration) -> f64 {
    (rate as f64 * (min_rtt + TARGET / 2).as_secs_f64()).max(FLOOR as f64)
}

/// The rate at which the path delivers while data waits, in its queue or, as the congestion control holds
/// it back, here. Otherwise it delivers what it is given, which only says that it can do as much; that is why
/// the kernel's own figure, which does not know of this limit, is of no use here.
#[derive(Debug, Default)]
struct DeliveryRate {
    counted: Option<Count>,
    latest: MaxRate,
}

/// Deliveries are counted from here on.
#[derive(Clone, Copy, Debug)]
struct Count {
    since: Instant,
    delivered: u64,
    /// Data has waited at each look.
    is_busy: bool,
}

impl DeliveryRate {
    fn observe(&mut self, now: Instant, path: &PathSample, is_busy: bool) -> u64 {
        let begin = Count { since: now, delivered: path.delivered, is_busy: true };
        let count = self.counted.get_or_insert(begin);
        count.is_busy &= is_busy;
        let elapsed = now.saturating_duration_since(count.since);
        if elapsed >= RATE_INTERVAL {
            let delivered = path.delivered.saturating_sub(count.delivered);
            let rate = (delivered as f64 / elapsed.as_secs_f64()) as u64;
            // What was counted once, on a path that has become faster, must not hold for ever only because
            // data does not wait any more.
            if count.is_busy || rate > self.latest.best() && self.latest.best() > 0 {
                let memory = RATE_MEMORY_MIN.max(path.rtt * RATE_MEMORY_ROUNDS);
                self.latest.observe(now, rate, memory);
            }
            self.counted = Some(begin);
        }
        self.or_guessed(path)
    }

    const fn best(&self) -> u64 {
        self.latest.best()
    }

    /// Before there is a measurement: what is under way takes a round trip to arrive.
    fn or_guessed(&self, path: &PathSample) -> u64 {
        match self.best() {
            0 => (path.in_flight as f64 / path.rtt.as_secs_f64()) as u64,
            rate => rate,
        }
    }
}

/// The best of the latest rates: a windowed maximum of two halves.
#[derive(Debug, Default)]
struct MaxRate {
    older: u64,
    newer: u64,
    turned: Option<Instant>,
}

impl MaxRate {
    fn observe(&mut self, now: Instant, rate: u64, memory: Duration) {
        let turned = *self.turned.get_or_insert(now);
        if now.saturating_duration_since(turned) > memory / 2 {
            self.older = std::mem::take(&mut self.newer);
            self.turned = Some(now);
        }
        self.newer = self.newer.max(rate);
    }

    const fn best(&self) -> u64 {
        if self.older > self.newer { self.older } else { self.newer }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;
    use crate::qos::tests::epoch;

    const TICK: Duration = Duration::from_micros(500);

    /// One bottleneck with a drop-tail queue, and a sender whose window would fill it.
    struct Path {
        rate: f64,
        rtt: Duration,
        buffer: f64,
        /// Bytes of others that enter the queue, per second; they leave as they came.
        others: f64,
        /// Bytes in the queue: ours, others'.
        queue: (f64, f64),
        /// Acknowledgements on their way: when, how many bytes.
        acks: VecDeque<(Instant, f64, Instant)>,
        in_flight: f64,
        srtt: Duration,
        delivered: f64,
    }

    struct Outcome {
        /// Mean queueing delay over the second half.
        queueing: Duration,
        /// Ours, bytes per second over the second half.
        goodput: f64,
    }

    impl Path {
        fn new(mbit: f64, rtt_ms: u64, buffer_ms: f64) -> Self {
            let rate = mbit * 125_000.0;
            Self {
                rate,
                rtt: Duration::from_millis(rtt_ms),
                buffer: rate * buffer_ms / 1000.0,
                others: 0.0,
                queue: (0.0, 0.0),
                acks: VecDeque::new(),
                in_flight: 0.0,
                srtt: Duration::from_millis(rtt_ms),
                delivered: 0.0,
            }
        }

        fn delay(&self) -> Duration {
            Duration::from_secs_f64((self.queue.0 + self.queue.1) / self.rate)
        }

        fn run(&mut self, limit: Option<&mut DelayLimit>, seconds: u64) -> Outcome {
            let start = epoch();
            let (mut limit, mut now) = (limit, start);
            let (mut delays, mut ours, mut ticks) = (0.0, 0.0, 0);
            let window = self.rate * self.rtt.as_secs_f64() * 2.0 + self.buffer * 2.0;
            while now < start + Duration::from_secs(seconds) {
                now += TICK;
                self.acknowledge(now);
                let sample = self.sample();
                let allowance = limit.as_deref_mut().and_then(|limit| limit.observe(now, &sample, false));
                let room = allowance.map_or(window - self.in_flight, |bytes| bytes as f64);
                self.send(room.clamp(0.0, (window - self.in_flight).max(0.0)));
                let served = self.serve(now);
                if now > start + Duration::from_secs(seconds) / 2 {
                    delays += self.delay().as_secs_f64();
                    ours += served;
                    ticks += 1;
                }
            }
            Outcome {
                queueing: Duration::from_secs_f64(delays / f64::from(ticks)),
                goodput: ours / (f64::from(ticks) * TICK.as_secs_f64()),
            }
        }

        fn acknowledge(&mut self, now: Instant) {
            while let Some(&(at, bytes, sent)) = self.acks.front()
                && at <= now
            {
                self.acks.pop_front();
                self.in_flight -= bytes;
                self.delivered += bytes;
                let rtt = at - sent;
                self.srtt = self.srtt * 7 / 8 + rtt / 8;
            }
        }

        fn sample(&self) -> PathSample {
            PathSample {
                rtt: self.srtt,
                min_rtt: self.rtt,
                delivered: self.delivered as u64,
                in_flight: self.in_flight as u64,
                not_sent: 0,
            }
        }

        fn send(&mut self, bytes: f64) {
            let room = (self.buffer - self.queue.0 - self.queue.1).max(0.0);
            // What overflows is lost at once; its sender learns of it as if it had never been sent.
            let bytes = bytes.min(room);
            self.queue.0 += bytes;
            self.in_flight += bytes;
        }

        fn serve(&mut self, now: Instant) -> f64 {
            let room = (self.buffer - self.queue.0 - self.queue.1).max(0.0);
            self.queue.1 += (self.others * TICK.as_secs_f64()).min(room);
            let total = self.queue.0 + self.queue.1;
            let delay = self.delay();
            let served = total.min(self.rate * TICK.as_secs_f64());
            let ours = if total > 0.0 { served * self.queue.0 / total } else { 0.0 };
            self.queue.0 -= ours;
            self.queue.1 -= served - ours;
            if ours > 0.0 {
                self.acks.push_back((now + self.rtt, ours, now - delay));
            }
            ours
        }
    }

    #[test]
    fn without_it_the_queue_is_full() {
        let outcome = Path::new(50.0, 20, 100.0).run(None, 10);
        assert!(outcome.queueing > Duration::from_millis(80), "{:?}", outcome.queueing);
    }

    #[test]
    fn the_queue_stays_short_and_the_path_busy() {
        for (mbit, rtt) in
            [(50.0, 1), (50.0, 20), (50.0, 40), (10.0, 100), (500.0, 5), (2.0, 30), (50.0, 200)]
        {
            let outcome = Path::new(mbit, rtt, 100.0).run(Some(&mut DelayLimit::default()), 30);
            let share = outcome.goodput / (mbit * 125_000.0);
            assert!(outcome.queueing < Duration::from_millis(20), "{mbit}, {rtt}: {:?}", outcome.queueing);
            assert!(share > 0.92, "{mbit}, {rtt}: {share}");
        }
    }

    #[test]
    fn a_queue_of_others_does_not_starve_it() {
        let mut path = Path::new(50.0, 20, 100.0);
        path.others = 3.0 * path.rate;
        let outcome = path.run(Some(&mut DelayLimit::default()), 60);
        let alone = Path { others: 3.0 * 50.0 * 125_000.0, ..Path::new(50.0, 20, 100.0) }.run(None, 60);
        assert!(outcome.goodput > alone.goodput * 0.4, "{} of {}", outcome.goodput, alone.goodput);
    }

    #[test]
    fn a_faster_path_is_found() {
        let mut limit = DelayLimit::default();
        let mut path = Path::new(10.0, 20, 100.0);
        path.run(Some(&mut limit), 10);
        path.rate *= 10.0;
        path.buffer *= 10.0;
        let share = path.run(Some(&mut limit), 20).goodput / path.rate;
        assert!(share > 0.9, "{share}");
    }

    #[test]
    fn what_arrives_without_a_queue_is_not_the_rate() {
        let mut rate = DeliveryRate::default();
        let start = epoch();
        let at = |ms: u64, delivered: u64| {
            let rtt = Duration::from_millis(10);
            let path = PathSample { rtt, min_rtt: rtt, delivered, in_flight: 0, not_sent: 0 };
            (start + Duration::from_millis(ms), path)
        };
        // A burst that a token bucket in the path let through at once.
        for (ms, delivered) in [(0, 0), (30, 3_000_000), (60, 6_000_000)] {
            let (now, path) = at(ms, delivered);
            assert_eq!(rate.observe(now, &path, false), 0);
        }
        for (ms, delivered) in [(90, 6_060_000), (120, 6_120_000)] {
            let (now, path) = at(ms, delivered);
            assert_eq!(rate.observe(now, &path, true), 2_000_000);
        }
    }

    #[test]
    fn nonsense_is_no_limit() {
        let now = epoch();
        let zero = PathSample {
            rtt: Duration::ZERO,
            min_rtt: Duration::ZERO,
            delivered: 0,
            in_flight: 0,
            not_sent: 0,
        };
        let mut limit = DelayLimit::default();
        assert_eq!(limit.observe(now, &zero, false), None);
        let slow = PathSample { rtt: Duration::from_secs(9), min_rtt: Duration::from_nanos(1), ..zero };
        assert!(
            limit.observe(now, &slow, false).is_some_and(|bytes| bytes >= FLOOR),
            "something may always be sent"
        );
    }
}
