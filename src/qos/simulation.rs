//! Senders, a queue and a link of a given rate, in simulated time: what the rules add up to for a user.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::tests::{dns, epoch, queue, read, udp};
use super::{Allowance, Batch, MAX_WAIT, PacketQueue, RateLimit, TokenBucket};
use crate::packet::Offload;
use crate::telemetry::{DropReason, Priority, Traffic};

const MS: Duration = Duration::from_millis(1);
const MBIT: u64 = 125_000;

/// Who sends, and how.
enum Sender {
    /// `len` bytes every `gap`, whatever becomes of them.
    Steady { len: usize, gap: Duration, high: bool, next: Duration },
    /// A TCP of the Reno kind: acknowledgements come a round trip after the packet has left the
    /// link; three that show a gap halve the window, silence for long starts over.
    Tcp(Box<Tcp>),
}

struct Tcp {
    len: usize,
    round_trip: Duration,
    window: f64,
    threshold: f64,
    /// Numbers under way, in order.
    under_way: VecDeque<u32>,
    /// Acknowledgements on their way back.
    acks: VecDeque<(Instant, u32)>,
    /// No second halving before this number is acknowledged.
    recover: u32,
    beyond: u32,
    next: u32,
    timer: Option<Instant>,
}

/// What came out of the link, by flow.
#[derive(Default)]
struct Seen {
    packets: u64,
    bytes: u64,
    /// The times from coming to having left the link.
    delays: Vec<Duration>,
}

impl Seen {
    fn longest(&self) -> Duration {
        self.delays.iter().max().copied().unwrap_or_default()
    }

    fn median(&self) -> Duration {
        let mut delays = self.delays.clone();
        delays.sort();
        delays[delays.len() / 2]
    }
}

struct World {
    queue: PacketQueue,
    traffic: Arc<Traffic>,
    /// Bytes per second of the link.
    rate: u64,
    bucket: Option<TokenBucket>,
    senders: Vec<Sender>,
    sent: BTreeMap<u16, Vec<Instant>>,
    seen: BTreeMap<u16, Seen>,
    start: Instant,
    now: Instant,
    free_at: Instant,
    step: Duration,
    batch: Batch,
}

impl World {
    fn new(rate: u64, senders: Vec<Sender>) -> Self {
        let ((queue, traffic), start) = (queue(), epoch());
        Self {
            queue,
            traffic,
            rate,
            bucket: None,
            senders,
            sent: BTreeMap::new(),
            seen: BTreeMap::new(),
            start,
            now: start,
            free_at: start,
            // A packet of 1,400 bytes takes as long at 28 MB/s.
            step: Duration::from_micros(50),
            batch: Batch::new(1),
        }
    }

    fn limited(rate: u64, limit: u64, senders: Vec<Sender>) -> Self {
        let mut world = Self::new(rate, senders);
        let limit = RateLimit::new(limit, 65_536).unwrap();
        world.queue.set_rate(Some(limit.rate()));
        world.bucket = Some(TokenBucket::new(limit, world.start));
        world
    }

    fn steady(len: usize, gap: Duration) -> Sender {
        Sender::Steady { len, gap, high: false, next: Duration::ZERO }
    }

    /// So many bytes per second, as packets of `len`.
    fn flood(len: usize, rate: u64) -> Sender {
        Self::steady(len, Duration::from_nanos(len as u64 * 1_000_000_000 / rate))
    }

    fn high_flood(len: usize, rate: u64) -> Sender {
        let Sender::Steady { len, gap, next, .. } = Self::flood(len, rate) else { unreachable!() };
        Sender::Steady { len, gap, high: true, next }
    }

    fn tcp(round_trip: Duration) -> Sender {
        Sender::Tcp(Box::new(Tcp {
            len: 1400,
            round_trip,
            window: 10.0,
            threshold: f64::MAX,
            under_way: VecDeque::new(),
            acks: VecDeque::new(),
            recover: 0,
            beyond: 0,
            next: 0,
            timer: None,
        }))
    }

    /// Lets so much time pass.
    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now += self.step;
            for flow in 0..self.senders.len() {
                self.send(flow as u16);
            }
            self.transmit();
        }
    }

    fn send(&mut self, flow: u16) {
        let Self { senders, queue, sent, now, start, .. } = self;
        let sent = sent.entry(flow).or_default();
        let mut push = |at: Instant, len: usize, high: bool| {
            let number = sent.len() as u32;
            sent.push(at);
            let packet = if high { dns(flow, number, len) } else { udp(flow, number, len) };
            queue.producer(at).push(&packet, Offload::NONE);
        };
        match &mut senders[usize::from(flow)] {
            Sender::Steady { len, gap, high, next } => {
                while *start + *next <= *now {
                    push(*now, *len, *high);
                    *next += *gap;
                }
            }
            Sender::Tcp(tcp) => {
                tcp.hear(*now);
                while (tcp.under_way.len() as f64) < tcp.window.floor() {
                    push(*now, tcp.len, false);
                    tcp.under_way.push_back(tcp.next);
                    tcp.next += 1;
                }
            }
        }
    }

    /// Puts packets on the link for as long as it is free.
    fn transmit(&mut self) {
        while self.free_at <= self.now {
            let tokens = self.bucket.as_mut().map_or(u64::MAX, |bucket| bucket.available(self.now));
            let allowance = Allowance { batch_bytes: usize::MAX, tokens };
            if self.queue.drain_into(self.now, &mut self.batch, allowance) == 0 {
                return;
            }
            let Some((packet, _)) = self.batch.iter().next() else { return };
            let (flow, number) = read(packet);
            let bytes = packet.len() as u64;
            if let Some(bucket) = &mut self.bucket {
                bucket.take(self.now, bytes);
            }
            let begin = self.free_at.max(self.now - self.step);
            self.free_at = begin + Duration::from_nanos(bytes * 1_000_000_000 / self.rate);
            let seen = self.seen.entry(flow).or_default();
            seen.packets += 1;
            seen.bytes += bytes;
            seen.delays.push(self.free_at - self.sent[&flow][number as usize]);
            if let Some(Sender::Tcp(tcp)) = self.senders.get_mut(usize::from(flow)) {
                tcp.acks.push_back((self.free_at + tcp.round_trip, number));
            }
        }
    }

    /// What was seen is forgotten; what was dropped is not.
    fn measure(&mut self) {
        self.seen.clear();
    }

    fn bytes(&self, flow: u16) -> u64 {
        self.seen.get(&flow).map_or(0, |seen| seen.bytes)
    }

    fn all_bytes(&self) -> u64 {
        self.seen.values().map(|seen| seen.bytes).sum()
    }

    fn dropped(&self, priority: Priority, reason: DropReason) -> u64 {
        self.traffic.drops().snapshot().get(priority, reason).packets
    }
}

impl Tcp {
    fn hear(&mut self, now: Instant) {
        while let Some((_, number)) = self.acks.pop_front_if(|(at, _)| *at <= now) {
            self.timer = Some(now + self.round_trip + 200 * MS);
            let in_order = self.under_way.front() == Some(&number);
            if in_order {
                self.under_way.pop_front();
                self.beyond = 0;
                self.window += if self.window < self.threshold { 1.0 } else { 1.0 / self.window };
                continue;
            }
            self.under_way.retain(|sent| *sent != number);
            self.beyond += 1;
            if self.beyond < 3 {
                continue;
            }
            // What is older than this one is lost, and sent again as something new.
            self.under_way.retain(|sent| *sent > number);
            self.beyond = 0;
            if number >= self.recover {
                self.threshold = (self.window / 2.0).max(2.0);
                self.window = self.threshold;
                self.recover = self.next;
            }
        }
        if now >= *self.timer.get_or_insert(now + 1000 * MS) {
            self.under_way.clear();
            self.threshold = (self.window / 2.0).max(2.0);
            self.window = 1.0;
            self.beyond = 0;
            self.timer = Some(now + self.round_trip + 1000 * MS);
        }
    }
}

fn near(value: u64, expected: u64, percent: u64) -> bool {
    value.abs_diff(expected) * 100 <= expected * percent
}

#[test]
fn a_class_that_waits_gets_an_eighth_of_the_link() {
    // Flows 0: low, 1: normal, 2: high, each with more than the link takes.
    let rate = 10 * MBIT;
    let many_normal = |world: &mut World, time: Duration| {
        // Normal is many flows that never make it to a megabyte.
        let end = world.now + time;
        let mut number = 0;
        while world.now < end {
            for _ in 0..2 {
                let packet = udp(1000 + number % 5000, 0, 1400);
                world.sent.insert(1000 + number % 5000, vec![world.now]);
                world.queue.producer(world.now).push(&packet, Offload::NONE);
                number += 1;
            }
            world.run(MS);
        }
    };
    let mut world = World::new(rate, vec![World::flood(1400, 2 * rate), World::high_flood(100, 2 * rate)]);
    world.run(Duration::from_secs(2));
    world.measure();
    many_normal(&mut world, Duration::from_secs(4));
    let all = world.all_bytes();
    assert!(near(all, 4 * rate, 1), "{all}");
    let (low, high) = (world.bytes(0), world.bytes(1));
    let normal = all - low - high;
    assert!(near(low, all / 8, 3) && near(normal, all / 8, 3), "low {low}, normal {normal} of {all}");

    // Without high, normal has what it left.
    let mut world = World::new(rate, vec![World::flood(1400, 2 * rate)]);
    world.run(Duration::from_secs(2));
    world.measure();
    many_normal(&mut world, Duration::from_secs(4));
    assert!(
        near(world.bytes(0), world.all_bytes() / 8, 3),
        "low {} of {}",
        world.bytes(0),
        world.all_bytes()
    );
}

#[test]
fn flows_of_any_kind_share_a_class_within_five_percent() {
    let rate = 20 * MBIT;
    // Floods of all lengths, and of very different strength; all of them low after a moment.
    let senders = vec![
        World::flood(1400, 10 * rate),
        World::flood(1400, rate),
        World::flood(700, rate / 2),
        World::flood(200, rate / 3),
        World::flood(60_000, rate / 4),
    ];
    let mut world = World::new(rate, senders);
    world.run(Duration::from_secs(3));
    world.measure();
    world.run(Duration::from_secs(5));
    let fair = world.all_bytes() / 5;
    assert!(near(world.all_bytes(), 5 * rate, 1));
    for flow in 0..5 {
        assert!(near(world.bytes(flow), fair, 5), "flow {flow}: {} of {fair}", world.bytes(flow));
    }
}

#[test]
fn a_flood_does_not_starve_tcp() {
    let rate = 20 * MBIT;
    let mut world = World::new(rate, vec![World::tcp(20 * MS), World::flood(1400, 3 * rate)]);
    world.run(Duration::from_secs(5));
    world.measure();
    world.run(Duration::from_secs(10));
    let share = world.bytes(0) * 100 / world.all_bytes();
    assert!(share >= 43, "TCP has {share} % of the link");
}

#[test]
fn sparse_traffic_passes_any_number_of_bulk_flows() {
    let rate = 10 * MBIT;
    let packet = Duration::from_nanos(1400 * 1_000_000_000 / rate);
    for bulk in [1, 2, 10] {
        // Within a class: the bulk flows are too young to be low.
        let mut senders = vec![World::steady(200, 20 * MS)];
        senders.extend((0..bulk).map(|_| World::flood(1400, rate)));
        let mut world = World::new(rate, senders);
        world.run(Duration::from_millis(700));
        let longest = world.seen[&0].longest();
        // The packet on the link, one of a batch's and its own.
        assert!(longest <= 2 * packet + MS, "{bulk} new bulk flows: {longest:?}");
        // And between classes.
        world.run(Duration::from_secs(5));
        world.measure();
        let lost = world.traffic.drops().snapshot().get(Priority::Normal, DropReason::QueueFull);
        world.run(Duration::from_secs(5));
        let longest = world.seen[&0].longest();
        assert!(longest <= 2 * packet + MS, "{bulk} old bulk flows: {longest:?}");
        assert_eq!(world.dropped(Priority::Normal, DropReason::QueueFull), lost.packets);
        assert!(world.seen[&0].packets >= 249);
    }
}

#[test]
fn tcp_keeps_the_link_full_and_its_queue_short() {
    let rate = 10 * MBIT;
    for (flows, round_trip, slack, median) in [(1, 20, 90, 20), (4, 20, 95, 30), (1, 5, 97, 20)] {
        let mut world = World::new(rate, (0..flows).map(|_| World::tcp(round_trip * MS)).collect());
        world.run(Duration::from_secs(5));
        world.measure();
        world.run(Duration::from_secs(20));
        let percent = world.all_bytes() * 100 / (20 * rate);
        assert!(percent >= slack, "{flows} flows at {round_trip} ms: {percent} % of the link");
        let waited = world.seen[&0].median();
        assert!(waited <= median * MS, "{flows} flows at {round_trip} ms: {waited:?}");
        assert_eq!(world.dropped(Priority::Low, DropReason::QueueFull), 0, "CoDel is there before");
        assert!(world.dropped(Priority::Low, DropReason::QueueDelay) > 0);
    }
}

#[test]
fn a_flood_waits_no_longer_than_the_bound_and_every_drop_is_counted() {
    let rate = 2 * MBIT;
    let mut world = World::new(rate, vec![World::flood(1400, 5 * rate)]);
    world.run(Duration::from_secs(10));
    let packet = Duration::from_nanos(1400 * 1_000_000_000 / rate);
    assert!(world.seen[&0].longest() <= MAX_WAIT + packet + MS, "{:?}", world.seen[&0].longest());
    let total = world.traffic.drops().snapshot().total();
    let left = world.seen[&0].packets + world.queue.len() as u64;
    assert_eq!(world.sent[&0].len() as u64, total.packets + left);
    assert_eq!(total.bytes, total.packets * 1400);
}

#[test]
fn after_a_stall_only_what_is_still_of_use_is_sent() {
    let rate = 10 * MBIT;
    let senders = vec![World::flood(1400, 4 * rate), World::steady(200, 20 * MS)];
    let mut world = World::new(rate, senders);
    world.run(Duration::from_secs(1));
    // The connection takes nothing for three seconds.
    world.free_at = world.now + Duration::from_secs(3);
    world.run(Duration::from_secs(3));
    assert!(world.queue.memory_bytes() < 1024 * 1024);
    world.measure();
    world.run(Duration::from_secs(1));
    for (flow, seen) in &world.seen {
        assert!(seen.longest() <= MAX_WAIT + 10 * MS, "flow {flow}: {:?}", seen.longest());
    }
    assert!(world.seen[&1].packets >= 50 && world.bytes(0) > rate * 9 / 10);
}

#[test]
fn tcp_under_a_limit_gets_what_the_limit_gives() {
    for (limit, seconds) in [(100_000, 20), (1_000_000, 10), (10_000_000, 3)] {
        for flows in [1, 4] {
            let senders = (0..flows).map(|_| World::tcp(MS)).collect();
            let mut world = World::limited(200 * MBIT, limit, senders);
            world.run(Duration::from_secs(3));
            world.measure();
            world.run(Duration::from_secs(seconds));
            let permille = world.all_bytes() * 1000 / (seconds * limit);
            assert!((900..=1010).contains(&permille), "{flows} flows at {limit} B/s: {permille} ‰");
            println!(
                "{flows} flows at {limit} B/s: {permille} ‰, delay {:?}, longest {:?}",
                world.seen[&0].median(),
                world.seen[&0].longest()
            );
        }
    }
}

#[test]
fn the_slowest_limit_still_lets_tcp_through() {
    let mut world = World::limited(200 * MBIT, 1000, vec![World::tcp(MS)]);
    world.step = MS;
    world.run(Duration::from_secs(120));
    world.measure();
    world.run(Duration::from_secs(120));
    let percent = world.all_bytes() * 100 / (120 * 1000);
    assert!(percent >= 90, "{percent} %");
}

#[test]
fn a_flood_is_cut_to_the_limit_and_a_ping_beside_it_is_not() {
    let limit = 10 * MBIT;
    let senders = vec![World::flood(1400, 5 * limit), World::steady(84, 50 * MS)];
    let mut world = World::limited(200 * MBIT, limit, senders);
    world.run(Duration::from_secs(3));
    world.measure();
    world.run(Duration::from_secs(10));
    let permille = world.all_bytes() * 1000 / (10 * limit);
    assert!((990..=1001).contains(&permille), "{permille} ‰");
    assert!(
        world.seen[&1].packets >= 199 && world.seen[&1].longest() <= 3 * MS,
        "{:?}",
        world.seen[&1].longest()
    );
    assert_eq!(world.dropped(Priority::High, DropReason::QueueFull), 0);
}
