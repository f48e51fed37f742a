//! What clients cost a server that has many: an idle one 32 KiB, one that has stopped reading a MiB.
//!
//! The server is a process of its own, so that its memory is all that is measured; its clients are tasks of
//! the test, each with a real session over TLS.

#![cfg(target_os = "linux")]
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a test fails by panicking and tells what it measures, on the real clock"
)]

#[path = "support/namespace.rs"]
#[expect(dead_code, reason = "other tests need more of it")]
mod namespace;
#[path = "support/server_process.rs"]
mod server_process;

use std::fs;
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use namespace::{Helper, attempt, block_on, has, isolated, role};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;
use server_process::{Place, serve, server_key};
use smartvpn::codec::hello::ClientHello;
use smartvpn::engine::{Link, Port, Task};
use smartvpn::packet::{Offload, Record};
use smartvpn::qos::{FlowHasher, PacketQueue};
use smartvpn::session::{ClientParams, FEATURES, Hybrid, KeepaliveCap, KeyLimits, client};
use smartvpn::telemetry::{Quality, Traffic};
use smartvpn::transport::{CongestionControl, DialOptions, dial};
use tokio::sync::{Notify, mpsc};

/// The least that can be had: memory is given back at this pace.
const KEEPALIVE: Duration = Duration::from_secs(5);

/// Long enough for two keepalives' rest.
const SETTLE: Duration = Duration::from_secs(13);

/// The clients that pay for what all of them share.
const FIRST: usize = 30;

/// What an idle client may cost.
const IDLE_BYTES: usize = 32 * 1024;

/// What a client that has stopped reading may cost.
const STALLED_BYTES: usize = 1024 * 1024;

/// Clients that stop, one after the other.
const STALLED: usize = 5;

/// What a session that is fast has beyond that, for as long as it is (`qos::pace`). When it stops, this is free
/// for the next one, but an allocator does not give back to the system what lies between other things.
const FAST_BYTES: usize = 3 * 1024 * 1024;

#[test]
fn an_idle_client_costs_32_kib_at_most() {
    // A thousand take a minute.
    let count = if std::env::var_os("SMARTVPN_LONG").is_some_and(|value| value == "1") { 1_000 } else { 200 };
    idle_clients("an_idle_client_costs_32_kib_at_most", count);
}

fn idle_clients(test: &str, count: usize) {
    if let Some(role) = role() {
        return serve(&role);
    }
    isolated(test, || {
        // A connection is one descriptor at each end.
        let needed = (FIRST + count) as u64 + 100;
        if let Err(limit) = open_files(needed) {
            return println!("skipped: {needed} files are needed, and the system allows {limit}");
        }
        let server = ServerProcess::start(test);
        block_on(async {
            let mut clients = Vec::new();
            server.connect(&mut clients, FIRST).await;
            tokio::time::sleep(SETTLE).await;
            let before = server.resident_bytes();
            server.connect(&mut clients, count).await;
            let busy = server.resident_bytes();
            tokio::time::sleep(SETTLE).await;
            let each = server.resident_bytes().saturating_sub(before) / count;
            println!(
                "measured: {count} idle clients: {each} bytes each; {} when they had just come",
                busy.saturating_sub(before) / count
            );
            assert!(clients.iter().all(|client| !client.link.is_finished()), "all are connected");
            assert!(each <= IDLE_BYTES, "{each} bytes for each client");
        });
    });
}

#[test]
fn a_client_that_stops_reading_costs_a_mebibyte_at_most_and_holds_up_nobody() {
    const TEST: &str = "a_client_that_stops_reading_costs_a_mebibyte_at_most_and_holds_up_nobody";
    if let Some(role) = role() {
        return serve(&role);
    }
    isolated(TEST, || {
        if !has("ping") {
            return;
        }
        let server = ServerProcess::start(TEST);
        block_on(async {
            let mut clients = Vec::new();
            server.connect(&mut clients, 2 + STALLED).await;
            let [warm, other, stalled @ ..] = &clients[..] else { panic!("more than two") };
            // A first flood pays for what any flood needs: the reader's batches, the kernel's ways.
            let flood = Flood::start(warm.address);
            let alone = pings(other.address).await;
            flood.stop();
            tokio::time::sleep(SETTLE).await;
            let at_rest = server.resident_bytes();

            let mut held = Vec::new();
            let mut beside = Vec::new();
            for client in stalled {
                // It has been fast, which earned it room, when it stops.
                let flood = Flood::start(client.address);
                tokio::time::sleep(Duration::from_millis(700)).await;
                let came = client.came.load(Ordering::Relaxed);
                assert!(came > 1000, "it was there: {came} packets");
                client.stall.notify_one();
                let (sent, begun) = (flood.bytes(), Instant::now());
                let pings = pings(other.address).await;
                let rate = (flood.bytes() - sent) as f64 / begun.elapsed().as_secs_f64() / 1e6;
                held.push(server.resident_bytes().saturating_sub(at_rest));
                println!(
                    "measured: {rate:.0} MB/s go to a client that has stopped; the server has {} KiB more than at rest; \
                     {} of {PINGS} pings of another are answered, {}",
                    held[held.len() - 1] / 1024,
                    pings.answered,
                    pings.times
                );
                flood.stop();
                beside.push(pings.answered);
            }
            let all = held[STALLED - 1];
            println!(
                "measured: {} KiB for each of {STALLED}; without one {} pings were answered, {}",
                all / STALLED / 1024,
                alone.answered,
                alone.times
            );
            assert!(all <= FAST_BYTES + STALLED * STALLED_BYTES, "{held:?} bytes");
            // The flood fills the kernel's own queue of the interface when the server has no time.
            assert!(median(&mut beside) >= PINGS / 5, "{beside:?} of {PINGS} pings");
        });
    });
}

fn median(values: &mut [usize]) -> usize {
    values.sort_unstable();
    values[values.len() / 2]
}

/// Raises the limit of open files, here and in what is started from here; or tells what the system allows.
fn open_files(needed: u64) -> Result<(), u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_none_or(|current| current >= needed) {
        return Ok(());
    }
    let wanted = maximum.map_or(needed, |maximum| maximum.max(needed));
    setrlimit(Resource::Nofile, Rlimit { current: Some(needed), maximum: Some(wanted) })
        .map_err(|_| maximum.unwrap_or_default())
}

/// A process with a server in it; killed when dropped.
struct ServerProcess {
    process: Helper,
    place: Place,
}

impl ServerProcess {
    fn start(test: &str) -> Self {
        // All clients have one address.
        let place = Place::new(&json!({
            "stateDir": null, "keepaliveIntervalSecs": KEEPALIVE.as_secs(), "handshakeBurst": 10_000,
        }));
        Self { process: place.start(test), place }
    }

    fn resident_bytes(&self) -> usize {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
    }

    /// Connects so many more.
    async fn connect(&self, clients: &mut Vec<Client>, count: usize) {
        for _ in 0..count {
            clients.push(Client::connect(&self.place).await);
        }
    }
}

/// A client whose packets go nowhere. It answers echo requests, and keepalives until it stalls.
struct Client {
    address: Ipv4Addr,
    link: Task<()>,
    stall: Arc<Notify>,
    came: Arc<AtomicU64>,
}

impl Client {
    async fn connect(place: &Place) -> Self {
        let options = DialOptions {
            tls: Some(place.tls.clone()),
            congestion: CongestionControl::System,
            ..DialOptions::new(tokio::time::Instant::now() + Duration::from_secs(20))
        };
        let mut websocket = dial(&place.endpoint, &options).await.unwrap().websocket;
        let params = ClientParams {
            server_key: server_key(),
            identity: None,
            hello: ClientHello {
                version: 1,
                features: FEATURES,
                mtu: None,
                name: None,
                token: None,
                mlkem768: None,
                ticket: None,
            },
            hybrid: Hybrid::Offered,
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
        let (came, stall) = (Arc::<AtomicU64>::default(), Arc::<Notify>::default());
        let port = Echo { queue: Arc::clone(&queue), came: Arc::clone(&came) };
        let (orders, inbox) = mpsc::channel(1);
        let mut link = Link::new(websocket, connected.session, port, queue, traffic, inbox);
        let stalls = Arc::clone(&stall);
        let link = Task::spawn("client", async move {
            let _orders = orders;
            tokio::select! {
                _end = link.run() => {}
                () = stalls.notified() => {
                    // The connection stays, and nobody reads it.
                    let _link = link;
                    std::future::pending::<()>().await;
                }
            }
        });
        Self { address: connected.hello.assigned_ip, link, stall, came }
    }
}

struct Echo {
    queue: Arc<PacketQueue>,
    came: Arc<AtomicU64>,
}

impl Port for Echo {
    fn deliver(&mut self, Record { packet, offload }: Record<'_>) {
        self.came.fetch_add(offload.size(packet.len()).packets, Ordering::Relaxed);
        let is_request =
            packet.first() == Some(&0x45) && packet.get(9) == Some(&1) && packet.get(20) == Some(&8);
        if !is_request || !offload.is_none() {
            return;
        }
        // Source and destination may change places without the header's checksum knowing.
        let (source, destination) = packet[12..20].split_at_mut(4);
        source.swap_with_slice(destination);
        packet[20] = 0;
        let sum = u16::from_be_bytes([packet[22], packet[23]]);
        let (sum, carry) = sum.overflowing_add(8 << 8);
        packet[22..24].copy_from_slice(&(sum + u16::from(carry)).to_be_bytes());
        self.queue.producer(Instant::now()).push(packet, Offload::NONE);
    }

    fn round_trip(&mut self, _quality: &Quality) {}

    fn timed_out(&mut self, _quality: &Quality) {}
}

const PINGS: usize = 100;

struct Pings {
    answered: usize,
    /// The line with which `ping` sums up.
    times: String,
}

async fn pings(address: Ipv4Addr) -> Pings {
    let arguments = format!("-n -q -c {PINGS} -i 0.01 -W 1 {address}");
    let output = tokio::task::spawn_blocking(move || attempt("ping", &arguments)).await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let answered = text.split(", ").find_map(|part| part.strip_suffix(" received")).unwrap();
    let times = text.lines().find(|line| line.starts_with("rtt")).unwrap_or("none").to_owned();
    Pings { answered: answered.parse().unwrap(), times }
}

/// Datagrams to an address in the tunnel, as many as the machine makes, until it is stopped.
struct Flood {
    thread: std::thread::JoinHandle<()>,
    stop: Arc<AtomicBool>,
    bytes: Arc<AtomicU64>,
}

impl Flood {
    fn start(address: Ipv4Addr) -> Self {
        let (stop, bytes) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let (stopped, sent) = (Arc::clone(&stop), Arc::clone(&bytes));
        let thread = std::thread::spawn(move || {
            let sockets: Vec<_> = (0..4)
                .map(|_| {
                    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
                    socket.connect((address, 9)).unwrap();
                    socket
                })
                .collect();
            let data = [0x5a; 1392];
            while !stopped.load(Ordering::Relaxed) {
                for socket in &sockets {
                    // A full queue of the interface refuses some.
                    if socket.send(&data).is_ok() {
                        sent.fetch_add(1420, Ordering::Relaxed);
                    }
                }
            }
        });
        Self { thread, stop, bytes }
    }

    fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
    }
}
