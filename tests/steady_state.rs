//! What passes between two queues, by way of sessions, WebSocket and TLS, allocates nothing once all of it has
//! been used.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "what fails here fails the test, which runs on the real clock and tells what it counts"
)]

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use allocation_counter::measure;
use rustls::pki_types::PrivateKeyDer;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use smartvpn::codec::hello::{Accepted, ClientHello};
use smartvpn::crypto::keys::Keypair;
use smartvpn::engine::{Link, Port};
use smartvpn::packet::{Offload, Record};
use smartvpn::qos::{FlowHasher, PacketQueue};
use smartvpn::session::{
    ClientParams, FEATURES, Hybrid, KeepaliveCap, KeyLimits, Listening, Opened, ReplayCache, Session, client,
};
use smartvpn::telemetry::{Quality, Traffic};
use smartvpn::transport::{TlsStream, WebSocket};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;

/// Packets that leave together.
const BATCH: usize = 50;

/// One end of a pipe that has all its memory from the start, and is as full as a socket may be. Nobody is
/// woken: both ends are polled.
struct Pipe {
    incoming: Rc<RefCell<VecDeque<u8>>>,
    outgoing: Rc<RefCell<VecDeque<u8>>>,
}

/// What a pipe holds.
const ROOM: usize = 100_000;

impl Pipe {
    fn pair() -> (Self, Self) {
        let new = || Rc::new(RefCell::new(VecDeque::with_capacity(ROOM)));
        let (there, back) = (new(), new());
        let near = Self { incoming: Rc::clone(&back), outgoing: Rc::clone(&there) };
        (near, Self { incoming: there, outgoing: back })
    }
}

impl AsyncRead for Pipe {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut bytes = self.incoming.borrow_mut();
        if bytes.is_empty() {
            // For the handshake, whose ends a runtime polls.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let (first, _) = bytes.as_slices();
        let count = first.len().min(buf.remaining());
        buf.put_slice(&first[..count]);
        bytes.drain(..count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let mut bytes = self.outgoing.borrow_mut();
        let count = buf.len().min(ROOM - bytes.len());
        if count == 0 {
            return Poll::Pending;
        }
        bytes.extend(&buf[..count]);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Counts packets, super-packets as their segments.
#[derive(Clone, Default)]
struct Count(Arc<AtomicU64>);

impl Port for Count {
    fn deliver(&mut self, record: Record<'_>) {
        let size = record.offload.size(record.packet.len());
        self.0.fetch_add(size.packets, Ordering::Relaxed);
    }

    fn round_trip(&mut self, _quality: &Quality) {}

    fn timed_out(&mut self, quality: &Quality) {
        panic!("{quality:?}");
    }
}

/// One end of the tunnel.
struct Side<S> {
    link: Link<S, Count>,
    queue: Arc<PacketQueue>,
    traffic: Arc<Traffic>,
    came: Count,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Side<S> {
    fn new(websocket: WebSocket<S>, session: Session) -> Self {
        let (came, traffic) = (Count::default(), Arc::new(Traffic::default()));
        let queue = Arc::new(PacketQueue::new(Arc::clone(&traffic), FlowHasher::new(&mut rand::rng())));
        let (_, orders) = mpsc::channel(1);
        let link =
            Link::new(websocket, session, came.clone(), Arc::clone(&queue), Arc::clone(&traffic), orders);
        Self { link, queue, traffic, came }
    }
}

/// Both ends of a session past the handshake, with all features in force.
fn sessions() -> (Session, Session) {
    let (now, rng) = (Instant::now(), &mut rand::rng());
    let server = Arc::new(Keypair::generate(rng));
    let hello = ClientHello {
        version: 1,
        features: FEATURES,
        mtu: None,
        token: None,
        mlkem768: None,
        ticket: None,
        name: None,
    };
    let params = ClientParams {
        server_key: server.public,
        identity: None,
        hello,
        hybrid: Hybrid::Offered,
        keepalive_interval: None,
        keepalive_cap: KeepaliveCap::default(),
        key_limits: KeyLimits::default(),
    };
    let (awaiting, mut first) = client::start(params, rng).unwrap();
    let mut replay = ReplayCache::new(Duration::from_secs(10));
    let opened = Listening::new(server).handle_message(now, rng, &mut replay, &mut first).unwrap();
    let Opened::Request(request) = opened else { panic!("refused") };
    let accepted = Accepted {
        version: 1,
        features: FEATURES,
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
    assert_eq!((session.features(), connected.session.features()), (FEATURES, FEATURES));
    (connected.session, session)
}

async fn secured() -> (TlsStream<Pipe>, TlsStream<Pipe>) {
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(["vpn.test".to_owned()]).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(cert.der().clone()).unwrap();
    let mut client = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.enable_secret_extraction = true;
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let mut server = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    server.enable_secret_extraction = true;
    let (near, far) = Pipe::pair();
    let (client, server) = tokio::join!(
        TlsStream::connect(Arc::new(client), "vpn.test".try_into().unwrap(), near),
        TlsStream::accept(Arc::new(server), far)
    );
    (client.unwrap(), server.unwrap())
}

/// TCP from one of a few flows; as a super-packet where it is longer than the MTU.
fn packet(flow: u8, length: usize) -> (Vec<u8>, Offload) {
    let mut packet = vec![flow; length];
    packet[..20].copy_from_slice(&[0x45, 0, 0, 0, 0, 1, 0, 0, 64, 6, 0, 0, 10, 8, 0, 1, 10, 8, 0, 2]);
    packet[2..4].copy_from_slice(&u16::try_from(length).unwrap().to_be_bytes());
    packet[20..24].copy_from_slice(&[40, flow, 31, 144]);
    (packet[32], packet[33]) = (0x50, 0x10);
    let offload = if length > 1420 { Offload::tcp(false, false, 20, 40, 1380) } else { Offload::NONE };
    (packet, offload)
}

/// Carries at least as many packets of these lengths, in turn, in either direction and in both at once, and
/// counts what that allocates.
fn allocates_nothing<S: AsyncRead + AsyncWrite + Unpin>(
    (near, far): (S, S),
    what: &str,
    lengths: &[usize],
    packets: u64,
) {
    let (client, server) = sessions();
    let mut near = Side::new(WebSocket::client(near, &[]), client);
    let mut far = Side::new(WebSocket::server(far, &[]), server);
    let batch: Vec<_> =
        (0..BATCH).map(|index| packet(index as u8 % 10, lengths[index % lengths.len()])).collect();
    // Of one round in one direction.
    let segments: u64 = batch.iter().map(|(packet, offload)| offload.size(packet.len()).packets).sum();
    let (mut expected, mut rounds) = ([0, 0], 0_u64);
    {
        let (mut to_far, mut to_near) = (pin!(near.link.run()), pin!(far.link.run()));
        let mut cx = Context::from_waker(Waker::noop());
        let mut round = || {
            let directions: &[usize] = [&[0][..], &[1], &[0, 1]][rounds as usize % 3];
            rounds += 1;
            for chunk in batch.chunks(5) {
                for direction in directions {
                    let queue = [&near.queue, &far.queue][*direction];
                    let mut producer = queue.producer(Instant::now());
                    for (packet, offload) in chunk {
                        producer.push(packet, *offload);
                        expected[*direction] += offload.size(packet.len()).packets;
                    }
                }
                let mut polls = 0;
                while [&far.came, &near.came].map(|came| came.0.load(Ordering::Relaxed)) != expected {
                    assert!(to_far.as_mut().poll(&mut cx).is_pending());
                    assert!(to_near.as_mut().poll(&mut cx).is_pending());
                    polls += 1;
                    assert!(polls < 1000, "packets are lost: {expected:?}");
                }
            }
        };
        (0..200).for_each(|_| round());
        let count = packets.div_ceil(segments).max(30);
        let allocations = measure(|| (0..count).for_each(|_| round()));
        println!("{what}: {} allocations for {} packets", allocations.count_total, count * segments * 4 / 3);
        let allowed = count * segments / PACKETS_FOR_ONE;
        assert!(allocations.count_total <= allowed, "{what}: {allocations:?}");
    }
    let sent = [&near, &far].map(|side| side.traffic.snapshot().packets_sent);
    assert_eq!(sent, expected, "each segment is counted");
}

/// Packets for which one allocation is none of theirs: where the machine has no time for the test for 20 ms, queues give
/// back what they had grown, and grow again.
const PACKETS_FOR_ONE: u64 = 500;

#[test]
fn nothing_is_allocated_for_a_packet() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    // For the links' timers. Not within a task, which could poll only so often before it must let others run.
    let _runtime = runtime.enter();
    for (what, lengths) in [
        ("packets of the MTU", &[1420][..]),
        ("acknowledgements", &[52]),
        ("super-packets", &[62_140]),
        ("all lengths", &[1420, 52, 9_700, 1420, 300, 62_140, 2_840]),
    ] {
        allocates_nothing(Pipe::pair(), what, lengths, 10_000);
        allocates_nothing(runtime.block_on(secured()), &format!("{what}, TLS"), lengths, 10_000);
    }
}
