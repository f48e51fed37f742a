//! What the server drops is counted once, where it belongs, under its reason and class.

use std::net::Ipv4Addr;
use std::path::Path;

use serde_json::json;
use tokio::sync::mpsc;

use super::*;
use crate::config::ServerConfig;
use crate::network::Netlink;
use crate::network::namespace::{block_on, isolated, unreachables_heard};
use crate::packet::Intake;
use crate::packet::ip::tests::{of_class, v6};
use crate::packet::unreachable::tests::tcp;
use crate::qos::{Allowance, HELD_MAX_WAIT, RateLimit};
use crate::report::{DisconnectReason, Event, EventSink, Events};
use crate::server::peer::{Identity, Present};
use crate::telemetry::Priority::{self, High, Low, Normal};
use crate::telemetry::{DropsSnapshot, Size};
use crate::tunnel::{Tun, TunConfig};

struct Nobody;

impl EventSink for Nobody {
    fn emit(&self, _event: Event) {}
}

/// An interface that is down, so that the device refuses every packet.
fn tun() -> Arc<Tun> {
    Arc::new(Tun::create(&TunConfig { name: None, mtu: 1420, multi_queue: false }).unwrap())
}

fn hub(client_to_client: bool) -> Arc<Hub> {
    let config = json!({
        "listenAddr": "127.0.0.1:0", "subnet": "10.8.0.0/24", "clientToClient": client_to_client, "stateDir": null,
        // RFC 7748 §6.1.
        "privateKey": "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=",
        "publicKey": "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=",
    });
    let config = ServerConfig::parse(&config, Path::new("/")).unwrap();
    Arc::new(Hub::new(config, None, Events::new(Arc::new(Nobody)), None).unwrap())
}

/// A client that is connected, with the address 10.8.0.`number`.
fn peer(hub: &Hub, number: u8, mtu: u16, limit: Option<RateLimit>) -> Arc<Peer> {
    let identity = Identity {
        id: format!("c{number}"),
        v4: Ipv4Addr::new(10, 8, 0, number),
        v6: None,
        prefix_length: 24,
        intake: Intake { mtu, offload: false },
        name: None,
    };
    let present =
        Present { connection: number.into(), remote: ([127, 0, 0, 1], 1).into(), orders: mpsc::channel(1).0 };
    let peer = Arc::new(Peer::new(identity, Some(present), limit));
    hub.register(&peer);
    peer
}

fn client(number: u8) -> [u8; 4] {
    [10, 8, 0, number]
}

const OUTSIDE: [u8; 4] = [192, 0, 2, 1];

type Loss = (Priority, DropReason, Vec<u8>);

/// Each of these was counted once, and nothing else.
fn assert_drops(drops: &DropsSnapshot, expected: &[Loss]) {
    let mut total = Size::default();
    for (priority, reason, _) in expected {
        let mut count = Size::default();
        for (.., packet) in expected.iter().filter(|(p, r, _)| (p, r) == (priority, reason)) {
            count += Size { packets: 1, bytes: packet.len() as u64 };
        }
        assert_eq!(drops.get(*priority, *reason), count, "{priority} {reason}");
    }
    for (.., packet) in expected {
        total += Size { packets: 1, bytes: packet.len() as u64 };
    }
    assert_eq!(drops.total(), total);
}

fn route(hub: &Arc<Hub>, losses: &[Loss]) {
    let mut packets: Vec<_> = losses.iter().map(|(.., packet)| packet.clone()).collect();
    Downlink::new(Arc::clone(hub), tun())
        .route(packets.iter_mut().map(|packet| packet.as_mut_slice().into()));
}

#[test]
fn what_the_tun_gives_is_dropped_in_its_class() {
    isolated("server::port::tests::what_the_tun_gives_is_dropped_in_its_class", || {
        block_on(async {
            let hub = hub(false);
            let peer = peer(&hub, 2, 1280, None);
            let losses = [
                (Normal, DropReason::Malformed, vec![0x45; 19]),
                (Normal, DropReason::Malformed, vec![0; 900]),
                (High, DropReason::NoRoute, of_class(High, OUTSIDE, client(9), 1000)),
                (High, DropReason::NoRoute, of_class(Normal, OUTSIDE, client(9), 90)),
                (Normal, DropReason::NoRoute, of_class(Normal, OUTSIDE, client(9), 1000)),
                (Normal, DropReason::NoRoute, v6("fd00::2", "fd00::3", 17, &[1; 600])),
            ];
            route(&hub, &losses);
            assert_drops(&hub.totals().drops, &losses);
            let too_big = [
                (High, DropReason::TooBig, of_class(High, OUTSIDE, client(2), 1281)),
                (Normal, DropReason::TooBig, of_class(Normal, OUTSIDE, client(2), 1300)),
            ];
            route(&hub, &too_big);
            assert_drops(&peer.traffic.snapshot().drops, &too_big);
            assert_drops(&hub.totals().drops, &[&losses[..], &too_big[..]].concat());
        });
    });
}

#[test]
fn a_bulk_transfer_loses_packets_of_its_class() {
    isolated("server::port::tests::a_bulk_transfer_loses_packets_of_its_class", || {
        block_on(async {
            let hub = hub(false);
            let peer = peer(&hub, 2, 1280, None);
            let bulk = of_class(Normal, OUTSIDE, client(2), 1280);
            let mut batch = Batch::default();
            for _ in 0..800 {
                peer.queue.producer(clock::now()).push(&bulk, Offload::NONE);
                peer.queue.drain_into(clock::now(), &mut batch, Allowance::unlimited(1 << 20));
            }
            let losses = [
                (Low, DropReason::TooBig, of_class(Normal, OUTSIDE, client(2), 1300)),
                (Normal, DropReason::TooBig, of_class(Normal, [192, 0, 2, 7], client(2), 1300)),
            ];
            route(&hub, &losses);
            assert_drops(&peer.traffic.snapshot().drops, &losses);
        });
    });
}

#[test]
fn what_a_client_sends_is_dropped_in_its_class() {
    isolated("server::port::tests::what_a_client_sends_is_dropped_in_its_class", || {
        block_on(async {
            for client_to_client in [false, true] {
                let hub = hub(client_to_client);
                let sender = peer(&hub, 2, 1420, None);
                let other = peer(&hub, 3, 1280, None);
                let mut port = Uplink::new(Arc::clone(&hub), Arc::clone(&sender), tun());
                let own = client(2);
                let mut losses = vec![
                    (Normal, DropReason::Malformed, vec![0x45; 19]),
                    (High, DropReason::Spoofed, of_class(High, OUTSIDE, OUTSIDE, 1000)),
                    (Normal, DropReason::Spoofed, of_class(Normal, client(3), OUTSIDE, 1000)),
                    (Normal, DropReason::LinkLocal, of_class(Normal, [169, 254, 1, 1], OUTSIDE, 1000)),
                    // Longer than what was agreed on, yet a packet.
                    (High, DropReason::Malformed, of_class(High, own, OUTSIDE, 1421)),
                    // The device refuses it.
                    (High, DropReason::NoRoute, of_class(High, own, OUTSIDE, 1000)),
                    (Normal, DropReason::NoRoute, of_class(Normal, own, OUTSIDE, 1000)),
                ];
                let among = |reason| {
                    [High, Normal].map(|class| (class, reason, of_class(class, own, client(9), 700)))
                };
                let absent = if client_to_client { DropReason::NoRoute } else { DropReason::ClientToClient };
                losses.extend(among(absent));
                for (.., packet) in &losses {
                    port.deliver(packet.clone().as_mut_slice().into());
                }
                assert_drops(&sender.traffic.snapshot().drops, &losses);
                if client_to_client {
                    // The packet was taken from the sender: its loss is the receiver's.
                    let too_big = [High, Normal]
                        .map(|class| (class, DropReason::TooBig, of_class(class, own, client(3), 1400)));
                    for (.., packet) in &too_big {
                        port.deliver(packet.clone().as_mut_slice().into());
                    }
                    assert_drops(&other.traffic.snapshot().drops, &too_big);
                    losses.extend(too_big);
                }
                assert_drops(&hub.totals().drops, &losses);
            }
        });
    });
}

#[test]
fn what_waits_when_a_session_ends_is_counted_once() {
    isolated("server::port::tests::what_waits_when_a_session_ends_is_counted_once", || {
        block_on(async {
            let hub = hub(false);
            let limit = RateLimit::new(1000, 65_536).unwrap();
            let peer = peer(&hub, 2, 1420, Some(limit));
            let mut port = Uplink::new(Arc::clone(&hub), Arc::clone(&peer), tun());
            let mut losses = Vec::new();
            for class in [High, Normal, Normal] {
                let down = of_class(class, OUTSIDE, client(2), 1000);
                peer.queue.producer(clock::now()).push(&down, Offload::NONE);
                losses.push((class, DropReason::NotConnected, down));
                // Nobody releases it.
                let up = of_class(class, client(2), OUTSIDE, 900);
                port.deliver(up.clone().as_mut_slice().into());
                losses.push((class, DropReason::RateLimit, up));
            }
            assert_drops(&hub.totals().drops, &[]);
            hub.unregister(&peer.id, None, DisconnectReason::ConnectionLost);
            assert_drops(&hub.totals().drops, &losses);
            assert!(peer.queue.is_empty() && peer.held.is_empty());
            assert_drops(&peer.traffic.snapshot().drops, &losses);
            // A task that still holds the peer finds it closed.
            let late = of_class(Normal, OUTSIDE, client(2), 800);
            peer.queue.producer(clock::now()).push(&late, Offload::NONE);
            losses.push((Normal, DropReason::NotConnected, late));
            assert_drops(&peer.traffic.snapshot().drops, &losses);
        });
    });
}

/// Data of an established connection, and what a program sends that opens one.
fn data(from: [u8; 4], to: [u8; 4]) -> [Vec<u8>; 2] {
    [0x10, 0x02].map(|flags| {
        let mut packet = tcp(false, 5000, 7, flags, 600);
        packet[12..16].copy_from_slice(&from);
        packet[16..20].copy_from_slice(&to);
        packet
    })
}

#[test]
fn senders_hear_that_a_client_is_away() {
    isolated("server::port::tests::senders_hear_that_a_client_is_away", || {
        block_on(async {
            let (hub, tun) = (hub(true), tun());
            let netlink = Netlink::open().unwrap();
            netlink.add_address(tun.index(), [10, 8, 0, 1].into(), 24).unwrap();
            netlink.set_up(tun.index(), 1420).unwrap();
            let [away, gone, other] = [2, 3, 4].map(|number| peer(&hub, number, 1420, None));
            let before = clock::now() - 2 * HELD_MAX_WAIT;
            let lose = |peer: &Peer, packets: [Vec<u8>; 2]| {
                peer.queue.hold(before);
                let mut producer = peer.queue.producer(before);
                packets.iter().for_each(|packet| producer.push(packet, Offload::NONE));
            };

            // This host's program is told by the client, as nobody else's word would pass.
            lose(&away, data(client(1), client(2)));
            let mut next = of_class(Normal, OUTSIDE, client(2), 600);
            let mut beyond = of_class(Normal, OUTSIDE, client(9), 600);
            let records = [&mut next, &mut beyond].map(|packet| packet.as_mut_slice().into());
            Downlink::new(Arc::clone(&hub), Arc::clone(&tun)).route(records.into_iter());
            assert_eq!(unreachables_heard(), [1, 0]);
            assert!(other.queue.is_empty());

            // Another client is told by the server.
            lose(&gone, data(client(4), client(3)));
            let mut port = Uplink::new(Arc::clone(&hub), Arc::clone(&other), tun);
            port.deliver(of_class(Normal, client(4), client(3), 600).as_mut_slice().into());
            let mut batch = Batch::default();
            assert_eq!(other.queue.drain_into(clock::now(), &mut batch, Allowance::unlimited(usize::MAX)), 1);
            let (answer, _) = batch.iter().next().unwrap();
            let packet = IpPacket::parse(answer).unwrap();
            assert_eq!([packet.src(), packet.dst()], [client(1), client(4)].map(IpAddr::from));
            assert_eq!(packet.payload()[..2], [3, 1]);
            assert_eq!(unreachables_heard(), [1, 0]);
        });
    });
}
