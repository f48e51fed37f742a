//! Something on the way that cuts connections which are idle for too long, and a client that learns.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use smartvpn::session::{ClientParams, Event, KeepaliveCap, Session, client};

use crate::raw::Bench;

const LATENCY: Duration = Duration::from_millis(40);

/// How the ends hear that the connection was cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    /// At once, as when a proxy closes both its connections.
    AtOnce,
    /// By a reset that answers what they send next, as of a NAT that forgot.
    WhenUsed,
}

/// One end of a connection through the proxy.
struct Node {
    session: Session,
    /// What is on its way here: arrives, message.
    inbox: VecDeque<(Instant, Vec<u8>)>,
}

/// A connection through a proxy that grants so much silence.
struct Connection {
    start: Instant,
    nodes: [Node; 2],
    patience: Duration,
    manner: Manner,
    last_passed: Instant,
    /// When the client hears of the cut.
    cut_heard: Option<Instant>,
}

impl Connection {
    fn open(bench: &mut Bench, cap: KeepaliveCap, patience: Duration, manner: Manner) -> Self {
        let params = ClientParams { keepalive_cap: cap, ..bench.params() };
        let (awaiting, message1) = client::start(params, &mut bench.rng).unwrap();
        let (unconfirmed, mut message2) = bench.answer(message1);
        let mut near = awaiting.handle_message(bench.now, &mut bench.rng, &mut message2).unwrap().session;
        let mut confirmation = Vec::new();
        near.poll_transmit(&mut confirmation).unwrap();
        let far = unconfirmed.handle_message(bench.now, &mut bench.rng, &mut confirmation, |_| {}).unwrap();
        let nodes = [near, far].map(|session| Node { session, inbox: VecDeque::new() });
        let mut connection =
            Self { start: bench.now, nodes, patience, manner, last_passed: bench.now, cut_heard: None };
        connection.transmit(bench.now, 1);
        connection
    }

    fn is_cut(&self, now: Instant) -> bool {
        now >= self.last_passed + self.patience
    }

    /// Lets one end send what waits in its session.
    fn transmit(&mut self, now: Instant, from: usize) {
        let mut message = Vec::new();
        if self.nodes[from].session.poll_transmit(&mut message).unwrap() {
            self.pass(now, from, message);
        }
    }

    fn pass(&mut self, now: Instant, from: usize, message: Vec<u8>) {
        if self.is_cut(now) {
            if from == 0 {
                self.cut_heard.get_or_insert(now + 2 * LATENCY);
            }
            return;
        }
        self.last_passed = now;
        self.nodes[1 - from].inbox.push_back((now + LATENCY, message));
    }

    /// A packet of the client's application.
    fn send_packet(&mut self, now: Instant) {
        let mut message = Vec::new();
        self.nodes[0].session.seal_packet(now, b"packet", &mut message).unwrap();
        self.pass(now, 0, message);
    }

    /// Lives on for so long. If the connection is cut meanwhile: what the client makes of it.
    fn run(&mut self, bench: &mut Bench, time: Duration) -> Option<Option<Duration>> {
        let until = bench.now + time;
        loop {
            let idle_end = self.last_passed + self.patience;
            let at_once = self.manner == Manner::AtOnce && self.cut_heard.is_none();
            let arrivals = self.nodes.iter().filter_map(|node| node.inbox.front().map(|(at, _)| *at));
            let timers = self.nodes.iter().filter_map(|node| node.session.poll_timeout());
            let next = arrivals.chain(timers).chain(at_once.then_some(idle_end)).chain(self.cut_heard).min();
            let Some(now) = next.filter(|at| *at <= until) else { break };
            bench.now = bench.now.max(now);
            if at_once && self.is_cut(bench.now) {
                self.cut_heard = Some(bench.now + LATENCY);
            }
            if self.cut_heard.is_some_and(|at| at <= bench.now) {
                return Some(self.nodes[0].session.silence_before_cut(bench.now, true));
            }
            for side in 0..2 {
                self.serve(bench, side);
            }
        }
        bench.now = until;
        None
    }

    fn serve(&mut self, bench: &mut Bench, side: usize) {
        let node = &mut self.nodes[side];
        while node.inbox.front().is_some_and(|(at, _)| *at <= bench.now) {
            let (_, mut message) = node.inbox.pop_front().unwrap();
            node.session.handle_message(bench.now, &mut message, |_| {}).unwrap();
        }
        if node.session.poll_timeout().is_some_and(|at| at <= bench.now) {
            node.session.handle_timeout(bench.now, &mut bench.rng);
        }
        while let Some(event) = node.session.poll_event() {
            assert!(!matches!(event, Event::PeerDead), "side {side}, {:?} in", bench.now - self.start);
        }
        self.transmit(bench.now, side);
    }
}

const HOUR: Duration = Duration::from_secs(3_500);

#[test]
fn the_second_connection_survives_a_proxy_that_cut_the_first() {
    for patience in [5, 10, 15, 20, 45] {
        for manner in [Manner::AtOnce, Manner::WhenUsed] {
            let what = format!("{patience} s, {manner:?}");
            let patience = Duration::from_secs(patience);
            let mut bench = Bench::new();
            let mut cap = KeepaliveCap::default();
            let mut connection = Connection::open(&mut bench, cap, patience, manner);
            let silence = connection.run(&mut bench, HOUR).expect("the proxy did not cut").expect("not idle");
            // A reset tells of the silence that our keepalive ended, which was longer than the proxy's.
            let longest = if manner == Manner::AtOnce { patience + LATENCY } else { HOUR };
            assert!(silence + 2 * LATENCY >= patience && silence <= longest, "{what}: {silence:?}");
            assert!(cap.learn(bench.now, silence));
            // By resets it may take more than one lesson, each a fifth and more shorter.
            let mut cuts = 1;
            loop {
                let mut connection = Connection::open(&mut bench, cap, patience, manner);
                let Some(lesson) = connection.run(&mut bench, HOUR) else { break };
                assert_eq!(manner, Manner::WhenUsed, "{what}: cut again");
                assert!(cap.learn(bench.now, lesson.expect("not idle")), "{what}: nothing new");
                cuts += 1;
                assert!(cuts < 12, "{what}: it never learns");
            }
            // The longest silence with it: 95 % of the interval.
            assert!(cap.get().unwrap() * 95 / 100 < patience, "{what}: {cap:?}");
        }
    }
}

#[test]
fn a_proxy_of_60_s_never_cuts() {
    for seed in 0..20 {
        let mut bench = Bench::new();
        bench.rng = rand::SeedableRng::seed_from_u64(seed);
        let mut connection =
            Connection::open(&mut bench, KeepaliveCap::default(), Duration::from_secs(60), Manner::AtOnce);
        assert_eq!(connection.run(&mut bench, HOUR), None);
    }
}

#[test]
fn a_cap_holds_from_the_first_interval_on() {
    let mut bench = Bench::new();
    let mut cap = KeepaliveCap::default();
    cap.learn(bench.now, Duration::from_secs(10));
    let mut connection = Connection::open(&mut bench, cap, Duration::from_secs(120), Manner::AtOnce);
    assert_eq!(connection.run(&mut bench, HOUR), None);
    let session = &connection.nodes[0].session;
    assert_eq!(session.quality().keepalive_interval, Duration::from_secs(8));
    let (sent, _) = session.keepalives();
    // One in 85 to 95 % of 8 s: 6.8 to 7.6.
    assert!((HOUR.as_secs() * 10 / 76 - 1..=HOUR.as_secs() * 10 / 68 + 2).contains(&sent), "{sent}");
}

#[test]
fn a_packet_that_meets_the_cut_counts_as_a_keepalive_does() {
    let mut bench = Bench::new();
    let patience = Duration::from_secs(15);
    let mut connection = Connection::open(&mut bench, KeepaliveCap::default(), patience, Manner::WhenUsed);
    assert_eq!(connection.run(&mut bench, Duration::from_secs(20)), None);
    connection.send_packet(bench.now);
    let silence = connection.run(&mut bench, Duration::from_secs(1)).unwrap().unwrap();
    assert_eq!(silence.as_secs(), 19, "{silence:?}");
}

#[test]
fn a_cut_amid_traffic_teaches_nothing() {
    let mut bench = Bench::new();
    let mut connection = Connection::open(&mut bench, KeepaliveCap::default(), HOUR, Manner::AtOnce);
    for _ in 0..40 {
        assert_eq!(connection.run(&mut bench, Duration::from_secs(1)), None);
        connection.send_packet(bench.now);
    }
    assert_eq!(connection.run(&mut bench, Duration::from_secs(2)), None);
    assert_eq!(connection.nodes[0].session.silence_before_cut(bench.now, true), None);
    // What the socket did not take is no sign of idleness, however long ago it was sealed.
    connection.run(&mut bench, Duration::from_secs(12));
    assert_eq!(connection.nodes[0].session.silence_before_cut(bench.now, false), None);
}
