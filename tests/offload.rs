//! Super-packets between two kernels: two TUNs in two network namespaces, and what one gives carried to the
//! other as the tunnel would carry it.

#![cfg(target_os = "linux")]
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking and tells what it saw"
)]

#[path = "support/namespace.rs"]
#[expect(dead_code, reason = "other tests need more of it")]
mod namespace;

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use namespace::{Helper, block_on, ip_in, isolated, run};
use smartvpn::network::Netlink;
use smartvpn::packet::{Egress, Intake, Offload, Record, segment};
use smartvpn::tunnel::{Offloads, READ_ROOM, Received, Tun, TunConfig, TunWriter};
use tokio::task::JoinSet;

const MTU: u16 = 1420;
const PORT: u16 = 7777;
/// Bytes of a TCP stream, each way.
const STREAM: usize = 20_000_000;
const DATAGRAMS: u32 = 2000;
/// Datagrams under way at a time: far less than a socket's buffer holds.
const BURST: u32 = 20;
const PATIENCE: Duration = Duration::from_secs(60);

/// How packets get from one TUN to the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// As they are, their offload headers with them.
    Whole,
    /// Cut at one end, and joined again at the other.
    Cut,
    /// As a session without `offload` takes them, and one by one into a TUN.
    Plain,
}

/// What passed, in both directions.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    /// Packets that the kernel gave, and their bytes.
    read: u64,
    read_bytes: u64,
    /// Of these, the super-packets that are longer than the MTU.
    supers: u64,
    super_bytes: u64,
    /// Packets that were carried.
    carried: u64,
    /// Packets that the kernel took.
    written: u64,
    /// Of these, super-packets.
    joined: u64,
}

impl Counts {
    fn count_read(&mut self, length: usize, offload: Offload) {
        self.read += 1;
        self.read_bytes += length as u64;
        if offload.is_super() && length > MTU.into() {
            self.supers += 1;
            self.super_bytes += length as u64;
        }
    }
}

/// Two TUNs, the other one's namespace, and what carries packets between them.
struct Path {
    counts: Arc<Mutex<Counts>>,
    /// The carriers let packets gather before they read.
    gathers: Arc<AtomicBool>,
    offloads: Offloads,
    carriers: JoinSet<()>,
    _peer: Helper,
}

impl Path {
    fn new(way: Way) -> Self {
        let mut peer = Helper::elsewhere("helper", "peer");
        let mut lines = BufReader::new(peer.stdout()).lines();
        assert!(lines.any(|line| line.unwrap().ends_with("ready")), "the helper is not ready");
        thread::spawn(move || lines.for_each(drop));

        let create = |name: &str| {
            let config = TunConfig { name: Some(name.to_owned()), mtu: MTU, multi_queue: false };
            Arc::new(Tun::create(&config).unwrap())
        };
        let [near, far] = ["near", "far"].map(create);
        let netlink = Netlink::open().unwrap();
        for (address, prefix) in [("10.9.0.1", 24), ("fd00:9::1", 64)] {
            netlink.add_address(near.index(), address.parse().unwrap(), prefix).unwrap();
        }
        netlink.set_up(near.index(), MTU).unwrap();
        // The interface moves; its descriptor stays here.
        run("ip", &format!("link set far netns {}", peer.id()));
        for arguments in
            ["addr add 10.9.0.2/24 dev far", "addr add fd00:9::2/64 dev far nodad", "link set far up"]
        {
            ip_in(&peer, arguments);
        }

        let (counts, gathers, mut carriers) = (Arc::default(), Arc::default(), JoinSet::new());
        let offloads = near.offloads();
        for (from, to) in [(&near, &far), (&far, &near)] {
            let (from, to) = (Arc::clone(from), Arc::clone(to));
            carriers.spawn(carry(from, to, way, Arc::clone(&counts), Arc::clone(&gathers)));
        }
        Self { counts, gathers, offloads, carriers, _peer: peer }
    }

    /// What passes while `traffic` runs, on a thread of its own.
    async fn watch(&mut self, traffic: impl FnOnce() + Send + 'static) -> Counts {
        *self.counts.lock().unwrap() = Counts::default();
        tokio::select! {
            ended = tokio::time::timeout(PATIENCE, tokio::task::spawn_blocking(traffic)) => ended.unwrap().unwrap(),
            failed = self.carriers.join_next() => panic!("{failed:?}"),
        }
        *self.counts.lock().unwrap()
    }
}

async fn carry(from: Arc<Tun>, to: Arc<Tun>, way: Way, counts: Arc<Mutex<Counts>>, gathers: Arc<AtomicBool>) {
    let mut room = vec![0; READ_ROOM];
    let (mut egress, mut scratch) = (Egress::default(), Vec::new());
    let mut writer = TunWriter::new(Arc::clone(&to));
    loop {
        from.readable().await.unwrap();
        if gathers.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let mut counts = counts.lock().unwrap();
        let Counts { carried, written, joined, .. } = &mut *counts;
        let (mut read, mut done) =
            (Vec::new(), |packet: &[u8], offload: Offload, outcome: std::io::Result<()>| {
                assert!(outcome.is_ok(), "{outcome:?}: {} bytes, {offload:?}", packet.len());
                *written += 1;
                *joined += u64::from(offload.is_super());
            });
        for _ in 0..64 {
            let (packet, offload) = match from.try_read(&mut room) {
                Ok(Received { range, offload }) => (&mut room[range], offload),
                Err(error) => {
                    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
                    break;
                }
            };
            read.push((packet.len(), offload));
            let intake = Intake { mtu: MTU, offload: way == Way::Whole };
            match way {
                Way::Whole => egress.pass(&mut Record { packet, offload }, intake, |packet, offload| {
                    *carried += 1;
                    writer.push(Record { packet: &mut packet.to_vec(), offload }, &mut done);
                }),
                Way::Cut => {
                    segment(packet, offload, &mut scratch, |segment| {
                        assert!(segment.len() <= MTU.into());
                        *carried += 1;
                        writer.push(Record::from(segment), &mut done);
                    });
                    Ok(())
                }
                Way::Plain => egress.pass(&mut Record { packet, offload }, intake, |packet, offload| {
                    assert!(offload.is_none() && packet.len() <= MTU.into());
                    *carried += 1;
                    done(packet, offload, to.write(packet, offload));
                }),
            }
            .unwrap();
        }
        writer.flush(&mut done);
        for (length, offload) in read {
            counts.count_read(length, offload);
        }
    }
}

#[test]
fn helper() {
    if namespace::role().is_some() {
        peer();
    }
}

/// Sends back every datagram, and a stream for each stream.
fn peer() {
    let listener = TcpListener::bind(("::", PORT)).unwrap();
    let socket = UdpSocket::bind(("::", PORT)).unwrap();
    println!("ready");
    thread::spawn(move || {
        let mut data = [0; 2000];
        loop {
            let (length, from) = socket.recv_from(&mut data).unwrap();
            socket.send_to(&data[..length], from).unwrap();
        }
    });
    for stream in listener.incoming() {
        let mut stream = stream.unwrap();
        let sum = exchange(&stream, 2);
        stream.write_all(&sum.to_be_bytes()).unwrap();
    }
}

/// Sends a stream and takes one at the same time; returns the sum of what came.
fn exchange(mut stream: &TcpStream, seed: u64) -> u64 {
    let mut other = stream.try_clone().unwrap();
    let sending = thread::spawn(move || other.write_all(&data(seed, STREAM)).unwrap());
    let mut came = vec![0; STREAM];
    stream.read_exact(&mut came).unwrap();
    sending.join().unwrap();
    sum(&came)
}

fn data(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Every byte and its place count.
fn sum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |sum: u64, byte| sum.wrapping_mul(0x0100_0000_01b3) ^ u64::from(*byte))
}

/// A stream each way, compared at both ends.
fn streams(to: IpAddr) {
    let mut stream = TcpStream::connect((to, PORT)).unwrap();
    assert_eq!(exchange(&stream, 1), sum(&data(2, STREAM)), "what came to us");
    let mut theirs = [0; 8];
    stream.read_exact(&mut theirs).unwrap();
    assert_eq!(u64::from_be_bytes(theirs), sum(&data(1, STREAM)), "what came to them");
}

/// Datagrams there and back, all of them whole.
fn datagrams(from: IpAddr, to: IpAddr, length: usize) {
    let socket = UdpSocket::bind((from, 0)).unwrap();
    socket.connect((to, PORT)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut room = [0; 2000];
    for burst in 0..DATAGRAMS / BURST {
        let numbers = burst * BURST..(burst + 1) * BURST;
        let mut expected: HashSet<_> = numbers.map(|number| data(number.into(), length)).collect();
        for datagram in &expected {
            assert_eq!(socket.send(datagram).unwrap(), length);
        }
        while !expected.is_empty() {
            let came = socket.recv(&mut room).unwrap();
            assert!(expected.remove(&room[..came]), "another datagram, or one twice");
        }
    }
}

/// What passed with TCP and with UDP, over both families.
async fn traffic(path: &mut Path) -> [Counts; 2] {
    let families = [("10.9.0.1", "10.9.0.2", 1392), ("fd00:9::1", "fd00:9::2", 1372)]
        .map(|(from, to, longest)| (from.parse().unwrap(), to.parse().unwrap(), longest));
    let tcp = path.watch(move || families.iter().for_each(|(_, to, _)| streams(*to))).await;
    path.gathers.store(true, Ordering::Relaxed);
    let udp = path.watch(move || {
        for (from, to, longest) in families {
            [64, longest].into_iter().for_each(|length| datagrams(from, to, length));
        }
    });
    [tcp, udp.await]
}

#[test]
fn super_packets_pass_whole() {
    isolated("super_packets_pass_whole", || {
        block_on(async {
            let mut path = Path::new(Way::Whole);
            assert_ne!(path.offloads, Offloads::None);
            let [tcp, udp] = traffic(&mut path).await;
            println!("{tcp:?}\n{udp:?}");
            assert!(tcp.super_bytes * 2 > tcp.read_bytes, "{tcp:?}");
            assert_eq!(tcp.read, tcp.carried);
            assert!(tcp.joined >= tcp.supers);
            assert!(udp.read >= 4 * u64::from(2 * DATAGRAMS), "{udp:?}");
        });
    });
}

#[test]
fn super_packets_are_cut_and_joined_again() {
    isolated("super_packets_are_cut_and_joined_again", || {
        block_on(async {
            let mut path = Path::new(Way::Cut);
            let [tcp, udp] = traffic(&mut path).await;
            println!("{tcp:?}\n{udp:?}");
            assert!(tcp.carried >= 4 * (STREAM / usize::from(MTU)) as u64);
            assert!(tcp.written * 4 < tcp.carried && tcp.joined > 0, "{tcp:?}");
            match path.offloads {
                Offloads::TcpAndUdp => assert!(udp.written * 2 < udp.carried && udp.joined > 0, "{udp:?}"),
                _ => assert_eq!((udp.written, udp.joined), (udp.carried, 0)),
            }
        });
    });
}

#[test]
fn a_path_without_offloads_gets_plain_packets() {
    isolated("a_path_without_offloads_gets_plain_packets", || {
        block_on(async {
            let mut path = Path::new(Way::Plain);
            let [tcp, udp] = traffic(&mut path).await;
            println!("{tcp:?}\n{udp:?}");
            assert!(tcp.supers > 0 && tcp.read < tcp.carried, "{tcp:?}");
            for counts in [tcp, udp] {
                assert_eq!((counts.written, counts.joined), (counts.carried, 0));
            }
        });
    });
}
