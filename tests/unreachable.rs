//! A kernel's TCP during an outage: who is told that the way is gone tries on at short intervals, who hears
//! nothing falls silent. The queue of a session that has no connection, between two TUNs.

#![cfg(target_os = "linux")]
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a test fails by panicking and tells what it saw, on the real clock"
)]

#[path = "support/namespace.rs"]
#[expect(dead_code, reason = "other tests need more of it")]
mod namespace;

use std::collections::HashMap;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use namespace::{Helper, block_on, ip_in, isolated, run, unreachables_heard};
use smartvpn::network::Netlink;
use smartvpn::packet::{Answers, Offload, Router};
use smartvpn::qos::{Allowance, Batch, FlowHasher, PacketQueue};
use smartvpn::telemetry::Traffic;
use smartvpn::tunnel::{READ_ROOM, Tun, TunConfig};
use tokio::task::JoinSet;

const MTU: u16 = 1420;
/// Its connections are told.
const TOLD: u16 = 7001;
/// Its connections hear nothing.
const IGNORED: u16 = 7002;
const FAMILIES: [&str; 2] = ["10.9.0.2", "fd00:9::2"];
const OUTAGE: Duration = Duration::from_secs(10);
const TICK: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(60);

/// Connections, by family and the other end's port.
type Connection = (u8, u16);

/// A session's queue, and what came into it while there was no connection.
struct Session {
    queue: PacketQueue,
    is_away: AtomicBool,
    sent: Mutex<HashMap<Connection, Vec<Instant>>>,
}

impl Session {
    fn new() -> Self {
        let queue = PacketQueue::new(Arc::<Traffic>::default(), FlowHasher::new(&mut rand::rng()));
        Self { queue, is_away: AtomicBool::new(false), sent: Mutex::default() }
    }

    /// Takes what the TUN has.
    fn read(&self, from: &Tun, room: &mut [u8]) {
        loop {
            let received = match from.try_read(room) {
                Ok(received) => received,
                Err(error) => return assert_eq!(error.kind(), ErrorKind::WouldBlock),
            };
            let (packet, now) = (&room[received.range], Instant::now());
            if let Some(connection) = data(packet).filter(|_| self.is_away.load(Ordering::Relaxed)) {
                self.sent.lock().unwrap().entry(connection).or_default().push(now);
            }
            self.queue.producer(now).push(packet, received.offload);
        }
    }

    /// Answers those who are to be told, and gives on what may leave.
    fn pass(&self, answers: &Answers, router: &Router, [near, far]: [&Tun; 2], batch: &mut Batch) {
        let now = Instant::now();
        self.queue.age(now);
        let lost = self.queue.take_unreachable();
        for segment in lost.iter().filter(|segment| data(segment).is_some_and(|(_, port)| port == TOLD)) {
            answers.unreachable(now, router, segment, |answer| near.write(answer, Offload::NONE).unwrap());
        }
        while self.queue.drain_into(now, batch, Allowance::unlimited(usize::MAX)) > 0 {
            batch.iter().for_each(|(packet, offload)| far.write(packet, offload).unwrap());
        }
    }
}

/// Family and destination port of a TCP segment with data, from one of our sockets.
fn data(packet: &[u8]) -> Option<Connection> {
    let (family, header) = match packet.first()? >> 4 {
        4 if packet[9] == 6 => (4, 20),
        6 if packet[6] == 6 => (6, 40),
        _ => return None,
    };
    let length = match family {
        4 => usize::from(u16::from_be_bytes([packet[2], packet[3]])),
        _ => header + usize::from(u16::from_be_bytes([packet[4], packet[5]])),
    };
    let payload = header + usize::from(packet[header + 12] >> 4) * 4;
    let port = u16::from_be_bytes([packet[header + 2], packet[header + 3]]);
    (length > payload).then_some((family, port))
}

#[test]
fn helper() {
    if namespace::role().is_some() {
        let listeners = [TOLD, IGNORED].map(|port| TcpListener::bind(("::", port)).unwrap());
        println!("ready");
        thread::scope(|scope| {
            for listener in &listeners {
                scope.spawn(|| {
                    for stream in listener.incoming() {
                        thread::spawn(|| echo(&stream.unwrap()));
                    }
                });
            }
        });
    }
}

/// Sends everything back until the other end closes.
fn echo(mut stream: &TcpStream) {
    std::io::copy(&mut { stream }, &mut stream).unwrap();
}

fn exchange(mut stream: &TcpStream, data: &[u8]) {
    stream.write_all(data).unwrap();
    let mut came = vec![0; data.len()];
    stream.read_exact(&mut came).unwrap();
    assert_eq!(came, data);
}

/// The longest time without a segment, from the beginning of the outage to its end.
fn longest_silence(sent: &[Instant], begin: Instant, end: Instant) -> Duration {
    let times = [&[begin][..], sent, &[end][..]].concat();
    times.windows(2).map(|pair| pair[1].saturating_duration_since(pair[0])).max().unwrap()
}

#[test]
fn who_is_told_of_an_outage_does_not_fall_silent() {
    isolated("who_is_told_of_an_outage_does_not_fall_silent", || {
        block_on(async {
            let mut peer = Helper::elsewhere("helper", "peer");
            let mut lines = BufReader::new(peer.stdout()).lines();
            assert!(lines.any(|line| line.unwrap().ends_with("ready")), "the helper is not ready");
            thread::spawn(move || lines.for_each(drop));
            let [near, far] = ["near", "far"].map(|name| {
                let config = TunConfig { name: Some(name.to_owned()), mtu: MTU, multi_queue: false };
                Arc::new(Tun::create(&config).unwrap())
            });
            let netlink = Netlink::open().unwrap();
            for (address, prefix) in [("10.9.0.1", 24), ("fd00:9::1", 64)] {
                netlink.add_address(near.index(), address.parse().unwrap(), prefix).unwrap();
            }
            netlink.set_up(near.index(), MTU).unwrap();
            run("ip", &format!("link set far netns {}", peer.id()));
            for arguments in
                ["addr add 10.9.0.2/24 dev far", "addr add fd00:9::2/64 dev far nodad", "link set far up"]
            {
                ip_in(&peer, arguments);
            }

            let session = Arc::new(Session::new());
            let mut carriers = JoinSet::new();
            carriers.spawn(carry(Arc::clone(&session), [&near, &far].map(Arc::clone)));
            carriers.spawn(carry_back(Arc::clone(&session), far, near));
            let traffic = tokio::task::spawn_blocking(move || outage(&session));
            tokio::select! {
                ended = tokio::time::timeout(PATIENCE, traffic) => ended.unwrap().unwrap(),
                failed = carriers.join_next() => panic!("{failed:?}"),
            }
        });
    });
}

/// An outage with a write on each connection.
fn outage(session: &Session) {
    let streams = [TOLD, IGNORED].map(|port| {
        FAMILIES.map(|address| TcpStream::connect((address.parse::<IpAddr>().unwrap(), port)).unwrap())
    });
    for stream in streams.as_flattened() {
        // The kernel learns how long a round trip takes.
        (0..20).for_each(|_| exchange(stream, b"hello"));
    }
    let begin = Instant::now();
    session.queue.hold(begin);
    session.is_away.store(true, Ordering::Relaxed);
    streams.as_flattened().iter().for_each(|mut stream| stream.write_all(b"hello").unwrap());
    thread::sleep(OUTAGE);
    let end = Instant::now();
    session.is_away.store(false, Ordering::Relaxed);
    session.queue.release(end);

    let sent = session.sent.lock().unwrap().clone();
    let silence = |port| [4, 6].map(|family| longest_silence(&sent[&(family, port)], begin, end));
    let (told, ignored, heard) = (silence(TOLD), silence(IGNORED), unreachables_heard());
    println!("measured: longest silence {told:?} where told {heard:?} times, {ignored:?} where not");
    for (told, ignored) in told.into_iter().zip(ignored) {
        assert!(told * 3 < ignored * 2 && told <= Duration::from_millis(2500), "{told:?} {ignored:?}");
    }
    assert!(heard.into_iter().all(|times| times >= 3), "{heard:?}");
    // Nobody was told in vain: what was written arrives, soon.
    for mut stream in &streams[0] {
        let mut came = [0; 5];
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        stream.read_exact(&mut came).unwrap();
    }
    println!("measured: {:?} until data passed again", end.elapsed());
}

/// From the near TUN through the session's queue to the far one.
async fn carry(session: Arc<Session>, [near, far]: [Arc<Tun>; 2]) {
    let (answers, mut batch, mut room) = (Answers::new(Instant::now()), Batch::default(), vec![0; READ_ROOM]);
    let router = Router::new("10.9.0.254/24".parse().unwrap(), Some("fd00:9::fe".parse().unwrap()));
    loop {
        if let Ok(ready) = tokio::time::timeout(TICK, near.readable()).await {
            ready.unwrap();
            session.read(&near, &mut room);
        }
        session.pass(&answers, &router, [&near, &far], &mut batch);
    }
}

/// From the far TUN to the near one, while there is a connection.
async fn carry_back(session: Arc<Session>, far: Arc<Tun>, near: Arc<Tun>) {
    let mut room = vec![0; READ_ROOM];
    loop {
        far.readable().await.unwrap();
        while let Ok(received) = far.try_read(&mut room) {
            if !session.is_away.load(Ordering::Relaxed) {
                near.write(&room[received.range], received.offload).unwrap();
            }
        }
    }
}
