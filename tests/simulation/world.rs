//! Two ends and the stream between them, in simulated time. Everything that happens follows from a
//! seed; after each step the world checks what must hold whatever happens.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use smartvpn::codec::disconnect::DisconnectCode;
use smartvpn::codec::hello::{ClientHello, Features};
use smartvpn::crypto::keys::Keypair;
use smartvpn::packet::{Offload, Record};
use smartvpn::session::{
    ClientParams, Event, Hybrid, KeepaliveCap, KeyLimits, Listening, MAX_ACKS, RekeyError, ReplayCache,
    client,
};

use crate::ends::{End, Node, Side, State, Used, in_force, step};
use crate::hostile::{self, Memory};
use crate::oracle::{HEADER, Rekey, Stage, Up, Verdict, counter, frames, judge, packets_in};

/// From connecting to confirmation, at either end.
pub(crate) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// A message before the session is up.
const HANDSHAKE_MESSAGE_MAX: usize = 8_197;

/// A message afterwards.
const SESSION_MESSAGE_MAX: usize = 262_144;

/// What a packet costs in a frame of its own, which is more than in a bundle.
const FRAME_COST: usize = 5 + 40;

/// Packets of a batch, in bytes, a last one apart: with it they may be more than one frame takes.
const BATCH_BYTES: usize = 128 * 1024;

/// Control frames that wait at once: a confirmation, a keepalive, the answers of a second, and one of a rekey.
pub(crate) const MOST_WAITING: usize = 2 + MAX_ACKS + 1;

/// From one RekeyInit to the next.
const REKEY_REST: Duration = Duration::from_millis(1_250);

/// Where simulated time begins.
#[expect(clippy::disallowed_methods, reason = "an Instant can be had in no other way")]
pub(crate) fn epoch() -> Instant {
    Instant::now()
}

enum Item {
    Message(Vec<u8>),
    Close,
}

/// One direction of the stream: delays, never reorders.
struct Pipe {
    items: VecDeque<(Instant, Item)>,
    latency: Duration,
    /// Nothing arrives before this.
    blocked_until: Instant,
}

/// How the world behaves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Climate {
    /// The longest stall of the stream.
    pub(crate) stall: Duration,
    /// Whether the stream may be cut, or an end leave, before the story is over.
    pub(crate) endings: bool,
    /// Whether somebody in between changes things.
    pub(crate) hostile: bool,
    pub(crate) key_limits: KeyLimits,
}

pub(crate) struct World {
    pub(crate) now: Instant,
    start: Instant,
    rng: StdRng,
    climate: Climate,
    nodes: [Node; 2],
    /// What the hellos put in force.
    features: Features,
    /// `pipes[side]` carries what `side` sends.
    pipes: [Pipe; 2],
    replay: ReplayCache,
    memory: Memory,
    prefixes: HashSet<[u8; 16]>,
    /// Messages that the middle lets through before it acts once.
    patience: Option<usize>,
    tampered: bool,
    /// A message of each side that the middle lets the next one overtake.
    held: [Option<Vec<u8>>; 2],
}

impl World {
    pub(crate) fn new(seed: u64, climate: Climate) -> Self {
        let now = epoch();
        let mut rng = StdRng::seed_from_u64(seed);
        let keypair = Arc::new(Keypair::generate(&mut rng));
        let [bundle, offload, rekey] = rng.random();
        let offered = Features { bundle, offload, rekey };
        let identity = rng.random_bool(0.5).then(|| Arc::new(Keypair::generate(&mut rng)));
        let params = ClientParams {
            server_key: keypair.public,
            identity,
            hello: ClientHello { features: offered, ..ClientHello::default() },
            hybrid: Hybrid::Off,
            keepalive_interval: rng.random_bool(0.3).then(|| Duration::from_secs(rng.random_range(5..=120))),
            keepalive_cap: KeepaliveCap::default(),
            key_limits: climate.key_limits,
        };
        let (awaiting, frame) = client::start(params, &mut rng).unwrap();
        let mut pipe = || Pipe {
            items: VecDeque::new(),
            latency: Duration::from_micros(rng.random_range(100..300_000)),
            blocked_until: now,
        };
        let pipes = [pipe(), pipe()];
        let patience = climate.hostile.then(|| match rng.random_bool(0.4) {
            true => rng.random_range(0..4),
            false => rng.random_range(0..120),
        });
        let mut world = Self {
            now,
            start: now,
            climate,
            nodes: [
                Node::new(State::Awaiting(Box::new(awaiting))),
                Node::new(State::Listening(Listening::new(Arc::clone(&keypair)))),
            ],
            features: in_force(offered),
            pipes,
            replay: ReplayCache::new(HANDSHAKE_TIMEOUT),
            memory: Memory::default(),
            prefixes: HashSet::new(),
            patience,
            tampered: false,
            held: [None, None],
            rng,
        };
        if world.features.rekey {
            world.nodes[Side::Server as usize].rekey = Rekey::Ready;
        }
        world.send(Side::Client, frame);
        world
    }

    /// Lives through `actions` of the application or of fate, then lets the client leave.
    pub(crate) fn run(&mut self, actions: usize) {
        for _ in 0..actions {
            let pause = match self.rng.random_range(0..10) {
                0 => Duration::from_millis(self.rng.random_range(0..200_000)),
                1..4 => Duration::from_millis(self.rng.random_range(0..20_000)),
                _ => Duration::from_millis(self.rng.random_range(0..500)),
            };
            self.advance(self.now + pause);
            self.act();
        }
        // Long enough for whatever is under way, and for silence to become death.
        self.advance(self.now + Duration::from_secs(400));
        self.leave(Side::Client, DisconnectCode::ClientDisconnect);
        self.advance(self.now + Duration::from_secs(400));
    }

    pub(crate) fn end(&self, side: Side) -> Option<&End> {
        self.nodes[side as usize].end.as_ref()
    }

    pub(crate) fn delivered_to(&self, side: Side) -> usize {
        self.nodes[side as usize].delivered
    }

    /// Bundles of several packets, and packets with an offload header, that came to `side`; what is in force
    /// tells whether there may be any.
    pub(crate) fn bundled_to(&self, side: Side) -> (usize, usize) {
        let Node { bundles, offloaded, .. } = self.nodes[side as usize];
        assert!(self.features.bundle || bundles == 0);
        assert!(self.features.offload || offloaded == 0);
        (bundles, offloaded)
    }

    /// Packets that `side` sealed and the other end did not get.
    pub(crate) fn undelivered_from(&self, side: Side) -> usize {
        self.nodes[side as usize].in_flight.len()
    }

    /// How often `side` had new keys.
    pub(crate) const fn renewals_of(&self, side: Side) -> usize {
        self.nodes[side as usize].renewals
    }

    pub(crate) const fn features(&self) -> Features {
        self.features
    }

    pub(crate) const fn tampered(&self) -> bool {
        self.tampered
    }

    fn act(&mut self) {
        let side = Side::BOTH[self.rng.random_range(0..2)];
        match self.rng.random_range(0..100) {
            0..70 => self.send_packets(side),
            70..85 => {
                let longest = self.climate.stall.as_millis() as u64;
                let stall = Duration::from_millis(self.rng.random_range(0..=longest));
                self.pipes[side as usize].blocked_until = self.now + stall;
            }
            85..87 if self.climate.endings => {
                let code = DisconnectCode::ALL[self.rng.random_range(0..DisconnectCode::ALL.len())];
                self.leave(side, code);
            }
            87 if self.climate.endings => {
                for side in Side::BOTH {
                    self.pipes[side as usize].items.clear();
                    self.pipes[side as usize].items.push_back((self.now, Item::Close));
                }
            }
            _ => {}
        }
    }

    fn send_packets(&mut self, side: Side) {
        let mut messages = vec![Vec::new()];
        let node = &mut self.nodes[side as usize];
        let State::Up(session) = &mut node.state else { return };
        session.poll_transmit(&mut messages[0]).unwrap();
        let mut left = self.rng.random_range(1..20);
        while left > 0 {
            let count = self.rng.random_range(1..=left);
            left -= count;
            let batch = draw_batch(&mut self.rng, self.features, count);
            let length: usize = batch.iter().map(|(packet, _)| packet.len() + FRAME_COST).sum();
            if messages.last().unwrap().len() + length > SESSION_MESSAGE_MAX {
                messages.push(Vec::new());
            }
            let packets = batch.iter().map(|(packet, offload)| (packet.as_slice(), *offload));
            match session.seal_packets(self.now, packets, messages.last_mut().unwrap()) {
                Ok(()) => node.in_flight.extend(batch),
                Err(error) => {
                    assert_eq!(error.close_code().as_u16(), 1000, "{error}");
                    assert!(node.left.is_some(), "{error}");
                }
            }
        }
        for message in messages {
            self.send(side, message);
        }
        self.settle(side);
    }

    /// Whether the client's keys have served for so long.
    fn are_worn(&self, limits: KeyLimits) -> (bool, bool) {
        let client = &self.nodes[Side::Client as usize];
        let used = |used: Used| used.frames >= limits.frames || used.bytes >= limits.bytes;
        let since = client.keys_since.unwrap_or(self.start);
        (used(client.sealed) || used(client.opened), self.now - since >= limits.age)
    }

    /// Nine tenths of what keys serve.
    fn aging(&self) -> KeyLimits {
        let KeyLimits { frames, bytes, age } = self.climate.key_limits;
        let tenths = |number: u64| number - number / 10;
        KeyLimits { frames: tenths(frames), bytes: tenths(bytes), age: age / 10 * 9 }
    }

    /// A client is told once that its keys age, at nine tenths, and once that they are spent, unless it renews them
    /// itself; a server never.
    fn check_keys(&self) {
        let [client, server] = &self.nodes;
        assert_eq!(server.key_events + server.aging_events, 0);
        let (spent, aged) = self.are_worn(self.climate.key_limits);
        let (worn, old) = self.are_worn(self.aging());
        if self.features.rekey {
            assert_eq!(client.key_events + client.aging_events, 0, "told of what it does itself");
            assert!([0, 1].contains(&(client.renewals - server.renewals)), "one end has other keys");
            return;
        }
        assert_eq!(client.renewals + server.renewals, 0);
        assert!(client.key_events <= 1 && (client.key_events == 1 || !spent), "spent keys");
        assert!(client.key_events == 0 || spent || aged, "fresh keys");
        assert!(client.aging_events <= 1, "told twice");
        assert!(client.aging_events + client.key_events > 0 || !worn, "nobody was told that the keys age");
        assert!(client.aging_events == 0 || worn || old, "young keys");
    }

    /// A client whose keys are worn asks for others at once, unless it did so a moment ago.
    fn check_rekey(&self) {
        let client = &self.nodes[Side::Client as usize];
        let State::Up(session) = &client.state else { return };
        let (worn, _) = self.are_worn(self.aging());
        if self.features.rekey && client.left.is_none() && client.rekey != Rekey::Asked && worn {
            let at = client.asked.map_or(self.now, |asked| self.now.max(asked + REKEY_REST));
            assert!(session.poll_timeout().is_some_and(|due| due <= at), "worn keys");
        }
    }

    fn leave(&mut self, side: Side, code: DisconnectCode) {
        let node = &mut self.nodes[side as usize];
        if node.end.is_some() {
            return;
        }
        if let State::Up(session) = &mut node.state {
            session.disconnect(code, "bye");
            assert_eq!(session.poll_timeout(), None);
            node.left = Some(code);
            node.end = Some(End::Left(code));
            self.settle(side);
        } else {
            self.finish(side, End::Left(code));
        }
    }

    /// Lets everything happen that happens until then.
    fn advance(&mut self, until: Instant) {
        let mut steps = 0;
        while let Some(at) = self.next_event().filter(|at| *at <= until) {
            self.now = self.now.max(at);
            for side in Side::BOTH {
                self.expire(side);
                self.arrive(side);
            }
            steps += 1;
            assert!(steps < 100_000, "the world does not come to rest");
        }
        self.now = until;
    }

    fn next_event(&self) -> Option<Instant> {
        Side::BOTH.into_iter().flat_map(|side| [self.deadline(side), self.arrival(side)]).flatten().min()
    }

    /// When the next message of `from` reaches the other end.
    fn arrival(&self, from: Side) -> Option<Instant> {
        let pipe = &self.pipes[from as usize];
        pipe.items.front().map(|(at, _)| pipe.blocked_until.max(*at))
    }

    fn deadline(&self, side: Side) -> Option<Instant> {
        let node = &self.nodes[side as usize];
        match &node.state {
            State::Awaiting(_) | State::Listening(_) | State::Unconfirmed(_) => {
                Some(self.start + HANDSHAKE_TIMEOUT)
            }
            State::Up(session) => session.poll_timeout(),
            State::Over => None,
        }
    }

    fn expire(&mut self, side: Side) {
        if self.deadline(side).is_none_or(|at| at > self.now) {
            return;
        }
        let State::Up(session) = &mut self.nodes[side as usize].state else {
            return self.finish(side, End::Deadline);
        };
        session.handle_timeout(self.now, &mut self.rng);
        assert!(session.poll_timeout().is_none_or(|at| at > self.now), "a deadline in the past");
        let quality = session.quality();
        assert!(
            (0.0..=1.0).contains(&quality.loss_ratio) && quality.min_rtt <= quality.max_rtt,
            "{quality:?}"
        );
        self.settle(side);
    }

    fn arrive(&mut self, from: Side) {
        if self.arrival(from).is_none_or(|at| at > self.now) {
            return;
        }
        match self.pipes[from as usize].items.pop_front() {
            Some((_, Item::Message(message))) => {
                for message in self.pass_middle(from, message) {
                    self.receive(from.other(), message);
                }
            }
            Some((_, Item::Close)) => self.lose(from.other()),
            None => {}
        }
    }

    /// What becomes of a message on its way.
    fn pass_middle(&mut self, from: Side, message: Vec<u8>) -> Vec<Vec<u8>> {
        if let Some(held) = self.held[from as usize].take() {
            return vec![message, held];
        }
        let Some(patience) = self.patience else { return vec![message] };
        self.memory.see(&message, &mut self.rng);
        self.patience = patience.checked_sub(1);
        if patience > 0 {
            return vec![message];
        }
        self.tampered = true;
        if self.rng.random_bool(0.05) {
            self.held[from as usize] = Some(message);
            return Vec::new();
        }
        hostile::tamper(&message, &self.memory, &mut self.rng)
    }

    /// The receiver must do with a message what the oracle says, and nothing else.
    fn receive(&mut self, to: Side, mut message: Vec<u8>) {
        let [client, server] = &mut self.nodes;
        let (receiver, sender) = match to {
            Side::Client => (client, server),
            Side::Server => (server, client),
        };
        let stage = receiver.stage();
        if !matches!(stage, Stage::Up(_) | Stage::Closed) && !self.tampered {
            assert!(message.len() <= HANDSHAKE_MESSAGE_MAX, "{} bytes in {stage:?}", message.len());
        }
        let up = Stage::Up(Up { bundle: self.features.bundle, rekey: receiver.rekey });
        let verdict = judge(stage, up, &sender.genuine, &message);
        let mut packets = 0;
        for frame in sender.genuine.drain(..verdict.accepted) {
            let count = packets_in(&frame, sender.in_flight.iter().skip(packets));
            packets += count;
            receiver.bundles += usize::from(count > 1);
            if frame[0] >= 0x10 {
                receiver.opened(self.now, &frame);
            }
        }
        let (mut delivered, mut offloaded) = (0, 0);
        let in_flight = &mut sender.in_flight;
        let sink = |Record { packet, offload }: Record<'_>| {
            let genuine = in_flight.pop_front().expect("a packet that was not sent");
            assert!((&*packet, offload) == (&genuine.0, genuine.1), "a packet other than the next one");
            delivered += 1;
            offloaded += usize::from(offload != Offload::NONE);
        };
        let state = std::mem::replace(&mut receiver.state, State::Over);
        let outcome = step(state, self.now, &mut self.rng, &mut self.replay, &mut message, sink);
        assert_eq!(delivered, packets, "packets of accepted frames are delivered, others are not");
        receiver.delivered += delivered;
        receiver.offloaded += offloaded;
        self.apply(to, outcome, verdict);
    }

    fn apply(&mut self, to: Side, outcome: Result<(State, Option<Vec<u8>>), End>, verdict: Verdict) {
        match outcome {
            Ok((state, answer)) => {
                self.nodes[to as usize].state = state;
                if let Some(answer) = answer {
                    self.send(to, answer);
                }
                self.settle(to);
            }
            Err(end) => self.finish(to, end),
        }
        let fault = match self.end(to) {
            Some(End::Fault(code)) => Some(*code),
            _ => None,
        };
        // An end that is over already takes nothing, and its verdict is empty.
        if verdict != Verdict::default() {
            assert_eq!(fault, verdict.close, "the wrong close code");
            assert_eq!(self.end(to) == Some(&End::PlainDisconnect), verdict.plain_disconnect);
        }
    }

    /// Polls a session as its owner does after each call.
    fn settle(&mut self, side: Side) {
        let node = &mut self.nodes[side as usize];
        let State::Up(session) = &mut node.state else { return };
        assert_eq!(session.features(), self.features);
        let mut end = None;
        while let Some(event) = session.poll_event() {
            match event {
                Event::RoundTrip { rtt } => {
                    assert!(rtt <= self.now - self.start);
                    assert!(session.quality().max_rtt >= session.quality().min_rtt);
                }
                Event::TimedOut => {
                    let quality = session.quality();
                    assert!(quality.consecutive_timeouts > 0 && quality.loss_ratio > 0.0, "{quality:?}");
                }
                Event::KeysAging => {
                    node.aging_events += 1;
                    assert_eq!(node.key_events, 0, "keys age before they are spent");
                }
                Event::KeysSpent => node.key_events += 1,
                Event::KeysRenewed => node.renewals += 1,
                Event::RekeyFailed(RekeyError::Overdue) => end = Some(End::RekeyOverdue),
                Event::PeerDead => end = Some(End::PeerDead),
                Event::Disconnected(disconnect) => end = Some(End::Disconnected(disconnect.code)),
                other => panic!("{other:?}"),
            }
        }
        if end.is_none() && side == Side::Client {
            self.check_keys();
        }
        let State::Up(session) = &mut self.nodes[side as usize].state else { return };
        let mut out = Vec::new();
        match session.poll_transmit(&mut out) {
            Ok(any) => {
                assert_eq!(any, !out.is_empty());
                assert!(frames(&out).len() <= MOST_WAITING, "more waits than is bounded");
                assert!(!session.poll_transmit(&mut Vec::new()).unwrap());
                assert!(end.is_none() || out.is_empty(), "sent after the end");
            }
            Err(error) => end = Some(End::Fault(error.close_code().as_u16())),
        }
        self.send(side, out);
        match end {
            Some(end) => self.finish(side, end),
            None if side == Side::Client => self.check_rekey(),
            None => {}
        }
    }

    /// Writes a message to the stream. Every sealed frame has the next counter of its prefix, and
    /// no prefix is used by two keys: so no nonce comes twice. New keys are asked for only when those in force are
    /// worn, and switched to at once.
    fn send(&mut self, side: Side, message: Vec<u8>) {
        if message.is_empty() {
            return;
        }
        assert!(message.len() <= SESSION_MESSAGE_MAX);
        for frame in frames(&message) {
            if frame[0] == 0x40 {
                let (worn, old) = self.are_worn(self.aging());
                assert!(worn || old, "young keys are renewed");
            }
            let node = &mut self.nodes[side as usize];
            if frame[0] >= 0x10 {
                if std::mem::take(&mut node.switches) {
                    assert!(side == Side::Server || frame[0] == 0x20, "the switch is no keepalive");
                    node.nonce = (None, 0);
                }
                let prefix = *frame[HEADER..].first_chunk::<16>().unwrap();
                assert_eq!(counter(frame), node.nonce.1, "a nonce out of order");
                node.nonce.1 += 1;
                match node.nonce.0 {
                    Some(known) => assert_eq!(known, prefix, "two prefixes for one key"),
                    None => assert!(self.prefixes.insert(prefix), "a prefix serves two keys"),
                }
                node.nonce.0 = Some(prefix);
                node.sealed(self.now, frame);
            }
            node.genuine.push_back(frame.to_vec());
        }
        self.push(side, Item::Message(message));
    }

    fn push(&mut self, side: Side, item: Item) {
        let pipe = &mut self.pipes[side as usize];
        let jitter = Duration::from_micros(self.rng.random_range(0..20_000));
        let earliest = pipe.items.back().map_or(self.now, |(at, _)| *at);
        pipe.items.push_back((earliest.max(self.now + pipe.latency + jitter), item));
    }

    fn lose(&mut self, side: Side) {
        if self.end(side).is_none() {
            self.nodes[side as usize].end = Some(End::Lost);
        }
        self.nodes[side as usize].state = State::Over;
    }

    fn finish(&mut self, side: Side, end: End) {
        let node = &mut self.nodes[side as usize];
        node.end.get_or_insert(end);
        node.state = State::Over;
        self.push(side, Item::Close);
    }
}

/// Up to `count` packets that leave together; the session does not judge what they are.
fn draw_batch(rng: &mut StdRng, features: Features, count: usize) -> Vec<(Vec<u8>, Offload)> {
    let mut batch = Vec::new();
    let mut bytes = 0;
    while batch.len() < count && bytes < BATCH_BYTES {
        let length = match rng.random_range(0..30) {
            0 => rng.random_range(0..=65_535),
            1..10 => rng.random_range(0..64),
            _ => rng.random_range(0..1_420),
        };
        let offload = match features.offload && rng.random_bool(0.25) {
            true => Offload::from_wire(rng.random()),
            false => Offload::NONE,
        };
        // A record is not empty.
        let length = if count > 1 || offload != Offload::NONE { length.max(1) } else { length };
        let mut packet = vec![rng.random(); length];
        let stamped = length.min(8);
        packet[..stamped].copy_from_slice(&rng.random::<[u8; 8]>()[..stamped]);
        bytes += length;
        batch.push((packet, offload));
    }
    batch
}
