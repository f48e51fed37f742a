//! Each rule of PROTOCOL §5's rekey, against peers that keep to it and against peers made by hand.

use std::sync::Arc;

use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::*;
use crate::codec::disconnect::DisconnectCode;
use crate::codec::frame::{FrameSet, FrameType, HEADER_LEN, split_frame};
use crate::codec::hello::{Accepted, ClientHello, Features, MLKEM_KEY_LEN, ServerHello};
use crate::codec::rekey_hello::RekeyHello;
use crate::crypto::kem::{KemKey, encapsulate};
use crate::crypto::keys::Keypair;
use crate::crypto::noise::{self, Initiated, Pattern};
use crate::crypto::seal::PREFIX_LEN;
use crate::session::{
    ClientParams, Event, FEATURES, Hybrid, KeepaliveCap, KeyLimits, Listening, Opened, ReplayCache, Session,
    client, epoch, handshake_frame,
};

const NONE: [Event; 0] = [];

struct Bench {
    now: Instant,
    rng: StdRng,
    server: Arc<Keypair>,
}

/// One end made by hand: it can do what a session never would.
struct Raw {
    sealer: Sealer,
    opener: Opener,
    hash: [u8; 32],
    prefixes: u8,
}

impl Bench {
    fn new() -> Self {
        let mut rng = StdRng::seed_from_u64(9);
        Self { now: epoch(), server: Arc::new(Keypair::generate(&mut rng)), rng }
    }

    fn params(&self, hybrid: bool, key_limits: KeyLimits) -> ClientParams {
        ClientParams {
            server_key: self.server.public,
            identity: None,
            hello: ClientHello { features: FEATURES, ..ClientHello::default() },
            hybrid: if hybrid { Hybrid::Offered } else { Hybrid::Off },
            keepalive_interval: None,
            keepalive_cap: KeepaliveCap::default(),
            key_limits,
        }
    }

    /// Both ends as they are.
    fn pair(&mut self, hybrid: bool, limits: KeyLimits) -> (Session, Session) {
        self.pair_of(None, hybrid, limits)
    }

    fn pair_of(
        &mut self,
        identity: Option<Arc<Keypair>>,
        hybrid: bool,
        limits: KeyLimits,
    ) -> (Session, Session) {
        let params = ClientParams { identity, ..self.params(hybrid, limits) };
        let (awaiting, mut message1) = client::start(params, &mut self.rng).unwrap();
        let (unconfirmed, mut message2) = self.answer(&mut message1);
        let mut client = awaiting.handle_message(self.now, &mut self.rng, &mut message2).unwrap().session;
        let mut confirmation = Vec::new();
        client.poll_transmit(&mut confirmation).unwrap();
        let mut server =
            unconfirmed.handle_message(self.now, &mut self.rng, &mut confirmation, |_| {}).unwrap();
        self.exchange(&mut server, &mut client);
        (client, server)
    }

    fn answer(&mut self, message1: &mut [u8]) -> (crate::session::Unconfirmed, Vec<u8>) {
        let mut replay = ReplayCache::new(Duration::from_secs(10));
        let listening = Listening::new(Arc::clone(&self.server));
        let opened = listening.handle_message(self.now, &mut self.rng, &mut replay, message1).unwrap();
        let Opened::Request(request) = opened else { panic!("refused") };
        request.accept(&accepted(None), &mut self.rng).unwrap()
    }

    /// A server's session, and its client made by hand, which has no key.
    fn server(&mut self, features: Features, hybrid: bool) -> (Session, Raw) {
        self.server_of(None, features, hybrid)
    }

    fn server_of(&mut self, client: Option<&Keypair>, features: Features, hybrid: bool) -> (Session, Raw) {
        let kem = hybrid.then(|| KemKey::generate().unwrap());
        let mlkem768 = kem.as_ref().map(|kem| kem.public_bytes().to_vec());
        let hello = ClientHello { features, mlkem768, ..ClientHello::default() };
        let (pattern, kind) = match client {
            None => (Pattern::Nk, FrameType::HandshakeInit),
            Some(_) => (Pattern::Ik, FrameType::HandshakeInitIk),
        };
        let key = &self.server.public;
        let (initiated, message1) =
            noise::initiate(pattern, kind, client, key, &hello.encode(), &mut self.rng).unwrap();
        let (unconfirmed, message2) = self.answer(&mut handshake_frame(kind, &message1));
        let (payload, handshake) = initiated.finish(&message2[HEADER_LEN..]).unwrap();
        let hello = ServerHello::parse(&payload, features, hybrid).unwrap();
        let ServerHello::Accepted(hello) = hello else { panic!("{hello:?}") };
        let secret = kem.map(|kem| kem.decapsulate(&hello.mlkem768.unwrap()).unwrap());
        let mut raw = Raw::client(&handshake, secret.as_ref(), 1);
        let mut message = raw.seal(FrameType::Keepalive, &[0; 8]);
        let session = unconfirmed.handle_message(self.now, &mut self.rng, &mut message, |_| {}).unwrap();
        (session, raw)
    }

    /// A client's session, and its server made by hand.
    fn client(&mut self, hybrid: bool, limits: KeyLimits) -> (Session, Raw) {
        let (awaiting, message1) = client::start(self.params(hybrid, limits), &mut self.rng).unwrap();
        let kind = FrameType::HandshakeInit;
        let (responding, payload) =
            noise::respond(Pattern::Nk, kind, &self.server, &message1[HEADER_LEN..]).unwrap();
        let key = ClientHello::parse(&payload).unwrap().mlkem768;
        let (mlkem768, secret) = key.map(|key| encapsulate(&key).unwrap()).unzip();
        let hello = ServerHello::Accepted(Box::new(accepted(mlkem768)));
        let (message2, handshake) = responding.finish(&hello.encode(), &mut self.rng).unwrap();
        let mut frame = handshake_frame(FrameType::HandshakeResp, &message2);
        let session = awaiting.handle_message(self.now, &mut self.rng, &mut frame).unwrap().session;
        (session, Raw::server(&handshake, secret.as_ref(), 1))
    }

    /// What waits in one goes to the other.
    fn exchange(&mut self, from: &mut Session, to: &mut Session) -> usize {
        self.run(from);
        let mut message = Vec::new();
        from.poll_transmit(&mut message).unwrap();
        if !message.is_empty() {
            to.handle_message(self.now, &mut message, |_| {}).unwrap();
        }
        message.len()
    }

    /// Does what is due.
    fn run(&mut self, session: &mut Session) {
        if session.poll_timeout().is_some_and(|at| at <= self.now) {
            session.handle_timeout(self.now, &mut self.rng);
        }
    }

    /// Lets time pass until then, for one session.
    fn run_until(&mut self, session: &mut Session, end: Instant) {
        while let Some(at) = session.poll_timeout().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            session.handle_timeout(self.now, &mut self.rng);
        }
        self.now = end;
    }

    /// RekeyInit of a client made by hand that has such a key, or none.
    fn rekey_init_of(&mut self, raw: &mut Raw, client: Option<&Keypair>) -> (Initiated, Vec<u8>) {
        let pattern = Pattern::of_client(client.is_some());
        let prologue = noise::rekey_prologue(pattern, &raw.hash);
        let key = &self.server.public;
        let (initiated, message1) =
            noise::initiate_with(pattern, &prologue, client, key, BARE, &mut self.rng).unwrap();
        (initiated, raw.seal(FrameType::RekeyInit, &[&[pattern as u8], message1.as_slice()].concat()))
    }

    /// RekeyInit of a client made by hand that has no key.
    fn rekey_init(&mut self, raw: &mut Raw, hello: &[u8]) -> (Initiated, Vec<u8>) {
        let hash = raw.hash;
        self.rekey_init_with(raw, Pattern::Nk as u8, &hash, hello)
    }

    fn rekey_init_with(
        &mut self,
        raw: &mut Raw,
        pattern: u8,
        hash: &[u8; 32],
        hello: &[u8],
    ) -> (Initiated, Vec<u8>) {
        let prologue = noise::rekey_prologue(Pattern::Nk, hash);
        let key = &self.server.public;
        let (initiated, message1) =
            noise::initiate_with(Pattern::Nk, &prologue, None, key, hello, &mut self.rng).unwrap();
        (initiated, raw.seal(FrameType::RekeyInit, &[&[pattern], message1.as_slice()].concat()))
    }

    /// A rekey by a client made by hand, up to the server's answer. Returns the client's new end.
    fn rekey_by_hand(&mut self, session: &mut Session, raw: &mut Raw) -> Raw {
        let (initiated, mut init) = self.rekey_init(raw, BARE);
        session.handle_message(self.now, &mut init, |_| {}).unwrap();
        self.run(session);
        let frames = raw.take(session);
        let (kind, message2) = frames.last().unwrap();
        assert_eq!(*kind, FrameType::RekeyResp);
        let (_, handshake) = initiated.finish(message2).unwrap();
        Raw::client(&handshake, None, raw.prefixes + 1)
    }

    /// RekeyResp of a server made by hand, with any hello.
    fn rekey_resp(&mut self, session: &mut Session, raw: &mut Raw, hello: &[u8]) -> (Vec<u8>, Handshake) {
        self.run(session);
        let frames = raw.take(session);
        let (_, init) = frames.iter().find(|(kind, _)| *kind == FrameType::RekeyInit).expect("no RekeyInit");
        let prologue = noise::rekey_prologue(Pattern::Nk, &raw.hash);
        assert_eq!(init[0], Pattern::Nk as u8);
        let (responding, _) = noise::respond_with(Pattern::Nk, &prologue, &self.server, &init[1..]).unwrap();
        let (message2, handshake) = responding.finish(hello, &mut self.rng).unwrap();
        (raw.seal(FrameType::RekeyResp, &message2), handshake)
    }
}

const BARE: &[u8] = br#"{"version":1}"#;

impl Raw {
    fn client(handshake: &Handshake, secret: Option<&SharedSecret>, prefix: u8) -> Self {
        let keys = FreshKeys::of_client(handshake, secret, [prefix; PREFIX_LEN]);
        Self { sealer: keys.sealer, opener: keys.opener, hash: handshake.hash, prefixes: prefix }
    }

    fn server(handshake: &Handshake, secret: Option<&SharedSecret>, prefix: u8) -> Self {
        let keys = FreshKeys::of_server(handshake, secret, [prefix; PREFIX_LEN]);
        Self { sealer: keys.sealer, opener: keys.opener, hash: handshake.hash, prefixes: prefix }
    }

    fn seal(&mut self, kind: FrameType, plaintext: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        self.sealer.seal(kind, plaintext, &mut frame).unwrap();
        frame
    }

    fn open(&mut self, message: &mut [u8]) -> Vec<(FrameType, Vec<u8>)> {
        let mut opened = Vec::new();
        let mut rest = message;
        while !rest.is_empty() {
            let (frame, behind) = split_frame(rest, FrameSet::of(&FrameType::ALL)).unwrap();
            opened.push((frame.kind, self.opener.open(&frame.header, frame.payload).unwrap().to_vec()));
            rest = behind;
        }
        opened
    }

    fn take(&mut self, session: &mut Session) -> Vec<(FrameType, Vec<u8>)> {
        let mut message = Vec::new();
        session.poll_transmit(&mut message).unwrap();
        self.open(&mut message)
    }
}

fn accepted(mlkem768: Option<Vec<u8>>) -> Accepted {
    Accepted {
        version: 1,
        features: FEATURES,
        client_id: "c1".into(),
        assigned_ip: [10, 8, 0, 2].into(),
        prefix_length: 24,
        gateway: [10, 8, 0, 1].into(),
        v6: None,
        mtu: 1420,
        keepalive_interval_secs: 30,
        dns: Vec::new(),
        ticket: None,
        mlkem768,
    }
}

fn frames(frames: u64) -> KeyLimits {
    KeyLimits { frames, ..KeyLimits::default() }
}

/// All that waits, but for round trips.
fn events(session: &mut Session) -> Vec<Event> {
    let events = std::iter::from_fn(|| session.poll_event());
    events.filter(|event| !matches!(event, Event::RoundTrip { .. } | Event::TimedOut)).collect()
}

fn close_of(session: &mut Session, bench: &Bench, mut message: Vec<u8>) -> Option<u16> {
    let outcome = session.handle_message(bench.now, &mut message, |_| {});
    outcome.err().map(|error| error.close_code().as_u16())
}

/// As many packets from one to the other, each in a message of its own; all arrive.
fn send(bench: &Bench, from: &mut Session, to: &mut Session, count: usize) {
    for number in 0..count {
        let (mut message, mut came) = (Vec::new(), Vec::new());
        from.seal_packet(bench.now, &[number as u8; 40], &mut message).unwrap();
        to.handle_message(bench.now, &mut message, |record| came.push(record.packet.to_vec())).unwrap();
        assert_eq!(came, [vec![number as u8; 40]]);
    }
}

#[test]
fn keys_are_renewed_at_nine_tenths_of_their_frames_while_packets_flow() {
    for hybrid in [false, true] {
        let mut bench = Bench::new();
        let (mut client, mut server) = bench.pair(hybrid, frames(100));
        for _ in 0..20 {
            bench.now += Duration::from_secs(2);
            send(&bench, &mut server, &mut client, 80);
            assert_eq!(bench.exchange(&mut client, &mut server), 0, "not yet");
            send(&bench, &mut server, &mut client, 12);
            assert!(bench.exchange(&mut client, &mut server) > 0, "RekeyInit");
            send(&bench, &mut client, &mut server, 3);
            send(&bench, &mut server, &mut client, 3);
            assert_eq!((events(&mut client), events(&mut server)), (vec![], vec![]));
            // Before RekeyResp arrives, packets of both directions are under way.
            let (mut from_client, mut from_server) = (Vec::new(), Vec::new());
            client.seal_packet(bench.now, b"old key", &mut from_client).unwrap();
            bench.run(&mut server);
            server.poll_transmit(&mut from_server).unwrap();
            server.seal_packet(bench.now, b"new key", &mut from_server).unwrap();
            let mut came = Vec::new();
            server
                .handle_message(bench.now, &mut from_client, |record| came.push(record.packet.to_vec()))
                .unwrap();
            client
                .handle_message(bench.now, &mut from_server, |record| came.push(record.packet.to_vec()))
                .unwrap();
            assert_eq!(came, [b"old key", b"new key"]);
            assert_eq!((events(&mut client), events(&mut server)), (vec![Event::KeysRenewed], vec![]));
            assert!(bench.exchange(&mut client, &mut server) > 0, "the Keepalive");
            assert_eq!(events(&mut server), [Event::KeysRenewed]);
            bench.exchange(&mut server, &mut client);
        }
    }
}

#[test]
fn keys_are_renewed_by_bytes_and_by_age_as_well() {
    for limits in [
        KeyLimits { bytes: 10_000, ..KeyLimits::default() },
        KeyLimits { age: Duration::from_secs(100), ..KeyLimits::default() },
    ] {
        let mut bench = Bench::new();
        let (mut client, mut raw) = bench.client(false, limits);
        raw.take(&mut client);
        if limits.bytes == 10_000 {
            client.seal_packet(bench.now, &[0; 8_900], &mut Vec::new()).unwrap();
            assert!(client.poll_timeout().unwrap() > bench.now);
            client.seal_packet(bench.now, &[0; 100], &mut Vec::new()).unwrap();
            assert_eq!(client.poll_timeout(), Some(bench.now));
        } else {
            let end = bench.now + Duration::from_secs(90);
            while client.poll_timeout().unwrap() < end {
                bench.now = client.poll_timeout().unwrap();
                client.handle_timeout(bench.now, &mut bench.rng);
                for (kind, plaintext) in raw.take(&mut client) {
                    assert_eq!(kind, FrameType::Keepalive);
                    let ack = raw.seal(FrameType::KeepaliveAck, &plaintext);
                    assert_eq!(close_of(&mut client, &bench, ack), None);
                }
            }
            bench.now = end;
        }
        client.handle_timeout(bench.now, &mut bench.rng);
        client.handle_timeout(bench.now, &mut bench.rng);
        assert!(client.poll_timeout().is_none_or(|at| at > bench.now));
        assert_eq!(events(&mut client), NONE);
        let mut message = Vec::new();
        client.poll_transmit(&mut message).unwrap();
        assert!(message.contains(&(FrameType::RekeyInit as u8)) && message.len() > 89);
    }
}

#[test]
fn without_the_feature_the_client_is_told_instead() {
    let mut bench = Bench::new();
    let mut params = bench.params(false, frames(10));
    params.hello.features.rekey = false;
    let (awaiting, mut message1) = client::start(params, &mut bench.rng).unwrap();
    let (_, mut message2) = bench.answer(&mut message1);
    let mut client = awaiting.handle_message(bench.now, &mut bench.rng, &mut message2).unwrap().session;
    for (count, expected) in [(8, Event::KeysAging), (1, Event::KeysSpent)] {
        for _ in 0..count {
            assert_eq!(events(&mut client), NONE);
            client.seal_packet(bench.now, b"packet", &mut Vec::new()).unwrap();
        }
        assert_eq!(events(&mut client), [expected]);
    }
}

#[test]
fn with_it_neither_is_told_however_long_the_answer_takes() {
    let mut bench = Bench::new();
    let (mut client, _server) = bench.pair(false, frames(10));
    for _ in 0..30 {
        bench.run(&mut client);
        client.seal_packet(bench.now, b"packet", &mut Vec::new()).unwrap();
        client.poll_transmit(&mut Vec::new()).unwrap();
    }
    assert_eq!(events(&mut client), NONE);
}

#[test]
fn the_first_frame_under_the_new_key_is_a_keepalive_whatever_is_sealed_first() {
    let mut bench = Bench::new();
    let (mut client, mut raw) = bench.client(false, frames(2));
    raw.take(&mut client);
    let mut packet = Vec::new();
    client.seal_packet(bench.now, b"packet", &mut packet).unwrap();
    raw.open(&mut packet);
    let (mut resp, handshake) = bench.rekey_resp(&mut client, &mut raw, BARE);
    client.handle_message(bench.now, &mut resp, |_| {}).unwrap();
    let mut out = Vec::new();
    client.seal_packet(bench.now, b"packet", &mut out).unwrap();
    client.poll_transmit(&mut out).unwrap();
    let mut raw = Raw::server(&handshake, None, 2);
    let kinds: Vec<_> = raw.open(&mut out).into_iter().map(|(kind, _)| kind).collect();
    assert_eq!(kinds, [FrameType::Keepalive, FrameType::IpPacket]);
}

#[test]
fn rekey_frames_are_not_allowed_where_they_have_no_place() {
    let mut bench = Bench::new();
    let without = Features { rekey: false, ..FEATURES };
    let (mut server, mut raw) = bench.server(without, false);
    let (_, init) = bench.rekey_init(&mut raw, BARE);
    assert_eq!(close_of(&mut server, &bench, init), Some(1002), "the feature is not in force");
    let (mut server, mut raw) = bench.server(FEATURES, false);
    let resp = raw.seal(FrameType::RekeyResp, &[0; 49]);
    assert_eq!(close_of(&mut server, &bench, resp), Some(1002), "to a server");
    let (mut client, mut raw) = bench.client(false, KeyLimits::default());
    let resp = raw.seal(FrameType::RekeyResp, &[0; 49]);
    assert_eq!(close_of(&mut client, &bench, resp), Some(1002), "unasked");
    let (mut client, mut raw) = bench.client(false, KeyLimits::default());
    let (_, init) = bench.rekey_init(&mut raw, BARE);
    assert_eq!(close_of(&mut client, &bench, init), Some(1002), "to a client");
}

#[test]
fn a_second_init_before_the_switch_is_a_protocol_error() {
    for answered in [false, true] {
        let mut bench = Bench::new();
        let (mut server, mut raw) = bench.server(FEATURES, false);
        if answered {
            bench.rekey_by_hand(&mut server, &mut raw);
        } else {
            let (_, init) = bench.rekey_init(&mut raw, BARE);
            assert_eq!(close_of(&mut server, &bench, init), None);
        }
        let (_, again) = bench.rekey_init(&mut raw, BARE);
        assert_eq!(close_of(&mut server, &bench, again), Some(1002), "answered: {answered}");
    }
}

#[test]
fn an_init_of_another_pattern_session_or_hello_is_refused() {
    let unusable = RekeyHello { mlkem768: Some(vec![0xff; MLKEM_KEY_LEN]) }.encode().to_vec();
    let hellos = [b"{}".to_vec(), br#"{"version":2}"#.to_vec(), b"[]".to_vec(), unusable];
    let cases = hellos.into_iter().map(|hello| (1, [0; 32], hello));
    for (pattern, other_hash, hello) in
        cases.chain([(3, [0; 32], BARE.to_vec()), (0, [0; 32], BARE.to_vec()), (1, [1; 32], BARE.to_vec())])
    {
        let mut bench = Bench::new();
        let (mut server, mut raw) = bench.server(FEATURES, false);
        let hash = if other_hash == [0; 32] { raw.hash } else { other_hash };
        let (_, init) = bench.rekey_init_with(&mut raw, pattern, &hash, &hello);
        assert_eq!(close_of(&mut server, &bench, init), Some(1008), "{pattern} {hello:?}");
    }
    let mut bench = Bench::new();
    let (mut server, mut raw) = bench.server(FEATURES, false);
    let garbage = raw.seal(FrameType::RekeyInit, &[1; 49]);
    assert_eq!(close_of(&mut server, &bench, garbage), Some(1008));
}

#[test]
fn a_client_with_a_key_renews_with_that_key() {
    for hybrid in [false, true] {
        let mut bench = Bench::new();
        let identity = Arc::new(Keypair::generate(&mut bench.rng));
        let (mut client, mut server) = bench.pair_of(Some(identity), hybrid, frames(100));
        for _ in 0..3 {
            bench.now += Duration::from_secs(2);
            send(&bench, &mut client, &mut server, 95);
            for _ in 0..2 {
                bench.exchange(&mut client, &mut server);
                bench.exchange(&mut server, &mut client);
            }
            assert_eq!(events(&mut client), [Event::KeysRenewed]);
            assert_eq!(events(&mut server), [Event::KeysRenewed]);
        }
    }
}

#[test]
fn an_init_of_another_client_is_refused() {
    let mut bench = Bench::new();
    let [own, other] = [(); 2].map(|()| Keypair::generate(&mut bench.rng));
    for (session, init, allowed) in [
        (Some(&own), Some(&own), true),
        (Some(&own), Some(&other), false),
        (Some(&own), None, false),
        (None, Some(&own), false),
        (None, None, true),
    ] {
        let (mut server, mut raw) = bench.server_of(session, FEATURES, false);
        let (_, init) = bench.rekey_init_of(&mut raw, init);
        assert_eq!(close_of(&mut server, &bench, init), (!allowed).then_some(1008));
    }
}

#[test]
fn a_hybrid_session_stays_hybrid() {
    let mut bench = Bench::new();
    let (mut server, mut raw) = bench.server(FEATURES, true);
    let (_, init) = bench.rekey_init(&mut raw, BARE);
    assert_eq!(close_of(&mut server, &bench, init), Some(1008), "no key");
    let (mut client, mut raw) = aged_client(&mut bench, true);
    let (resp, _) = bench.rekey_resp(&mut client, &mut raw, BARE);
    assert_eq!(close_of(&mut client, &bench, resp), Some(1008), "no ciphertext");
}

/// A client whose keys are due, and its server made by hand.
fn aged_client(bench: &mut Bench, hybrid: bool) -> (Session, Raw) {
    let (mut client, mut raw) = bench.client(hybrid, frames(2));
    raw.take(&mut client);
    let mut packet = Vec::new();
    client.seal_packet(bench.now, b"packet", &mut packet).unwrap();
    raw.open(&mut packet);
    (client, raw)
}

#[test]
fn a_session_without_ml_kem_becomes_hybrid_if_its_client_asks() {
    let mut bench = Bench::new();
    let (mut server, mut raw) = bench.server(FEATURES, false);
    let kem = KemKey::generate().unwrap();
    let hello = RekeyHello { mlkem768: Some(kem.public_bytes().to_vec()) };
    let (initiated, mut init) = bench.rekey_init(&mut raw, &hello.encode());
    server.handle_message(bench.now, &mut init, |_| {}).unwrap();
    bench.run(&mut server);
    let message2 = raw.take(&mut server).pop().unwrap().1;
    let (payload, handshake) = initiated.finish(&message2).unwrap();
    let answer = RekeyHello::parse_resp(&payload, true).unwrap().unwrap();
    let secret = kem.decapsulate(&answer.mlkem768.unwrap()).unwrap();
    let mut raw = Raw::client(&handshake, Some(&secret), 2);
    let keepalive = raw.seal(FrameType::Keepalive, &[0; 8]);
    assert_eq!(close_of(&mut server, &bench, keepalive), None);
    let (_, init) = bench.rekey_init(&mut raw, BARE);
    assert_eq!(close_of(&mut server, &bench, init), Some(1008), "there is no way back");
}

#[test]
fn answers_that_are_none_end_the_client() {
    let refused = br#"{"version":1,"error":{"code":"bad-request","message":"m"}}"#;
    let unasked = RekeyHello { mlkem768: Some(vec![0; 1_088]) }.encode();
    for (hello, close) in
        [(&refused[..], 1008), (b"{}", 1002), (br#"{"version":2}"#, 1002), (b"[]", 1002), (&unasked, 1002)]
    {
        let mut bench = Bench::new();
        let (mut client, mut raw) = aged_client(&mut bench, false);
        let (resp, _) = bench.rekey_resp(&mut client, &mut raw, hello);
        assert_eq!(close_of(&mut client, &bench, resp), Some(close), "{hello:?}");
    }
    let mut bench = Bench::new();
    let (mut client, mut raw) = aged_client(&mut bench, false);
    bench.run(&mut client);
    raw.take(&mut client);
    let garbage = raw.seal(FrameType::RekeyResp, &[0; 49]);
    assert_eq!(close_of(&mut client, &bench, garbage), Some(1008));
}

#[test]
fn the_server_opens_under_either_key_until_the_switch_and_then_under_the_new_one() {
    let mut bench = Bench::new();
    let (mut server, mut old) = bench.server(FEATURES, false);
    let mut new = bench.rekey_by_hand(&mut server, &mut old);
    for kind in [FrameType::IpPacket, FrameType::Keepalive, FrameType::IpPacket] {
        let frame = old.seal(kind, &[7; 8]);
        assert_eq!(close_of(&mut server, &bench, frame), None);
    }
    // What it sends is under the new key already.
    let kinds: Vec<_> = new.take(&mut server).into_iter().map(|(kind, _)| kind).collect();
    assert_eq!(kinds, [FrameType::KeepaliveAck]);
    let switch = [
        old.seal(FrameType::IpPacket, b"last"),
        new.seal(FrameType::Keepalive, &[1; 8]),
        new.seal(FrameType::IpPacket, b"next"),
    ];
    let mut came = Vec::new();
    let mut message = switch.concat();
    server.handle_message(bench.now, &mut message, |record| came.push(record.packet.to_vec())).unwrap();
    assert_eq!(came, [b"last", b"next"]);
    assert_eq!(events(&mut server), [Event::KeysRenewed]);
    let late = old.seal(FrameType::IpPacket, b"late");
    assert_eq!(close_of(&mut server, &bench, late), Some(1008));
}

#[test]
fn a_disconnect_under_the_old_key_ends_a_rekey() {
    let mut bench = Bench::new();
    let (mut server, mut old) = bench.server(FEATURES, false);
    bench.rekey_by_hand(&mut server, &mut old);
    let goodbye = old.seal(FrameType::Disconnect, br#"{"code":"client-disconnect","message":""}"#);
    assert_eq!(close_of(&mut server, &bench, goodbye), None);
    assert!(matches!(events(&mut server)[..], [Event::Disconnected(_)]));
    assert_eq!(server.poll_timeout(), None);
}

#[test]
fn a_switch_is_a_keepalive_with_counter_0() {
    let switches: [fn(&mut Raw) -> Vec<u8>; 4] = [
        |new| new.seal(FrameType::IpPacket, b"packet"),
        |new| new.seal(FrameType::KeepaliveAck, &[0; 8]),
        |new| {
            new.seal(FrameType::Keepalive, &[0; 8]);
            new.seal(FrameType::Keepalive, &[0; 8])
        },
        |new| {
            let mut frame = new.seal(FrameType::Keepalive, &[0; 8]);
            frame[HEADER_LEN + 30] ^= 1;
            frame
        },
    ];
    for switch in switches {
        let mut bench = Bench::new();
        let (mut server, mut old) = bench.server(FEATURES, false);
        let mut new = bench.rekey_by_hand(&mut server, &mut old);
        let frame = switch(&mut new);
        assert_eq!(close_of(&mut server, &bench, frame), Some(1008));
    }
}

#[test]
fn a_client_that_does_not_switch_in_time_is_closed() {
    let mut bench = Bench::new();
    let (mut server, mut raw) = bench.server(FEATURES, false);
    bench.rekey_by_hand(&mut server, &mut raw);
    let end = bench.now + TIMEOUT;
    bench.run_until(&mut server, end - Duration::from_millis(1));
    assert_eq!(events(&mut server), NONE);
    bench.run_until(&mut server, end);
    let error = RekeyError::Overdue;
    assert_eq!(events(&mut server), [Event::RekeyFailed(error)]);
    assert_eq!(error.close_code().as_u16(), 1008);
    assert_eq!(server.poll_timeout(), None, "it has ended");
}

#[test]
fn a_server_that_does_not_answer_in_time_is_left() {
    let mut bench = Bench::new();
    let (mut client, mut raw) = aged_client(&mut bench, false);
    bench.run(&mut client);
    raw.take(&mut client);
    let end = bench.now + TIMEOUT;
    // It is alive all the same.
    while client.poll_timeout().is_some_and(|at| at < end) {
        bench.now = client.poll_timeout().unwrap();
        client.handle_timeout(bench.now, &mut bench.rng);
        for (_, plaintext) in raw.take(&mut client) {
            let ack = raw.seal(FrameType::KeepaliveAck, &plaintext);
            assert_eq!(close_of(&mut client, &bench, ack), None);
        }
    }
    assert_eq!(events(&mut client), NONE);
    bench.run_until(&mut client, end);
    assert_eq!(events(&mut client), [Event::RekeyFailed(RekeyError::Overdue)]);
}

#[test]
fn more_rekeys_than_anyone_needs_are_refused() {
    for (pause, most) in [(Duration::from_millis(900), MAX_REKEYS), (Duration::from_secs(1), 50)] {
        let mut bench = Bench::new();
        let (mut server, mut raw) = bench.server(FEATURES, false);
        for _ in 0..most {
            raw = bench.rekey_by_hand(&mut server, &mut raw);
            let keepalive = raw.seal(FrameType::Keepalive, &[0; 8]);
            assert_eq!(close_of(&mut server, &bench, keepalive), None);
            raw.take(&mut server);
            bench.now += pause;
        }
        let (_, init) = bench.rekey_init(&mut raw, BARE);
        let expected = (most == MAX_REKEYS).then_some(1008);
        assert_eq!(close_of(&mut server, &bench, init), expected, "{pause:?}");
    }
}

/// Numbered packets of one direction.
#[derive(Default)]
struct Stream {
    sent: u32,
    came: u32,
}

impl Stream {
    fn next(&mut self) -> [u8; 4] {
        self.sent += 1;
        (self.sent - 1).to_be_bytes()
    }

    fn take(&mut self, packet: &[u8]) {
        assert_eq!(packet, self.came.to_be_bytes(), "lost, repeated or out of order");
        self.came += 1;
    }
}

#[test]
fn ten_rekeys_in_ten_seconds_lose_nothing_of_a_stream() {
    let mut bench = Bench::new();
    let begun = bench.now;
    let (mut server, mut raw) = bench.server(FEATURES, false);
    let (mut up, mut down) = (Stream::default(), Stream::default());
    let feed = |bench: &Bench, server: &mut Session, mut message: Vec<u8>, up: &mut Stream| {
        server.handle_message(bench.now, &mut message, |record| up.take(record.packet)).unwrap();
    };
    // All that waits at the server and a packet behind it; what is a packet of it comes to the stream.
    let fetch = |bench: &Bench, server: &mut Session, raw: &mut Raw, down: &mut Stream| {
        let mut message = Vec::new();
        server.poll_transmit(&mut message).unwrap();
        server.seal_packet(bench.now, &down.next(), &mut message).unwrap();
        let packets = raw.open(&mut message).into_iter().filter(|(kind, _)| *kind == FrameType::IpPacket);
        packets.for_each(|(_, packet)| down.take(&packet));
    };
    for _ in 0..MAX_REKEYS {
        for _ in 0..90 {
            bench.now += Duration::from_millis(10);
            feed(&bench, &mut server, raw.seal(FrameType::IpPacket, &up.next()), &mut up);
            fetch(&bench, &mut server, &mut raw, &mut down);
        }
        let (initiated, init) = bench.rekey_init(&mut raw, BARE);
        let behind = raw.seal(FrameType::IpPacket, &up.next());
        feed(&bench, &mut server, [init, behind].concat(), &mut up);
        fetch(&bench, &mut server, &mut raw, &mut down);
        bench.run(&mut server);
        let (_, message2) = raw.take(&mut server).pop().unwrap();
        let (_, handshake) = initiated.finish(&message2).unwrap();
        // The old key still serves what was sealed before the answer came.
        feed(&bench, &mut server, raw.seal(FrameType::IpPacket, &up.next()), &mut up);
        raw = Raw::client(&handshake, None, raw.prefixes + 1);
        fetch(&bench, &mut server, &mut raw, &mut down);
        let (switch, first) =
            (raw.seal(FrameType::Keepalive, &[0; 8]), raw.seal(FrameType::IpPacket, &up.next()));
        feed(&bench, &mut server, [switch, first].concat(), &mut up);
        assert_eq!(events(&mut server), [Event::KeysRenewed]);
    }
    assert!(bench.now <= begun + WINDOW);
    assert_eq!((up.came, down.came), (up.sent, down.sent));
}

#[test]
fn a_client_never_asks_for_that_many() {
    let mut bench = Bench::new();
    let (mut client, mut server) = bench.pair(false, frames(3));
    let begun = bench.now;
    let mut renewals = 0;
    while bench.now < begun + Duration::from_secs(60) {
        send(&bench, &mut client, &mut server, 1);
        for _ in 0..2 {
            bench.exchange(&mut client, &mut server);
            bench.exchange(&mut server, &mut client);
        }
        renewals += events(&mut client).iter().filter(|event| **event == Event::KeysRenewed).count();
        bench.now += Duration::from_millis(50);
    }
    assert!((40..=48).contains(&renewals), "{renewals}");
}

#[test]
fn our_own_disconnect_ends_a_rekey_at_either_end() {
    let mut bench = Bench::new();
    let (mut server, mut raw) = bench.server(FEATURES, false);
    let (_, init) = bench.rekey_init(&mut raw, BARE);
    assert_eq!(close_of(&mut server, &bench, init), None);
    bench.run(&mut server);
    server.disconnect(DisconnectCode::Kicked, "");
    let kinds: Vec<_> = raw.take(&mut server).into_iter().map(|(kind, _)| kind).collect();
    assert_eq!(kinds, [FrameType::Disconnect]);
    assert!(raw.take(&mut server).is_empty());

    let (mut server, mut raw) = bench.server(FEATURES, false);
    server.disconnect(DisconnectCode::Replaced, "");
    raw.take(&mut server);
    let (_, init) = bench.rekey_init(&mut raw, BARE);
    assert_eq!(close_of(&mut server, &bench, init), None, "what it still sends is passed over");
    let packet = raw.seal(FrameType::IpPacket, b"packet");
    assert_eq!(close_of(&mut server, &bench, packet), None);
    assert!(raw.take(&mut server).is_empty());

    let (mut client, mut raw) = aged_client(&mut bench, false);
    bench.run(&mut client);
    client.disconnect(DisconnectCode::ClientDisconnect, "");
    let kinds: Vec<_> = raw.take(&mut client).into_iter().map(|(kind, _)| kind).collect();
    assert_eq!(kinds, [FrameType::Disconnect]);
}

#[test]
fn what_a_rekey_holds_is_not_printed() {
    let mut bench = Bench::new();
    let (mut client, _) = aged_client(&mut bench, true);
    bench.run(&mut client);
    assert!(format!("{client:?}").contains("basis: Basis { is_hybrid: true, .. }"));
    assert!(format!("{client:?}").contains("step: Ready }"));
    let (mut server, mut raw) = bench.server(FEATURES, false);
    let (_, init) = bench.rekey_init(&mut raw, BARE);
    assert_eq!(close_of(&mut server, &bench, init), None);
    assert!(format!("{server:?}").contains("step: Asked }"));
}
