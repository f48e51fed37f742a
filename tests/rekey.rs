//! Keys are renewed within a session while packets flow: thousands of times in simulated time, and over links.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "helpers of tests, which may begin at any time"
)]

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use rand_core::CryptoRng;
use smartvpn::codec::hello::{Accepted, ClientHello, Features};
use smartvpn::crypto::keys::Keypair;
use smartvpn::engine::{Link, Port};
use smartvpn::packet::{Offload, Record};
use smartvpn::qos::{FlowHasher, PacketQueue};
use smartvpn::session::{
    ClientParams, Event, FEATURES, Hybrid, KeepaliveCap, KeyLimits, Listening, Opened, ReplayCache, Session,
    client,
};
use smartvpn::telemetry::{Quality, Traffic};
use smartvpn::transport::WebSocket;
use tokio::io::{DuplexStream, duplex};
use tokio::sync::mpsc;

/// Renewals of each simulated session, and sessions of each kind.
const RENEWALS: u64 = 140;
const SEEDS: u64 = 3;

/// With ML-KEM or without, with a key of the client's or without.
type Kind = (Hybrid, bool, Features);

const KINDS: [Kind; 5] = [
    (Hybrid::Off, false, FEATURES),
    (Hybrid::Offered, false, FEATURES),
    (Hybrid::Off, true, Features { bundle: false, offload: false, rekey: true }),
    (Hybrid::Offered, false, Features { bundle: true, offload: false, rekey: true }),
    (Hybrid::Offered, true, FEATURES),
];

/// Both ends of a session past the handshake.
fn sessions(
    now: Instant,
    (hybrid, has_key, features): Kind,
    frames: u64,
    rng: &mut dyn CryptoRng,
) -> (Session, Session) {
    let server = Arc::new(Keypair::generate(rng));
    let params = ClientParams {
        server_key: server.public,
        identity: has_key.then(|| Arc::new(Keypair::generate(rng))),
        hello: ClientHello { features, ..ClientHello::default() },
        hybrid,
        keepalive_interval: None,
        keepalive_cap: KeepaliveCap::default(),
        key_limits: KeyLimits { frames, ..KeyLimits::default() },
    };
    let (awaiting, mut first) = client::start(params, rng).unwrap();
    let mut replay = ReplayCache::new(Duration::from_secs(10));
    let opened = Listening::new(server).handle_message(now, rng, &mut replay, &mut first).unwrap();
    let Opened::Request(request) = opened else { panic!("refused") };
    let accepted = Accepted {
        version: 1,
        features: Features::NONE,
        client_id: "c1".to_owned(),
        assigned_ip: "10.8.0.2".parse().unwrap(),
        prefix_length: 24,
        gateway: "10.8.0.1".parse().unwrap(),
        v6: None,
        mtu: 1420,
        keepalive_interval_secs: 30,
        dns: Vec::new(),
        ticket: None,
        mlkem768: None,
    };
    let (unconfirmed, mut second) = request.accept(&accepted, rng).unwrap();
    let mut connected = awaiting.handle_message(now, rng, &mut second).unwrap();
    let mut confirmation = Vec::new();
    connected.session.poll_transmit(&mut confirmation).unwrap();
    let session = unconfirmed.handle_message(now, rng, &mut confirmation, |_| panic!("no packet")).unwrap();
    (connected.session, session)
}

/// One end in simulated time, and what is under way from it.
struct End {
    session: Session,
    way: VecDeque<(Instant, Vec<u8>)>,
    /// Packets sealed, and packets received.
    sent: u32,
    received: u32,
    renewed: u64,
    /// The prefix that it seals under, and the next counter.
    nonce: Option<([u8; 16], u64)>,
    frames: u64,
}

impl End {
    fn new(session: Session) -> Self {
        Self { session, way: VecDeque::new(), sent: 0, received: 0, renewed: 0, nonce: None, frames: 0 }
    }

    /// What a connection's task does when it runs: what is due, then one message of all that waits.
    fn run(&mut self, now: Instant, packets: u32, prefixes: &mut HashSet<[u8; 16]>, rng: &mut StdRng) {
        if self.session.poll_timeout().is_some_and(|at| at <= now) {
            self.session.handle_timeout(now, rng);
            assert!(self.session.poll_timeout().is_none_or(|at| at > now), "what was due is done");
        }
        while let Some(event) = self.session.poll_event() {
            match event {
                Event::KeysRenewed => self.renewed += 1,
                Event::RoundTrip { .. } | Event::TimedOut => {}
                event => panic!("{event:?}"),
            }
        }
        let mut message = Vec::new();
        self.session.poll_transmit(&mut message).unwrap();
        if packets > 0 {
            let batch: Vec<_> = (self.sent..self.sent + packets).map(packet).collect();
            let batch = batch.iter().map(|packet| (packet.as_slice(), Offload::NONE));
            self.session.seal_packets(now, batch, &mut message).unwrap();
            self.sent += packets;
        }
        if message.is_empty() {
            return;
        }
        self.check_nonces(&message, prefixes);
        // A way is slow for a while at times, and reorders nothing.
        let stall = if rng.random_bool(0.002) { 2_500 } else { 120 };
        let arrival = now + Duration::from_millis(rng.random_range(1..stall));
        let arrival = self.way.back().map_or(arrival, |(last, _)| arrival.max(*last));
        self.way.push_back((arrival, message));
    }

    /// Each key has a prefix of its own, each frame under it the next counter, and none comes back.
    fn check_nonces(&mut self, message: &[u8], prefixes: &mut HashSet<[u8; 16]>) {
        let mut rest = message;
        while let Some((header, behind)) = rest.split_first_chunk::<5>() {
            let length = u32::from_be_bytes(header[1..].try_into().unwrap()) as usize;
            let prefix: [u8; 16] = behind[..16].try_into().unwrap();
            let counter = u64::from_be_bytes(behind[16..24].try_into().unwrap());
            let expected = match self.nonce {
                Some((current, next)) if current == prefix => next,
                // The confirmation came before the first message here.
                None => counter,
                Some(_) => 0,
            };
            assert_eq!(counter, expected);
            if self.nonce.is_none_or(|(current, _)| current != prefix) {
                assert!(prefixes.insert(prefix), "a prefix came back");
            }
            self.nonce = Some((prefix, counter + 1));
            self.frames += 1;
            rest = &behind[length..];
        }
    }

    /// Takes what has arrived.
    fn receive(&mut self, now: Instant, way: &mut VecDeque<(Instant, Vec<u8>)>) {
        while way.front().is_some_and(|(arrival, _)| *arrival <= now) {
            let (_, mut message) = way.pop_front().unwrap();
            let received = &mut self.received;
            self.session
                .handle_message(now, &mut message, |record| {
                    assert_eq!(record.packet, packet(*received), "lost, repeated, out of order or changed");
                    *received += 1;
                })
                .unwrap();
        }
    }
}

fn packet(number: u32) -> Vec<u8> {
    let mut packet = vec![0x45; 20 + (number as usize * 37) % 1_400];
    packet[..4].copy_from_slice(&number.to_be_bytes());
    packet
}

#[test]
fn thousands_of_rekeys_lose_repeat_and_reorder_nothing() {
    let (mut renewals, mut packets) = (0, 0);
    for (seed, kind) in (0..SEEDS).flat_map(|seed| KINDS.map(|kind| (seed, kind))) {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut now = Instant::now();
        let limit = rng.random_range(40..300);
        let (client, server) = sessions(now, kind, limit, &mut rng);
        assert_eq!(client.features(), kind.2);
        let (mut client, mut server) = (End::new(client), End::new(server));
        let mut prefixes = HashSet::new();
        while server.renewed < RENEWALS {
            now += Duration::from_millis(rng.random_range(0..60));
            client.receive(now, &mut server.way);
            server.receive(now, &mut client.way);
            for end in [&mut client, &mut server] {
                let count = if rng.random_bool(0.7) { rng.random_range(0..8) } else { 0 };
                end.run(now, count, &mut prefixes, &mut rng);
            }
        }
        // What is still under way arrives.
        now += Duration::from_secs(3);
        client.receive(now, &mut server.way);
        server.receive(now, &mut client.way);
        assert_eq!((client.sent, server.sent), (server.received, client.received));
        assert!(client.renewed - server.renewed <= 1);
        assert!(client.frames > client.renewed && server.frames > server.renewed);
        // The first prefixes were used by the handshake's confirmation and its answer.
        let seen = prefixes.len() as u64;
        assert!((2 * RENEWALS..=2 * RENEWALS + 4).contains(&seen), "{seen} prefixes");
        renewals += server.renewed;
        packets += u64::from(server.received + client.received);
    }
    println!("measured: {renewals} renewals among {packets} packets");
}

#[derive(Clone, Default)]
struct Seen {
    packets: Arc<Mutex<Vec<Vec<u8>>>>,
    renewed: Arc<AtomicU64>,
}

impl Port for Seen {
    fn deliver(&mut self, record: Record<'_>) {
        self.packets.lock().unwrap().push(record.packet.to_vec());
    }

    fn round_trip(&mut self, _quality: &Quality) {}

    fn timed_out(&mut self, _quality: &Quality) {}

    fn keys_aging(&mut self) {
        panic!("the session renews its keys by itself");
    }

    fn keys_renewed(&mut self) {
        self.renewed.fetch_add(1, Ordering::Relaxed);
    }
}

struct Side {
    link: Link<DuplexStream, Seen>,
    queue: Arc<PacketQueue>,
    seen: Seen,
}

fn side(websocket: WebSocket<DuplexStream>, session: Session) -> Side {
    let (_, orders) = mpsc::channel(1);
    let (seen, traffic) = (Seen::default(), Arc::new(Traffic::default()));
    let queue = Arc::new(PacketQueue::new(Arc::clone(&traffic), FlowHasher::new(&mut rand::rng())));
    let link = Link::new(websocket, session, seen.clone(), Arc::clone(&queue), traffic, orders);
    Side { link, queue, seen }
}

/// Both directions have packets at all times, over a stream that is mostly full. Ten seconds and the renewals in them,
/// as many as a client asks for.
#[tokio::test]
async fn links_under_load_renew_their_keys_and_lose_nothing() {
    const RENEWED: u64 = 8;
    const WINDOW: u32 = 60;
    let (near, far) = duplex(4 * 1024);
    let (client, server) = sessions(Instant::now(), (Hybrid::Offered, true, FEATURES), 300, &mut rand::rng());
    let client = side(WebSocket::client(near, &[]), client);
    let server = side(WebSocket::server(far, &[]), server);
    let (mut near, mut far) = (client.link, server.link);
    let load = async {
        let mut sent = [0_u32; 2];
        loop {
            let ways = [(&client.queue, &server.seen), (&server.queue, &client.seen)];
            for (sent, (queue, seen)) in sent.iter_mut().zip(ways) {
                let arrived = seen.packets.lock().unwrap().len() as u32;
                let mut producer = queue.producer(Instant::now());
                while *sent - arrived < WINDOW {
                    producer.push(&packet(*sent), Offload::NONE);
                    *sent += 1;
                }
            }
            if [&client.seen, &server.seen].iter().all(|seen| seen.renewed.load(Ordering::Relaxed) >= RENEWED)
            {
                return sent;
            }
            tokio::task::yield_now().await;
        }
    };
    let links = async { tokio::join!(near.run(), far.run()) };
    let sent = tokio::select! {
        ends = links => panic!("{ends:?}"),
        sent = tokio::time::timeout(Duration::from_secs(60), load) => sent.expect("too few renewals"),
    };
    for (sent, seen) in sent.into_iter().zip([&server.seen, &client.seen]) {
        let packets = seen.packets.lock().unwrap();
        assert!(packets.len() as u32 + WINDOW >= sent, "{} of {sent}", packets.len());
        assert!(packets.iter().zip(0..).all(|(got, number)| *got == packet(number)));
    }
    println!("measured: {RENEWED} renewals among {} packets", sent.iter().sum::<u32>());
}
