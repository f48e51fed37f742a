//! Two links over an in-memory stream: what the engine promises about packets, goodbyes and faults.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "helpers of tests, which run on the real clock"
)]

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use smartvpn::codec::disconnect::DisconnectCode;
use smartvpn::codec::hello::{Accepted, ClientHello, Features};
use smartvpn::crypto::keys::Keypair;
use smartvpn::engine::{End, Link, Order, Port};
use smartvpn::packet::{Offload, Record};
use smartvpn::qos::{FlowHasher, PacketQueue};
use smartvpn::session::{
    ClientParams, Hybrid, KeepaliveCap, KeyLimits, Listening, Opened, ReplayCache, Session, client,
};
use smartvpn::telemetry::{Quality, Traffic};
use smartvpn::transport::WebSocket;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::mpsc;

#[derive(Clone, Default)]
struct Seen {
    packets: Arc<Mutex<Vec<Vec<u8>>>>,
    round_trips: Arc<Mutex<u32>>,
}

impl Port for Seen {
    fn deliver(&mut self, record: Record<'_>) {
        self.packets.lock().unwrap().push(record.packet.to_vec());
    }

    fn round_trip(&mut self, _quality: &Quality) {
        *self.round_trips.lock().unwrap() += 1;
    }

    fn timed_out(&mut self, quality: &Quality) {
        panic!("{quality:?}");
    }
}

struct Side {
    link: Link<DuplexStream, Seen>,
    queue: Arc<PacketQueue>,
    traffic: Arc<Traffic>,
    orders: mpsc::Sender<Order>,
    seen: Seen,
}

/// Sessions of both ends, past the handshake.
fn sessions() -> (Session, Session) {
    let (now, rng) = (Instant::now(), &mut rand::rng());
    let server = Arc::new(Keypair::generate(rng));
    let hello = ClientHello {
        version: 1,
        features: Features::NONE,
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

fn side(websocket: WebSocket<DuplexStream>, session: Session) -> Side {
    let (orders, inbox) = mpsc::channel(1);
    let (seen, traffic) = (Seen::default(), Arc::new(Traffic::default()));
    let queue = Arc::new(PacketQueue::new(Arc::clone(&traffic), FlowHasher::new(&mut rand::rng())));
    let link = Link::new(websocket, session, seen.clone(), Arc::clone(&queue), Arc::clone(&traffic), inbox);
    Side { link, queue, traffic, orders, seen }
}

fn pair(room: usize) -> (Side, Side) {
    let (near, far) = duplex(room);
    let (client, server) = sessions();
    (side(WebSocket::client(near, &[]), client), side(WebSocket::server(far, &[]), server))
}

fn packet(number: u32) -> Vec<u8> {
    let mut packet = vec![0x45; 40 + (number as usize * 37) % 1380];
    packet[..4].copy_from_slice(&number.to_be_bytes());
    packet
}

async fn until(mut done: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(20), async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    waited.await.expect("what was waited for did not come");
}

#[tokio::test]
async fn packets_arrive_whole_in_order_and_counted_both_ways() {
    let (client, server) = pair(8 * 1024);
    let (mut near, mut far) = (client.link, server.link);
    let run = tokio::spawn(async move { tokio::join!(near.run(), far.run()) });
    for round in 0..40 {
        for (queue, offset) in [(&client.queue, 0), (&server.queue, 1_000_000)] {
            let mut producer = queue.producer(Instant::now());
            (0..50).for_each(|number| producer.push(&packet(offset + round * 50 + number), Offload::NONE));
        }
        let count = (round as usize + 1) * 50;
        let arrived = |seen: &Seen| seen.packets.lock().unwrap().len() == count;
        until(|| arrived(&client.seen) && arrived(&server.seen)).await;
    }
    for (seen, offset) in [(&server.seen, 0), (&client.seen, 1_000_000)] {
        let packets = seen.packets.lock().unwrap();
        assert!(packets.iter().zip(0..).all(|(got, number)| *got == packet(offset + number)));
    }
    let sent = client.traffic.snapshot();
    assert_eq!(sent.packets_sent, 2000);
    assert_eq!(sent.bytes_sent, (0..2000).map(|number| packet(number).len() as u64).sum::<u64>());
    assert!(*client.seen.round_trips.lock().unwrap() >= 1, "the confirmation was answered");
    run.abort();
}

#[tokio::test]
async fn an_order_ends_both_sides_with_its_reason() {
    let (client, server) = pair(8 * 1024);
    let (mut near, mut far) = (client.link, server.link);
    server.orders.try_send(Order { code: DisconnectCode::Kicked, message: "enough" }).unwrap();
    let (near_end, far_end) = tokio::join!(near.run(), far.run());
    assert!(matches!(far_end, End::Local(DisconnectCode::Kicked)), "{far_end:?}");
    let End::Peer(disconnect) = near_end else { panic!("{near_end:?}") };
    assert_eq!((disconnect.code, disconnect.message.as_str()), (DisconnectCode::Kicked, "enough"));
}

#[tokio::test]
async fn the_reason_arrives_also_behind_a_backlog() {
    let (client, server) = pair(1024);
    let (mut near, mut far) = (client.link, server.link);
    let mut producer = server.queue.producer(Instant::now());
    (0..200).for_each(|number| producer.push(&packet(number), Offload::NONE));
    drop(producer);
    // The first batch is under way, and fills the stream, when the order comes.
    assert!(far.run_until(|| true).await.is_none());
    server.orders.try_send(Order { code: DisconnectCode::ShuttingDown, message: "bye" }).unwrap();
    let (near_end, far_end) = tokio::join!(near.run(), far.run());
    assert!(matches!(far_end, End::Local(DisconnectCode::ShuttingDown)), "{far_end:?}");
    let End::Peer(disconnect) = near_end else { panic!("{near_end:?}") };
    assert_eq!(disconnect.code, DisconnectCode::ShuttingDown);
}

#[tokio::test]
async fn a_peer_that_does_not_read_does_not_stop_what_it_sends() {
    let (client, server) = pair(4 * 1024);
    let (mut near, mut far) = (client.link, server.link);
    // The server has far more to send than the stream holds, and nobody reads it.
    let mut producer = server.queue.producer(Instant::now());
    (0..300).for_each(|number| producer.push(&packet(number), Offload::NONE));
    drop(producer);
    client.queue.producer(Instant::now()).push(&packet(7), Offload::NONE);
    let only_server = async {
        tokio::select! {
            end = far.run() => panic!("{end:?}"),
            () = until(|| !server.seen.packets.lock().unwrap().is_empty()) => {}
        }
    };
    let writing = tokio::time::timeout(Duration::from_millis(300), near.run_until(|| true));
    let (wrote, ()) = tokio::join!(writing, only_server);
    assert!(wrote.is_ok());
    assert_eq!(server.seen.packets.lock().unwrap().as_slice(), [packet(7)]);
    assert!(server.queue.held_bytes() <= server.queue.limit_bytes());
}

#[tokio::test]
async fn a_flipped_bit_ends_the_session_and_delivers_nothing() {
    let (near, mut wire) = duplex(64 * 1024);
    let (mut other, far) = duplex(64 * 1024);
    let (client, server) = sessions();
    let mut near = side(WebSocket::client(near, &[]), client);
    let mut far = side(WebSocket::server(far, &[]), server);
    near.queue.producer(Instant::now()).push(&packet(1), Offload::NONE);
    let hostile = async {
        let mut bytes = vec![0; 64 * 1024];
        let count = wire.read(&mut bytes).await.unwrap();
        // The last byte belongs to the packet's tag, under the mask.
        bytes[count - 1] ^= 0x10;
        other.write_all(&bytes[..count]).await.unwrap();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        end = far.link.run() => assert!(matches!(end, End::BadFrame(_)) && end.close_code() == 1008, "{end:?}"),
        end = near.link.run() => panic!("{end:?}"),
        () = hostile => {}
    }
    assert!(far.seen.packets.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_cut_connection_is_lost() {
    let (near, far) = duplex(1024);
    let (client, _) = sessions();
    let mut near = side(WebSocket::client(near, &[]), client);
    drop(far);
    assert!(matches!(near.link.run().await, End::Lost(_)));
}

#[tokio::test]
async fn a_link_tells_how_silent_its_connection_was_when_it_was_cut() {
    let (client, server) = pair(8 * 1024);
    let (mut near, mut far) = (client.link, server.link);
    client.queue.producer(Instant::now()).push(&packet(1), Offload::NONE);
    // Long enough that the keepalive which the packet earns after 2 s is answered, and that the rest counts
    // as idleness.
    let idle =
        tokio::time::timeout(Duration::from_millis(5_500), async { tokio::join!(near.run(), far.run()) });
    assert!(idle.await.is_err());
    assert_eq!(server.seen.packets.lock().unwrap().len(), 1);
    drop(far);
    assert!(matches!(near.run().await, End::Lost(_)));
    let silence = near.silence_before_cut().expect("it was idle");
    assert!(silence >= Duration::from_secs(3) && silence < Duration::from_secs(20), "{silence:?}");
}
