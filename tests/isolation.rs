//! A client of bad manners: whatever it sends, nothing but packets of its own addresses, whole and for one host, gets
//! anywhere, and each of the others is counted with its reason.
//!
//! The client has a real session and no checks of its own; the server is the product's.

#![cfg(target_os = "linux")]
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, and sessions are told the real time"
)]

#[path = "support/namespace.rs"]
#[expect(dead_code, reason = "other tests need more of it")]
mod namespace;

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use namespace::{block_on, isolated, udp};
use serde_json::json;
use smartvpn::codec::hello::ClientHello;
use smartvpn::config::ServerConfig;
use smartvpn::crypto::keys::PrivateKey;
use smartvpn::engine::{Link, Port, Task};
use smartvpn::packet::{Offload, Record};
use smartvpn::qos::{FlowHasher, PacketQueue};
use smartvpn::report::{Event, EventSink, Events};
use smartvpn::server::Server;
use smartvpn::session::{ClientParams, FEATURES, Hybrid, KeepaliveCap, KeyLimits, client};
use smartvpn::telemetry::{Quality, Traffic};
use smartvpn::transport::{CongestionControl, DialOptions, Endpoint, dial};
use tokio::sync::mpsc;

/// RFC 7748 §6.1.
const PRIVATE_KEY: &str = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=";
const PUBLIC_KEY: &str = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";

/// The tunnel's, and the longest packet in it.
const MTU: usize = 1420;

/// A client's queue has room for many more.
const AT_ONCE: usize = 200;

/// How many log lines a server may write a second, whatever its clients do.
const LINES_A_SECOND: u64 = 10;

/// What a server is sent, and the reason for which it drops it.
type Attempt = (&'static str, Vec<u8>);

#[test]
fn a_hostile_client_gets_nothing_through_and_all_of_it_is_counted() {
    isolated("a_hostile_client_gets_nothing_through_and_all_of_it_is_counted", || {
        let wanted: usize =
            if std::env::var_os("SMARTVPN_LONG").is_some_and(|value| value == "1") { 10_000 } else { 1_000 };
        block_on(async {
            let lines = Arc::new(Lines::default());
            let server = Server::new(Events::new(Arc::clone(&lines) as Arc<dyn EventSink>));
            server.start(config()).await.unwrap();
            let (hostile, other) = (Client::connect().await, Client::connect().await);
            let (told, begun) = (lines.0.load(Ordering::Relaxed), Instant::now());

            // What is right arrives, so that what does not is seen not to.
            let before = arrived();
            let good = udp((hostile.v4.into(), 4000), ("10.8.0.1".parse().unwrap(), 9), b"good");
            hostile.send(vec![good; AT_ONCE], || arrived() >= before + AT_ONCE as u64).await;

            assert!(arrived() > before);

            let (arrived_before, dropped_before) = (arrived(), drops(&server));
            let attempts = attempts(&hostile, &other);
            let attempts: Vec<_> =
                attempts.iter().cycle().take(wanted.next_multiple_of(attempts.len())).collect();
            let mut expected = dropped_before;
            for some in attempts.chunks(AT_ONCE) {
                for (reason, _) in some {
                    *expected.entry((*reason).to_owned()).or_default() += 1;
                }
                let packets = some.iter().map(|(_, packet)| packet.clone()).collect();
                hostile.send(packets, || drops(&server) == expected).await;
            }
            assert_eq!(drops(&server), expected);
            assert_eq!(arrived(), arrived_before, "nothing came into the host");
            assert_eq!(other.came.load(Ordering::Relaxed), 0, "nor to another client");
            let told = lines.0.load(Ordering::Relaxed) - told;
            assert!(told <= LINES_A_SECOND * (1 + begun.elapsed().as_secs()), "{told} lines");
            assert_eq!(server.clients().len(), 2, "the session goes on");
            server.shutdown().await;
        });
    });
}

/// Everything that a client may try.
fn attempts(hostile: &Client, other: &Client) -> Vec<Attempt> {
    let (own, own6): (IpAddr, IpAddr) = (hostile.v4.into(), hostile.v6.into());
    let (server, server6) = ("10.8.0.1", "fd08::1");
    let between =
        |from: &str, to: &str| udp((from.parse().unwrap(), 4000), (to.parse().unwrap(), 4000), &[0x5a; 172]);
    let mut attempts = Vec::new();
    for from in [
        &*other.v4.to_string(),
        server,
        "127.0.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "0.0.0.0",
        "198.51.100.7",
    ] {
        attempts.push(("spoofed", between(from, server)));
        attempts.push(("spoofed", between(from, "127.0.0.1")));
    }
    let mapped = format!("::ffff:{own}");
    for from in [&*other.v6.to_string(), server6, "::1", "ff02::1", "2001:db8::7", &mapped] {
        attempts.push(("spoofed", between(from, server6)));
    }
    attempts.push(("link-local", between("169.254.3.4", server)));
    attempts.push(("link-local", between("fe80::1", server6)));
    attempts.push(("link-local", between("::", server6)));
    for to in ["127.0.0.1", "127.8.9.10", "224.0.0.251", "239.255.255.250", "255.255.255.255"] {
        attempts.push(("misdirected", between(&own.to_string(), to)));
    }
    for to in ["::1", "ff02::1", "ff0e::7"] {
        attempts.push(("misdirected", between(&own6.to_string(), to)));
    }
    for to in [&*other.v4.to_string(), "10.8.0.0", "10.8.0.255", "10.8.0.99"] {
        attempts.push(("client-to-client", between(&own.to_string(), to)));
    }
    attempts.push(("client-to-client", between(&own6.to_string(), &other.v6.to_string())));
    let (four, six) = (between(&own.to_string(), server), between(&own6.to_string(), server6));
    attempts.extend(malformed(&four, &six).into_iter().map(|packet| ("malformed", packet)));
    attempts
}

/// What is no packet, made of two that are.
fn malformed(four: &[u8], six: &[u8]) -> Vec<Vec<u8>> {
    let with = |packet: &[u8], at: usize, bytes: &[u8]| {
        let mut packet = packet.to_owned();
        packet[at..at + bytes.len()].copy_from_slice(bytes);
        packet
    };
    let mut wrong = Vec::new();
    // Versions, and lengths of IPv4 headers.
    wrong.extend([0x05, 0x15, 0x55, 0x75, 0xf5, 0x40, 0x41, 0x44].map(|first| with(four, 0, &[first])));
    wrong.extend([0x00, 0xf0].map(|first| with(six, 0, &[first])));
    wrong.push(with(&four[..40], 0, &[0x4f]));
    // Lies about the whole length.
    let length = u16::try_from(four.len()).unwrap();
    wrong.extend([0, 19, length - 1, length + 1, u16::MAX].map(|lie| with(four, 2, &lie.to_be_bytes())));
    wrong.extend([1, length, u16::MAX].map(|lie| with(six, 4, &lie.to_be_bytes())));
    // A jumbogram: no length, and hop-by-hop options.
    wrong.push(with(six, 4, &[0, 0, 0]));
    wrong.extend([1, 19].map(|short| four[..short].to_owned()));
    wrong.extend([1, 39].map(|short| six[..short].to_owned()));
    wrong.extend([vec![0], vec![0xff]]);
    let mut long = four.to_owned();
    long.resize(MTU + 1, 0);
    wrong.push(with(&long, 2, &u16::try_from(MTU + 1).unwrap().to_be_bytes()));
    wrong
}

fn config() -> ServerConfig {
    let config = json!({
        "listenAddr": "127.0.0.1:8443", "subnet": "10.8.0.0/24", "subnet6": "fd08::/64", "mtu": MTU,
        "privateKey": PRIVATE_KEY, "publicKey": PUBLIC_KEY, "stateDir": null, "tunName": "vpn0",
    });
    ServerConfig::parse(&config, Path::new("/")).unwrap()
}

/// How many packets the server's interface has brought into the host.
fn arrived() -> u64 {
    let devices = fs::read_to_string("/proc/net/dev").unwrap();
    let figures = devices.lines().find_map(|line| line.trim().strip_prefix("vpn0:")).unwrap();
    figures.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// How many packets the server has dropped, by reason.
fn drops(server: &Server) -> BTreeMap<String, u64> {
    let statistics = serde_json::to_value(server.statistics()).unwrap();
    let mut sums = BTreeMap::new();
    for by_reason in statistics["drops"].as_object().unwrap().values() {
        for (reason, size) in by_reason.as_object().unwrap() {
            *sums.entry(reason.clone()).or_default() += size["packets"].as_u64().unwrap();
        }
    }
    sums
}

/// Counts what the server says.
#[derive(Default)]
struct Lines(AtomicU64);

impl EventSink for Lines {
    fn emit(&self, event: Event) {
        if matches!(event, Event::Log { .. } | Event::Warning { .. }) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A client that sends whatever it is given, and counts what comes.
struct Client {
    v4: Ipv4Addr,
    v6: Ipv6Addr,
    queue: Arc<PacketQueue>,
    came: Arc<AtomicU64>,
    _link: Task<()>,
}

impl Client {
    async fn connect() -> Self {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        let options = DialOptions { congestion: CongestionControl::System, ..DialOptions::new(deadline) };
        let endpoint = Endpoint::parse("ws://127.0.0.1:8443/").unwrap();
        let mut websocket = dial(&endpoint, &options).await.unwrap().websocket;
        let params = ClientParams {
            identity: None,
            hybrid: Hybrid::Offered,
            server_key: PrivateKey::from_base64(PRIVATE_KEY).unwrap().public_key(),
            hello: ClientHello {
                version: 1,
                features: FEATURES,
                mtu: None,
                name: None,
                token: None,
                mlkem768: None,
                ticket: None,
            },
            keepalive_interval: None,
            keepalive_cap: KeepaliveCap::default(),
            key_limits: KeyLimits::default(),
        };
        let (awaiting, frame) = client::start(params, &mut rand::rng()).unwrap();
        websocket.send(&frame).await.unwrap();
        let message = websocket.recv().await.unwrap();
        let mut connected = awaiting.handle_message(Instant::now(), &mut rand::rng(), message).unwrap();
        let mut confirmation = Vec::new();
        connected.session.poll_transmit(&mut confirmation).unwrap();
        websocket.send(&confirmation).await.unwrap();

        let traffic = Arc::<Traffic>::default();
        let queue = Arc::new(PacketQueue::new(Arc::clone(&traffic), FlowHasher::new(&mut rand::rng())));
        let came = Arc::<AtomicU64>::default();
        let (orders, inbox) = mpsc::channel(1);
        let port = Count(Arc::clone(&came));
        let mut link = Link::new(websocket, connected.session, port, Arc::clone(&queue), traffic, inbox);
        let link = Task::spawn("client", async move {
            let _orders = orders;
            let _end = link.run().await;
        });
        let hello = connected.hello;
        Self { v4: hello.assigned_ip, v6: hello.v6.unwrap().assigned_ip, queue, came, _link: link }
    }

    /// Sends packets as they are, and waits until they have had their effect, though not for ever.
    async fn send(&self, packets: Vec<Vec<u8>>, has_arrived: impl Fn() -> bool) {
        let mut producer = self.queue.producer(Instant::now());
        for packet in packets {
            producer.push(&packet, Offload::NONE);
        }
        drop(producer);
        for _ in 0..500 {
            if has_arrived() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

struct Count(Arc<AtomicU64>);

impl Port for Count {
    fn deliver(&mut self, record: Record<'_>) {
        self.0.fetch_add(record.offload.size(record.packet.len()).packets, Ordering::Relaxed);
    }

    fn round_trip(&mut self, _quality: &Quality) {}

    fn timed_out(&mut self, _quality: &Quality) {}
}
