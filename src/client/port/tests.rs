//! What the client drops is counted once, under its reason and class.

use serde_json::json;

use super::*;
use crate::network::Netlink;
use crate::network::namespace::{block_on, isolated, unreachables_heard};
use crate::packet::ip::tests::of_class;
use crate::packet::unreachable::tests::tcp;
use crate::qos::{Allowance, Batch, FlowHasher, HELD_MAX_WAIT};
use crate::report::{Event, EventSink, Events};
use crate::telemetry::Priority::{High, Normal};
use crate::tunnel::TunConfig;

struct Nobody;

impl EventSink for Nobody {
    fn emit(&self, _event: Event) {}
}

const OWN: [u8; 4] = [10, 8, 0, 2];
const THERE: [u8; 4] = [192, 0, 2, 1];

/// The counters as users see them.
fn report(traffic: &Traffic) -> serde_json::Value {
    serde_json::to_value(crate::report::DropReport::from(&traffic.snapshot().drops)).unwrap()
}

fn route(uplink: &mut Uplink, packets: &[Vec<u8>]) {
    let mut packets = packets.to_vec();
    uplink.route(packets.iter_mut().map(|packet| packet.as_mut_slice().into()));
}

fn tun() -> Arc<Tun> {
    Arc::new(Tun::create(&TunConfig { name: None, mtu: 1420, multi_queue: false }).unwrap())
}

#[test]
fn what_the_tun_gives_is_dropped_in_its_class() {
    isolated("client::port::tests::what_the_tun_gives_is_dropped_in_its_class", || {
        block_on(async {
            let (traffic, gate) = (Arc::<Traffic>::default(), Arc::new(Gate::new()));
            let queue = Arc::new(PacketQueue::new(Arc::clone(&traffic), FlowHasher::new(&mut rand::rng())));
            let mut uplink = Uplink::new(tun(), Arc::clone(&queue), Arc::clone(&gate));
            let router = Router::new("10.8.0.1/24".parse().unwrap(), None);
            gate.set(Some(Way { intake: Intake { mtu: 1420, offload: false }, router }));
            let mut batch = Batch::default();
            for _ in 0..800 {
                route(&mut uplink, &[of_class(Normal, OWN, THERE, 1400)]);
                queue.drain_into(clock::now(), &mut batch, Allowance::unlimited(1 << 20));
            }
            assert_eq!(report(&traffic), json!({ "packetsDropped": 0, "bytesDropped": 0, "drops": {} }));
            // The bulk transfer, a ping, another flow, and what is no packet.
            let lost = |length| {
                [
                    of_class(Normal, OWN, THERE, length),
                    of_class(High, OWN, THERE, length),
                    of_class(Normal, OWN, [192, 0, 2, 2], length),
                ]
            };
            route(&mut uplink, &lost(1421));
            route(&mut uplink, &[vec![0x45; 19]]);
            gate.set(None);
            route(&mut uplink, &lost(1000));
            assert_eq!(
                report(&traffic),
                json!({
                    "packetsDropped": 7,
                    "bytesDropped": 3 * 1421 + 19 + 3 * 1000,
                    "drops": {
                        "high": {
                            "too-big": { "packets": 1, "bytes": 1421 },
                            "not-connected": { "packets": 1, "bytes": 1000 },
                        },
                        "normal": {
                            "too-big": { "packets": 1, "bytes": 1421 },
                            "malformed": { "packets": 1, "bytes": 19 },
                            "not-connected": { "packets": 1, "bytes": 1000 },
                        },
                        "low": {
                            "too-big": { "packets": 1, "bytes": 1421 },
                            "not-connected": { "packets": 1, "bytes": 1000 },
                        },
                    },
                })
            );
        });
    });
}

#[test]
fn what_the_server_sends_is_dropped_in_its_class() {
    isolated("client::port::tests::what_the_server_sends_is_dropped_in_its_class", || {
        block_on(async {
            let traffic = Arc::<Traffic>::default();
            let shared = Arc::new(Shared::new(Events::new(Arc::new(Nobody))));
            let ingress = Ingress::from_server(1420, "10.8.0.2/24".parse().unwrap(), None);
            // Its interface is down: it refuses every packet.
            let mut port = Downlink::new(tun(), Arc::clone(&traffic), shared, Arc::default(), ingress);
            for mut lost in [
                of_class(High, THERE, [10, 8, 0, 3], 1000),
                of_class(Normal, THERE, [10, 8, 0, 3], 1000),
                of_class(High, THERE, OWN, 900),
                of_class(Normal, THERE, OWN, 900),
                of_class(Normal, THERE, OWN, 100),
                of_class(Normal, THERE, OWN, 1421),
                vec![0x60; 39],
            ] {
                port.deliver(lost.as_mut_slice().into());
            }
            port.delivered();
            assert_eq!(traffic.snapshot().packets_received, 0);
            assert_eq!(
                report(&traffic),
                json!({
                    "packetsDropped": 7,
                    "bytesDropped": 2000 + 1900 + 1421 + 39,
                    "drops": {
                        "high": {
                            "misdirected": { "packets": 1, "bytes": 1000 },
                            "no-route": { "packets": 2, "bytes": 1000 },
                        },
                        "normal": {
                            "misdirected": { "packets": 1, "bytes": 1000 },
                            "no-route": { "packets": 1, "bytes": 900 },
                            "malformed": { "packets": 2, "bytes": 1460 },
                        },
                    },
                })
            );
        });
    });
}

#[test]
fn programs_hear_that_there_is_no_connection() {
    isolated("client::port::tests::programs_hear_that_there_is_no_connection", || {
        block_on(async {
            let (tun, gate, traffic) = (tun(), Arc::new(Gate::new()), Arc::<Traffic>::default());
            let netlink = Netlink::open().unwrap();
            netlink.add_address(tun.index(), OWN.into(), 24).unwrap();
            netlink.set_up(tun.index(), 1420).unwrap();
            let queue = Arc::new(PacketQueue::new(traffic, FlowHasher::new(&mut rand::rng())));
            let mut uplink = Uplink::new(tun, Arc::clone(&queue), Arc::clone(&gate));
            let router = Router::new("10.8.0.1/24".parse().unwrap(), None);
            gate.set(Some(Way { intake: Intake { mtu: 1420, offload: false }, router }));
            let before = clock::now() - 2 * HELD_MAX_WAIT;
            queue.hold(before);
            // Data of an established connection, a program that opens one, and one that uses UDP.
            for mut packet in
                [tcp(false, 1, 7, 0x10, 600), tcp(false, 2, 7, 0x02, 0), of_class(Normal, OWN, THERE, 600)]
            {
                packet[12..16].copy_from_slice(&OWN);
                packet[16..20].copy_from_slice(&THERE);
                queue.producer(before).push(&packet, Offload::NONE);
            }
            route(&mut uplink, &[of_class(Normal, OWN, THERE, 600)]);
            assert_eq!(unreachables_heard(), [1, 0]);
            assert_eq!(queue.len(), 1);
            route(&mut uplink, &[of_class(Normal, OWN, THERE, 600)]);
            assert_eq!(unreachables_heard(), [1, 0], "once");
        });
    });
}
