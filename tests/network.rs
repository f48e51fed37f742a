//! The tunnel and the host's network against a real kernel, each test in namespaces of its own.

#![cfg(target_os = "linux")]
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking and tells what it skips"
)]

#[path = "support/namespace.rs"]
#[expect(dead_code, reason = "other tests need more of it")]
mod namespace;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, UdpSocket};
use std::path::Path;
use std::time::Duration;

use namespace::{Helper, attempt, block_on, has, ip_in, isolated, run, udp, udp_data};
use smartvpn::error::ErrorCode;
use smartvpn::network::{Guard, HostChanges, Netlink, RepairReport, delete_conntrack, repair};
use smartvpn::packet::{Offload, complete_checksum};
use smartvpn::tunnel::{READ_ROOM, Received, Tun, TunConfig};

const SOON: Duration = Duration::from_secs(5);
const ECHO_PORT: u16 = 7777;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn config(name: Option<&str>) -> TunConfig {
    TunConfig { name: name.map(str::to_owned), mtu: 1420, multi_queue: false }
}

/// A TUN that is up and has these addresses.
fn tun(name: &str, addresses: &[(&str, u8)]) -> Tun {
    let tun = Tun::create(&config(Some(name))).unwrap();
    let netlink = Netlink::open().unwrap();
    for (address, prefix) in addresses {
        netlink.add_address(tun.index(), ip(address), *prefix).unwrap();
    }
    netlink.set_up(tun.index(), 1420).unwrap();
    tun
}

/// The first UDP data that comes out of the TUN; nothing if none comes soon.
async fn next_data(tun: &Tun, patience: Duration) -> Option<Vec<u8>> {
    let read = async {
        loop {
            tun.readable().await.unwrap();
            let mut room = vec![0; READ_ROOM];
            match tun.try_read(&mut room) {
                Ok(Received { range, offload }) => {
                    let packet = &mut room[range];
                    complete_checksum(packet, offload);
                    if let Some(data) = udp_data(packet) {
                        return data.to_owned();
                    }
                }
                Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
            }
        }
    };
    tokio::time::timeout(patience, read).await.ok()
}

/// Everything about the host's network that we might change.
#[derive(Debug, PartialEq)]
struct Snapshot {
    routes: Vec<String>,
    addresses: String,
    ruleset: String,
    switches: BTreeMap<String, String>,
}

impl Snapshot {
    fn take() -> Self {
        let lines = |arguments| run("ip", arguments).lines().map(str::to_owned).collect::<Vec<_>>();
        let mut routes =
            [lines("-4 route show table all"), lines("-6 route show table all"), lines("rule")].concat();
        routes.sort();
        let mut switches = BTreeMap::new();
        for family in ["ipv4", "ipv6"] {
            collect(Path::new("/proc/sys/net").join(family).as_path(), &mut switches);
        }
        let ruleset = if has("nft") { run("nft", "list ruleset") } else { String::new() };
        Self { routes, addresses: run("ip", "-o addr").replace('\\', " "), ruleset, switches }
    }

    /// Tells the first difference, which is easier to read than both wholes.
    #[track_caller]
    fn assert_is(&self, before: &Self) {
        assert_eq!(before.routes, self.routes);
        assert_eq!(before.ruleset, self.ruleset);
        assert_eq!(before.addresses, self.addresses);
        for (path, value) in &before.switches {
            assert_eq!(Some(value), self.switches.get(path), "{path}");
        }
        assert_eq!(before.switches.len(), self.switches.len());
    }
}

fn collect(directory: &Path, switches: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, switches);
        } else if let Ok(value) = fs::read_to_string(&path) {
            switches.insert(path.display().to_string(), value);
        }
    }
}

/// A host with one network card, `eth0`, whose other end is a router that nobody answers at.
fn one_card() {
    run("ip", "link add eth0 type veth peer name far0");
    run("ip", "link set far0 up");
    run("ip", "link set eth0 up");
    run("ip", "addr add 192.0.2.2/24 dev eth0");
    run("ip", "route add default via 192.0.2.1");
    run("ip", "-6 addr add 2001:db8::2/64 dev eth0 nodad");
    run("ip", "-6 route add default via 2001:db8::1");
}

/// Waits until duplicate address detection and the like are over, so that snapshots compare.
fn settle() {
    for _ in 0..100 {
        if !run("ip", "-6 addr show tentative").contains("inet6") {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn way_to(address: &str) -> String {
    let output = attempt("ip", &format!("route get {address}"));
    String::from_utf8_lossy(if output.status.success() { &output.stdout } else { &output.stderr })
        .into_owned()
}

/// What the helper processes of the tests below do.
#[test]
fn helper() {
    match namespace::role().as_deref() {
        None => {}
        Some("echo") => echo(),
        Some("weak") => try_everything(),
        Some(state_dir) => set_up_and_wait(Path::new(state_dir)),
    }
}

/// Answers every datagram with the address that it came from.
fn echo() {
    let socket = UdpSocket::bind(("::", ECHO_PORT)).unwrap();
    println!("ready");
    let mut data = [0; 100];
    loop {
        let (_, from) = socket.recv_from(&mut data).unwrap();
        let seen = from.ip().to_canonical().to_string();
        let _ = socket.send_to(seen.as_bytes(), from);
    }
}

/// What comes of it without CAP_NET_ADMIN.
fn try_everything() {
    block_on(async {
        println!("tun {}", Tun::create(&config(Some("vpn0"))).err().unwrap().code());
        let mut changes = HostChanges::begin(None, "vpn0").await.unwrap();
        println!("pin {}", changes.pin_route(ip("203.0.113.7")).await.unwrap_err().code());
        if has("nft") {
            let net = "10.8.0.0/24".parse().unwrap();
            println!("nat {}", changes.masquerade("vpn0", net, None, false, None).await.unwrap_err().code());
        }
        println!("ready");
    });
}

/// A server and a client in one, to be killed.
fn set_up_and_wait(state_dir: &Path) {
    block_on(async {
        let tun = tun("victim", &[("10.8.0.1", 24), ("fd00:8::1", 64)]);
        let _changes = set_everything(&tun, Some(state_dir)).await;
        println!("ready");
        std::future::pending::<()>().await;
    });
}

async fn set_everything(tun: &Tun, state_dir: Option<&Path>) -> HostChanges {
    let mut changes = HostChanges::begin(state_dir, tun.name()).await.unwrap();
    changes.pin_route(ip("203.0.113.7")).await.unwrap();
    changes.pin_route(ip("2001:db8:7::7")).await.unwrap();
    changes.route_via_tunnel("0.0.0.0/0".parse().unwrap(), tun.index()).await.unwrap();
    changes.route_via_tunnel("198.51.100.0/24".parse().unwrap(), tun.index()).await.unwrap();
    changes.block_ipv6().await.unwrap();
    changes.enable_forwarding(tun.name(), true).await.unwrap();
    let (v4, v6) = ("10.8.0.0/24".parse().unwrap(), "fd00:8::/64".parse().unwrap());
    if has("nft") {
        changes.masquerade(tun.name(), v4, Some(v6), false, None).await.unwrap();
        changes.guard(tun.name(), guard()).await.unwrap();
    }
    changes
}

fn guard() -> Guard {
    let nets = |nets: [&str; 2]| nets.map(|net| net.parse().unwrap()).to_vec();
    Guard::Server {
        hidden: nets(["10.8.0.1/32", "fd00:8::1/128"]),
        subnets: nets(["10.8.0.0/24", "fd00:8::/64"]),
    }
}

fn wait_for_ready(helper: &mut Helper) {
    let mut lines = BufReader::new(helper.stdout()).lines();
    assert!(lines.any(|line| line.unwrap().ends_with("ready")), "the helper is not ready");
    // Somebody goes on reading, or the helper's next line would end it.
    std::thread::spawn(move || lines.for_each(drop));
}

#[test]
fn a_tun_comes_and_goes_with_its_value() {
    isolated("a_tun_comes_and_goes_with_its_value", || {
        block_on(async {
            let tun = tun("vpn.eu-1", &[("10.8.0.1", 24), ("fd00:8::1", 64)]);
            assert_eq!(tun.name(), "vpn.eu-1");
            let shown = run("ip", "-d addr show dev vpn.eu-1");
            assert!(shown.starts_with(&format!("{}: vpn.eu-1:", tun.index())), "{shown}");
            for part in ["mtu 1420", ",UP", "persist off", "inet 10.8.0.1/24", "inet6 fd00:8::1/64"] {
                assert!(shown.contains(part), "{part}: {shown}");
            }
            assert!(!shown.contains("fe80:") && !shown.contains("tentative"), "{shown}");
            assert_eq!(Netlink::open().unwrap().link_mtu(tun.index()).unwrap(), 1420);

            let again = Tun::create(&config(Some("vpn.eu-1"))).err().unwrap();
            assert_eq!(again.code(), ErrorCode::TunNameInUse);
            drop(tun);
            assert!(!attempt("ip", "link show dev vpn.eu-1").status.success());
        });
    });
}

#[test]
fn names_are_chosen_checked_and_never_taken_over() {
    isolated("names_are_chosen_checked_and_never_taken_over", || {
        block_on(async {
            let first = Tun::create(&config(None)).unwrap();
            let second = Tun::create(&config(None)).unwrap();
            assert_eq!((first.name(), second.name()), ("smartvpn0", "smartvpn1"));
            run("ip", "tuntap add mode tun name smartvpn2");
            assert_eq!(Tun::create(&config(None)).unwrap().name(), "smartvpn3");
            // Persistent and held by nobody: the kernel would give it to us.
            let idle = Tun::create(&config(Some("smartvpn2"))).err().unwrap();
            assert_eq!(idle.code(), ErrorCode::TunNameInUse);
            assert_eq!(Tun::create(&config(Some("lo"))).err().unwrap().code(), ErrorCode::TunNameInUse);
            assert_eq!(Tun::create(&config(Some("a/b"))).err().unwrap().code(), ErrorCode::InvalidArgument);
        });
    });
}

#[test]
fn packets_pass_both_ways_and_from_many_tasks() {
    isolated("packets_pass_both_ways_and_from_many_tasks", || {
        block_on(async {
            let tun = std::sync::Arc::new(tun("vpn0", &[("10.8.0.1", 24)]));
            let socket = UdpSocket::bind("10.8.0.1:5000").unwrap();
            socket.set_read_timeout(Some(SOON)).unwrap();
            // The very first packet too: no readiness is awaited.
            let tasks: Vec<_> = (0..8)
                .map(|task| {
                    let tun = std::sync::Arc::clone(&tun);
                    tokio::task::spawn_blocking(move || {
                        for _ in 0..16 {
                            let packet = udp((ip("10.8.0.2"), 4000 + task), (ip("10.8.0.1"), 5000), b"in");
                            tun.write(&packet, Offload::NONE).unwrap();
                        }
                    })
                })
                .collect();
            for task in tasks {
                task.await.unwrap();
            }
            let mut data = [0; 10];
            for _ in 0..8 * 16 {
                assert_eq!(socket.recv_from(&mut data).unwrap().0, 2);
            }
            socket.send_to(b"out", "10.8.0.2:4000").unwrap();
            assert_eq!(next_data(&tun, SOON).await.as_deref(), Some(&b"out"[..]));

            assert_eq!(
                tun.write(&[0x50, 0, 0], Offload::NONE).unwrap_err().kind(),
                std::io::ErrorKind::InvalidInput
            );
            run("ip", "link del vpn0");
            let lost = async {
                let mut room = vec![0; READ_ROOM];
                while tun.readable().await.is_ok() && tun.try_read(&mut room).is_err() && !tun.is_gone() {}
            };
            tokio::time::timeout(SOON, lost).await.expect("a deleted interface ends the reading");
        });
    });
}

#[test]
fn all_traffic_goes_into_the_tunnel_but_the_servers() {
    isolated("all_traffic_goes_into_the_tunnel_but_the_servers", || {
        block_on(async {
            one_card();
            settle();
            let before = Snapshot::take();
            {
                let tun = tun("vpn0", &[("10.8.0.2", 24)]);
                let mut changes = HostChanges::begin(None, tun.name()).await.unwrap();
                changes.pin_route(ip("203.0.113.7")).await.unwrap();
                changes.pin_route(ip("203.0.113.7")).await.unwrap();
                changes.pin_route(ip("2001:db8:7::7")).await.unwrap();
                // On the link, the host's own, and never in a tunnel.
                for near in ["192.0.2.9", "192.0.2.2", "127.0.0.1", "fe80::1"] {
                    changes.pin_route(ip(near)).await.unwrap();
                }
                changes.route_via_tunnel("0.0.0.0/0".parse().unwrap(), tun.index()).await.unwrap();
                changes.block_ipv6().await.unwrap();

                assert!(way_to("198.51.100.1").contains("dev vpn0"), "{}", way_to("198.51.100.1"));
                assert!(
                    way_to("203.0.113.7").contains("via 192.0.2.1 dev eth0"),
                    "{}",
                    way_to("203.0.113.7")
                );
                assert!(way_to("192.0.2.9").contains("dev eth0"));
                assert!(run("ip", "route show default").contains("via 192.0.2.1 dev eth0"));
                assert!(way_to("2001:db8:9::1").contains("No route to host"), "{}", way_to("2001:db8:9::1"));
                assert!(way_to("2001:db8:7::7").contains("via 2001:db8::1 dev eth0"));
                assert!(way_to("2001:db8::77").contains("dev eth0"), "the own link stays");
                // A server that becomes known only now still gets the way past the tunnel.
                changes.pin_route(ip("203.0.113.8")).await.unwrap();
                assert!(
                    way_to("203.0.113.8").contains("via 192.0.2.1 dev eth0"),
                    "{}",
                    way_to("203.0.113.8")
                );

                let way = Netlink::open().unwrap().route_to(ip("203.0.113.7")).unwrap();
                assert_eq!((way.gateway, way.ifname.as_str()), (Some(ip("192.0.2.1")), "eth0"));
                assert_eq!((way.mtu, way.source), (1500, Some(ip("192.0.2.2"))));
                changes.undo().await;
            }
            settle();
            Snapshot::take().assert_is(&before);
        });
    });
}

#[test]
fn routes_that_the_kernel_dropped_are_set_again() {
    isolated("routes_that_the_kernel_dropped_are_set_again", || {
        block_on(async {
            one_card();
            let tun = tun("vpn0", &[("10.8.0.2", 24)]);
            let netlink = Netlink::open().unwrap();
            let everything = "0.0.0.0/0".parse().unwrap();
            let mut changes = HostChanges::begin(None, tun.name()).await.unwrap();
            changes.pin_route(ip("203.0.113.7")).await.unwrap();
            changes.route_via_tunnel(everything, tun.index()).await.unwrap();

            // A new tunnel address: with the last one the kernel drops the interface's routes.
            netlink.delete_address(tun.index(), ip("10.8.0.2"), 24).unwrap();
            netlink.delete_address(tun.index(), ip("10.8.0.2"), 24).unwrap();
            netlink.add_address(tun.index(), ip("10.8.0.3"), 24).unwrap();
            netlink.add_address(tun.index(), ip("10.8.0.3"), 24).unwrap();
            assert!(way_to("198.51.100.1").contains("dev eth0"));
            changes.route_via_tunnel(everything, tun.index()).await.unwrap();
            assert!(way_to("198.51.100.1").contains("dev vpn0"));

            // The same without a gap, within a network and to another.
            let routes = || run("ip", "route show dev vpn0");
            for (old, new) in [("10.8.0.3", "10.8.0.4"), ("10.8.0.4", "10.8.0.4"), ("10.8.0.4", "10.9.0.5")] {
                netlink.replace_addresses(tun.index(), &[(ip(old), 24)], &[(ip(new), 24)]).unwrap();
                let shown = run("ip", "-4 -o addr show dev vpn0");
                assert!(shown.contains(&format!("inet {new}/24")) && shown.lines().count() == 1, "{shown}");
                assert!(
                    routes().contains("0.0.0.0/1") && routes().contains(&format!("src {new}")),
                    "{}",
                    routes()
                );
            }
            let (old, new) = ([(ip("10.9.0.5"), 24)], [(ip("10.9.0.6"), 32), (ip("fd00:8::2"), 64)]);
            netlink.replace_addresses(tun.index(), &old, &new).unwrap();
            assert!(run("ip", "addr show dev vpn0").contains("inet 10.9.0.6/32"));
            assert!(routes().contains("128.0.0.0/1"), "{}", routes());
            let newer = [(ip("10.9.0.6"), 32), (ip("fd00:8::2"), 120)];
            netlink.replace_addresses(tun.index(), &new, &newer).unwrap();
            assert!(run("ip", "addr show dev vpn0").contains("inet6 fd00:8::2/120"));

            // Another network: the old way is gone, the server is reached by the new one.
            run("ip", "addr flush dev eth0");
            run("ip", "addr add 100.64.0.2/24 dev eth0");
            run("ip", "route add default via 100.64.0.1");
            changes.pin_route(ip("203.0.113.7")).await.unwrap();
            assert!(way_to("203.0.113.7").contains("via 100.64.0.1 dev eth0"), "{}", way_to("203.0.113.7"));
            changes.undo().await;
            assert!(way_to("203.0.113.7").contains("via 100.64.0.1 dev eth0"));
            assert!(!run("ip", "route").contains("203.0.113.7"));
        });
    });
}

#[test]
fn unusual_ways_to_the_server_are_kept() {
    isolated("unusual_ways_to_the_server_are_kept", || {
        block_on(async {
            run("ip", "link add eth0 type veth peer name far0");
            run("ip", "link set far0 up");
            run("ip", "link set eth0 up");
            run("ip", "addr add 192.0.2.2/32 dev eth0");
            run("ip", "addr add 192.0.2.3/32 dev eth0");
            // As hosters do it: a gateway outside the own network, a source prescribed.
            run("ip", "route add default via 172.31.1.1 dev eth0 onlink src 192.0.2.3");
            let tun = tun("vpn0", &[("10.8.0.2", 24)]);
            let mut changes = HostChanges::begin(None, tun.name()).await.unwrap();
            changes.pin_route(ip("203.0.113.7")).await.unwrap();
            let pinned = run("ip", "route show 203.0.113.7");
            assert!(
                pinned.contains("via 172.31.1.1 dev eth0") && pinned.contains("src 192.0.2.3"),
                "{pinned}"
            );
            assert!(pinned.contains("onlink"), "{pinned}");
            changes.undo().await;
            assert_eq!(run("ip", "route show 203.0.113.7"), "");

            // IPv4 by way of an IPv6 router.
            run("ip", "-4 route replace default via inet6 fe80::1 dev eth0");
            let mut changes = HostChanges::begin(None, tun.name()).await.unwrap();
            changes.pin_route(ip("203.0.113.7")).await.unwrap();
            changes.route_via_tunnel("0.0.0.0/0".parse().unwrap(), tun.index()).await.unwrap();
            assert!(
                way_to("203.0.113.7").contains("via inet6 fe80::1 dev eth0"),
                "{}",
                way_to("203.0.113.7")
            );
            changes.undo().await;

            // Two ways at once: one of them is it.
            run(
                "ip",
                "-4 route replace default nexthop via 172.31.1.1 dev eth0 onlink nexthop via 172.31.1.2 dev eth0 onlink",
            );
            let mut changes = HostChanges::begin(None, tun.name()).await.unwrap();
            changes.route_via_tunnel("0.0.0.0/0".parse().unwrap(), tun.index()).await.unwrap();
            changes.pin_route(ip("203.0.113.7")).await.unwrap();
            assert!(way_to("203.0.113.7").contains("via 172.31.1."), "{}", way_to("203.0.113.7"));
            changes.undo().await;
        });
    });
}

#[test]
fn routes_of_others_are_respected() {
    isolated("routes_of_others_are_respected", || {
        block_on(async {
            one_card();
            settle();
            run("ip", "route add 0.0.0.0/1 via 192.0.2.1");
            run("ip", "route add 203.0.113.7 via 192.0.2.1");
            let before = Snapshot::take();
            {
                let tun = tun("vpn0", &[("10.8.0.2", 24)]);
                let mut changes = HostChanges::begin(None, tun.name()).await.unwrap();
                let taken =
                    changes.route_via_tunnel("0.0.0.0/0".parse().unwrap(), tun.index()).await.unwrap_err();
                assert_eq!(taken.code(), ErrorCode::RouteFailed);
                assert!(taken.to_string().contains("0.0.0.0/1"), "{taken}");
                // The tunnel's own network has its route already; the server has one of its own.
                changes.route_via_tunnel("10.8.0.0/24".parse().unwrap(), tun.index()).await.unwrap();
                changes.pin_route(ip("203.0.113.7")).await.unwrap();
                let unroutable = changes.pin_route(ip("240.0.0.1")).await;
                assert!(unroutable.is_ok(), "a default route leads there");
                changes.undo().await;
            }
            settle();
            Snapshot::take().assert_is(&before);
        });
    });
}

#[test]
fn networks_of_the_host_are_found() {
    isolated("networks_of_the_host_are_found", || {
        block_on(async {
            one_card();
            run("ip", "addr add 10.9.0.1 peer 10.9.0.2 dev eth0");
            run("ip", "route add 10.10.5.0/24 via 192.0.2.1");
            run("ip", "route add unreachable 10.11.0.0/16");
            let tun = tun("vpn0", &[("10.8.0.1", 24)]);
            let netlink = Netlink::open().unwrap();
            let networks = netlink.host_networks().unwrap();
            for (interface, net) in [
                ("lo", "127.0.0.0/8"),
                ("eth0", "192.0.2.0/24"),
                ("eth0", "10.9.0.2/32"),
                ("vpn0", "10.8.0.0/24"),
                ("eth0", "2001:db8::/64"),
            ] {
                assert!(
                    networks.contains(&(interface.to_owned(), net.parse().unwrap())),
                    "{net}: {networks:?}"
                );
            }
            let routes = netlink.routes().unwrap();
            assert!(routes.iter().any(|route| route.destination.to_string() == "0.0.0.0/0"
                && route.gateway == Some(ip("192.0.2.1"))));
            assert!(
                routes.iter().all(|route| route.destination.to_string() != "192.0.2.2/32"),
                "no local ones"
            );

            let check = |net: &str, own| {
                netlink.check_subnet(net.parse().unwrap(), own).map_err(|error| error.to_string())
            };
            assert!(check("10.7.0.0/24", None).is_ok());
            assert!(check("10.0.0.0/24", None).is_ok());
            for taken in ["192.0.0.0/16", "192.0.2.128/25", "10.9.0.0/24", "10.10.0.0/16", "2001:db8::/96"] {
                let error = check(taken, None).unwrap_err();
                assert!(error.contains("eth0"), "{error}");
            }
            // A wider route elsewhere does not matter, nor does the own interface.
            assert!(check("10.10.5.128/25", None).is_ok());
            assert!(check("10.8.0.0/24", None).unwrap_err().contains("vpn0"));
            assert!(check("10.8.0.0/24", Some(tun.index())).is_ok());

            run("ip", "route del default");
            let error = netlink.route_to(ip("203.0.113.7")).unwrap_err();
            assert_eq!(error.code(), ErrorCode::Unreachable);
        });
    });
}

/// A peer with an echo service behind `eth0`; `net` is its network, at .9.
fn peer() -> Helper {
    let mut peer = Helper::elsewhere("helper", "echo");
    wait_for_ready(&mut peer);
    run("ip", &format!("link add eth0 type veth peer name eth0 netns {}", peer.id()));
    run("ip", "link set eth0 up");
    run("ip", "addr add 192.0.2.1/24 dev eth0");
    run("ip", "-6 addr add 2001:db8::1/64 dev eth0 nodad");
    ip_in(&peer, "link set eth0 up");
    ip_in(&peer, "addr add 192.0.2.9/24 dev eth0");
    ip_in(&peer, "-6 addr add 2001:db8::9/64 dev eth0 nodad");
    settle();
    peer
}

/// What the peer sees as the sender of a client's datagram.
async fn seen_by(tun: &Tun, client: &str, peer: &str) -> Option<String> {
    for _ in 0..5 {
        // The first one may be lost to address resolution.
        tun.write(&udp((ip(client), 4000), (ip(peer), ECHO_PORT), b"who am I?"), Offload::NONE).unwrap();
        if let Some(data) = next_data(tun, Duration::from_millis(500)).await {
            return Some(String::from_utf8(data).unwrap());
        }
    }
    None
}

#[test]
fn clients_are_masqueraded_and_the_host_is_left_as_found() {
    isolated("clients_are_masqueraded_and_the_host_is_left_as_found", || {
        if !has("nft") {
            return;
        }
        let _peer = peer();
        run("nft", "add table inet foreign");
        run("nft", "add chain inet foreign keep");
        run("nft", "add rule inet foreign keep accept");
        let before = Snapshot::take();
        block_on(async {
            let tun = tun("vpn0", &[("10.8.0.1", 24), ("fd00:8::1", 64)]);
            let state = tempfile::tempdir().unwrap();
            let mut changes = HostChanges::begin(Some(state.path()), tun.name()).await.unwrap();
            changes.enable_forwarding(tun.name(), true).await.unwrap();
            let (v4, v6) = ("10.8.0.0/24".parse().unwrap(), "fd00:8::/64".parse().unwrap());
            changes.masquerade(tun.name(), v4, Some(v6), false, None).await.unwrap();
            changes.masquerade(tun.name(), v4, Some(v6), false, None).await.unwrap();
            assert_eq!(run("nft", "list ruleset").matches("masquerade").count(), 4, "replaced, not added to");

            assert_eq!(seen_by(&tun, "10.8.0.2", "192.0.2.9").await.as_deref(), Some("192.0.2.1"));
            assert_eq!(seen_by(&tun, "fd00:8::2", "2001:db8::9").await.as_deref(), Some("2001:db8::1"));
            assert_eq!(changes.foreign_forward_drops(tun.name()).await, []);

            forget_connections(&tun).await;
            clients_meet_only_if_they_may(&tun, &mut changes).await;
            let mode = fs::metadata(state.path().join(journal_name(tun.name()))).unwrap();
            assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode.permissions()) & 0o777, 0o600);
            changes.undo().await;
            let left: Vec<_> =
                fs::read_dir(state.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            assert_eq!(left, ["lock"]);
        });
        Snapshot::take().assert_is(&before);
    });
}

#[test]
fn tables_that_others_take_away_are_written_anew() {
    isolated("tables_that_others_take_away_are_written_anew", || {
        if !has("nft") {
            return;
        }
        one_card();
        settle();
        let before = Snapshot::take();
        block_on(async {
            let tun = tun("vpn0", &[("10.8.0.1", 24), ("fd00:8::1", 64)]);
            let state = tempfile::tempdir().unwrap();
            let mut changes = HostChanges::begin(Some(state.path()), tun.name()).await.unwrap();
            let net = "10.8.0.0/24".parse().unwrap();
            changes.masquerade(tun.name(), net, None, false, Some(8443)).await.unwrap();
            changes.guard(tun.name(), guard()).await.unwrap();
            let ruleset = || {
                let text = run("nft", "list ruleset");
                let mut tables: Vec<_> =
                    text.split("\ntable ").map(|table| table.trim().to_owned()).collect();
                tables[0] = tables[0].trim_start_matches("table ").to_owned();
                tables.sort();
                tables
            };
            let whole = ruleset();
            assert_eq!(whole.len(), 3, "{whole:?}");
            for flush in ["flush ruleset", "delete table arp smartvpn_guard-vpn0", "flush ruleset"] {
                run("nft", flush);
                assert_ne!(ruleset(), whole);
                for _ in 0..100 {
                    if ruleset() == whole {
                        break;
                    }
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                assert_eq!(ruleset(), whole, "after {flush}");
            }
            // What is withdrawn meanwhile, or written anew by ourselves, is not brought back.
            run("nft", "flush ruleset");
            changes.unmasquerade().await.unwrap();
            tokio::time::sleep(Duration::from_secs(1)).await;
            let names = run("nft", "list tables");
            assert_eq!(names, "table inet smartvpn_guard-vpn0\ntable arp smartvpn_guard-vpn0\n");
            run("nft", "flush ruleset");
            changes.undo().await;
            tokio::time::sleep(Duration::from_millis(500)).await;
        });
        Snapshot::take().assert_is(&before);
    });
}

fn journal_name(instance: &str) -> String {
    let namespace = std::os::unix::fs::MetadataExt::ino(&fs::metadata("/proc/self/ns/net").unwrap());
    format!("{instance}@{namespace}.json")
}

/// Only one address's entries go, and its connections with them.
async fn forget_connections(tun: &Tun) {
    if fs::read("/proc/net/nf_conntrack").is_err() {
        return println!("skipped: the kernel does not show its connections");
    }
    assert!(seen_by(tun, "10.8.0.3", "192.0.2.9").await.is_some());
    let entries = || fs::read_to_string("/proc/net/nf_conntrack").unwrap();
    assert!(entries().contains("src=10.8.0.2 ") && entries().contains("src=10.8.0.3 "), "{}", entries());
    assert_eq!(delete_conntrack(ip("10.8.0.2")).await.unwrap(), 1);
    assert!(!entries().contains("src=10.8.0.2 ") && entries().contains("src=10.8.0.3 "), "{}", entries());
    assert_eq!(delete_conntrack(ip("10.8.0.2")).await.unwrap(), 0);
    // As the destination of an answer it is the address's too.
    assert_eq!(delete_conntrack(ip("fd00:8::2")).await.unwrap(), 1);
    assert!(seen_by(tun, "10.8.0.2", "192.0.2.9").await.is_some(), "a new connection works");
}

async fn clients_meet_only_if_they_may(tun: &Tun, changes: &mut HostChanges) {
    let between = udp((ip("10.8.0.2"), 4000), (ip("10.8.0.3"), 4000), b"neighbour");
    tun.write(&between, Offload::NONE).unwrap();
    assert_eq!(next_data(tun, Duration::from_millis(300)).await, None);
    changes.masquerade(tun.name(), "10.8.0.0/24".parse().unwrap(), None, true, None).await.unwrap();
    tun.write(&between, Offload::NONE).unwrap();
    assert_eq!(next_data(tun, SOON).await.as_deref(), Some(&b"neighbour"[..]));
}

#[test]
fn the_next_server_takes_over_the_translation_of_a_killed_one() {
    isolated("the_next_server_takes_over_the_translation_of_a_killed_one", || {
        if !has("nft") {
            return;
        }
        one_card();
        settle();
        let before = Snapshot::take();
        let state = tempfile::tempdir().unwrap();
        let tables = || run("nft", "list tables");
        for masquerades_again in [true, false] {
            let mut victim = Helper::here("helper", state.path().to_str().unwrap());
            wait_for_ready(&mut victim);
            victim.kill();
            assert!(tables().contains("smartvpn-victim"), "{}", tables());
            block_on(async {
                let mut next = HostChanges::take_over(Some(state.path()), "victim").await.unwrap();
                assert!(tables().contains("smartvpn-victim"), "flows still pass it");
                assert!(
                    !Snapshot::take().routes.iter().any(|route| route.contains("203.0.113.7")),
                    "all else is undone"
                );
                if masquerades_again {
                    let net = "10.8.0.0/24".parse().unwrap();
                    next.masquerade("victim", net, None, false, None).await.unwrap();
                    assert!(tables().contains("smartvpn-victim"));
                } else {
                    next.unmasquerade().await.unwrap();
                    assert!(!tables().contains("smartvpn-victim"));
                }
                next.undo().await;
            });
            Snapshot::take().assert_is(&before);
        }
    });
}

#[test]
fn what_a_killed_process_left_is_repaired() {
    isolated("what_a_killed_process_left_is_repaired", || {
        one_card();
        settle();
        if has("nft") {
            run("nft", "add table ip foreign");
        }
        let before = Snapshot::take();
        let state = tempfile::tempdir().unwrap();
        for by_next_start in [false, true] {
            let mut victim = Helper::here("helper", state.path().to_str().unwrap());
            wait_for_ready(&mut victim);
            block_on(async {
                let alive = repair(state.path()).await;
                assert_eq!(alive, RepairReport::default(), "the living are not touched");
                let name_held = HostChanges::begin(Some(state.path()), "victim").await.err().unwrap();
                assert_eq!(name_held.code(), ErrorCode::TunNameInUse);
            });
            victim.kill();
            let dirty = Snapshot::take();
            assert!(dirty.routes.iter().any(|route| route.contains("203.0.113.7")), "{:?}", dirty.routes);
            assert!(dirty.routes.iter().all(|route| !route.contains("dev victim")), "{:?}", dirty.routes);
            block_on(async {
                if by_next_start {
                    HostChanges::begin(Some(state.path()), "another").await.unwrap().undo().await;
                } else {
                    let report = repair(state.path()).await;
                    assert_eq!((report.repaired, report.failed), (vec!["victim".to_owned()], vec![]));
                }
            });
            Snapshot::take().assert_is(&before);
        }
    });
}

#[test]
fn the_last_of_two_instances_switches_forwarding_off() {
    isolated("the_last_of_two_instances_switches_forwarding_off", || {
        one_card();
        settle();
        let before = Snapshot::take();
        let state = tempfile::tempdir().unwrap();
        let forwarding = || fs::read_to_string("/proc/sys/net/ipv4/conf/eth0/forwarding").unwrap();
        block_on(async {
            let one = tun("vpn0", &[("10.8.0.1", 24)]);
            let two = tun("vpn1", &[("10.9.0.1", 24)]);
            let first = set_up_server(&one, state.path(), "10.8.0.0/24").await;
            let second = set_up_server(&two, state.path(), "10.9.0.0/24").await;
            first.undo().await;
            assert_eq!(forwarding(), "1\n");
            assert!(run("ip", "route").contains("203.0.113.7"), "the second one's server keeps its way");
            if has("nft") {
                let ruleset = run("nft", "list ruleset");
                assert!(!ruleset.contains("smartvpn-vpn0") && ruleset.contains("smartvpn-vpn1"), "{ruleset}");
            }
            // A third one that comes in between inherits the true old value as well.
            let third = set_up_server(&one, state.path(), "10.8.0.0/24").await;
            second.undo().await;
            assert_eq!(forwarding(), "1\n");
            // Dropped, not undone: the same.
            drop(third);
            assert_eq!(forwarding(), "0\n");
        });
        Snapshot::take().assert_is(&before);
    });
}

async fn set_up_server(tun: &Tun, state_dir: &Path, net: &str) -> HostChanges {
    let mut changes = HostChanges::begin(Some(state_dir), tun.name()).await.unwrap();
    changes.enable_forwarding(tun.name(), true).await.unwrap();
    changes.pin_route(ip("203.0.113.7")).await.unwrap();
    changes.block_ipv6().await.unwrap();
    if has("nft") {
        changes.masquerade(tun.name(), net.parse().unwrap(), None, false, None).await.unwrap();
    }
    changes
}

#[test]
fn what_others_set_later_stays() {
    isolated("what_others_set_later_stays", || {
        one_card();
        let state = tempfile::tempdir().unwrap();
        let switch = |path: &str| fs::read_to_string(Path::new("/proc/sys/net").join(path)).unwrap();
        block_on(async {
            let tun = tun("vpn0", &[("10.8.0.1", 24)]);
            let changes = set_up_server(&tun, state.path(), "10.8.0.0/24").await;
            // Docker comes and makes a router of the host.
            run("sysctl", "-qw net.ipv4.ip_forward=1");
            run("ip", "route del 203.0.113.7");
            run("ip", "route add 203.0.113.7 via 192.0.2.99");
            changes.undo().await;
            assert_eq!(switch("ipv4/conf/eth0/forwarding"), "1\n");
            assert!(run("ip", "route").contains("203.0.113.7 via 192.0.2.99"));
        });
    });
}

#[test]
fn an_aborted_step_is_undone() {
    isolated("an_aborted_step_is_undone", || {
        one_card();
        settle();
        let before = Snapshot::take();
        block_on(async {
            let tun = tun("vpn0", &[("10.8.0.1", 24)]);
            let mut changes = HostChanges::begin(None, tun.name()).await.unwrap();
            changes.pin_route(ip("203.0.113.7")).await.unwrap();
            let step = changes.enable_forwarding(tun.name(), true);
            // Polled once and dropped: the step is under way on another thread.
            let polled = tokio::time::timeout(Duration::ZERO, step).await;
            if polled.is_err() {
                let ended = changes.block_ipv6().await.unwrap_err();
                assert_eq!(ended.code(), ErrorCode::Aborted);
            }
            drop(changes);
        });
        // The runtime has waited for the thread.
        settle();
        Snapshot::take().assert_is(&before);
    });
}

#[test]
fn a_foreign_policy_is_told_with_the_command_that_mends_it() {
    isolated("a_foreign_policy_is_told_with_the_command_that_mends_it", || {
        if !has("nft") {
            return;
        }
        let _peer = peer();
        run("ip", "route add default via 192.0.2.9");
        nft_file(
            "table inet filter {\n chain forward {\n type filter hook forward priority 0; policy drop;\n }\n}\n",
        );
        block_on(async {
            let tun = tun("vpn0", &[("10.8.0.1", 24)]);
            let mut changes = HostChanges::begin(None, tun.name()).await.unwrap();
            changes.enable_forwarding(tun.name(), false).await.unwrap();
            changes.masquerade(tun.name(), "10.8.0.0/24".parse().unwrap(), None, false, None).await.unwrap();
            let warnings = changes.foreign_forward_drops(tun.name()).await;
            assert_eq!(warnings.len(), 1, "{warnings:?}");
            assert_eq!(seen_by(&tun, "10.8.0.2", "192.0.2.9").await, None);
            for command in warnings[0].command.split(" && ") {
                let statement = command.strip_prefix("nft '").unwrap().strip_suffix('\'').unwrap();
                nft_file(statement);
            }
            assert_eq!(changes.foreign_forward_drops(tun.name()).await, []);
            assert_eq!(seen_by(&tun, "10.8.0.2", "192.0.2.9").await.as_deref(), Some("192.0.2.1"));
            changes.undo().await;
        });
    });
}

fn nft_file(rules: &str) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(rules.as_bytes()).unwrap();
    run("nft", &format!("-f {}", file.path().display()));
}

#[test]
fn read_only_switches_are_named() {
    isolated("read_only_switches_are_named", || {
        one_card();
        run("mount", "--bind /proc/sys /proc/sys");
        if !attempt("mount", "-o remount,bind,ro /proc/sys").status.success() {
            return println!("skipped: /proc/sys cannot be made read-only here");
        }
        block_on(async {
            let tun = tun("vpn0", &[("10.8.0.1", 24)]);
            let mut changes = HostChanges::begin(None, tun.name()).await.unwrap();
            let error = changes.enable_forwarding(tun.name(), false).await.unwrap_err();
            assert_eq!(error.code(), ErrorCode::NatUnavailable);
            assert!(error.to_string().contains("/proc/sys/net/ipv4/conf/"), "{error}");
        });
    });
}

#[test]
fn what_the_host_lacks_is_told_with_what_to_do() {
    isolated("what_the_host_lacks_is_told_with_what_to_do", || {
        one_card();
        let mut weak = Helper::weak("helper", "weak");
        let lines = BufReader::new(weak.stdout()).lines().map(Result::unwrap);
        let told: Vec<_> = lines.take_while(|line| line != "ready").collect();
        for what in ["tun", "pin", "nat"] {
            let expected = format!("{what} permission-denied");
            assert!(
                told.iter().any(|line| line.ends_with(&expected)) || what == "nat" && !has("nft"),
                "{told:?}"
            );
        }

        block_on(async {
            run("mount", "-t tmpfs none /dev/net");
            let error = Tun::create(&config(None)).err().unwrap();
            assert_eq!(error.code(), ErrorCode::TunUnavailable);
            assert!(error.to_string().contains("modprobe tun"), "{error}");
            assert_eq!(fs::read_dir("/dev/net").unwrap().count(), 0, "no node is made");

            for directory in ["/usr/sbin", "/sbin", "/usr/bin", "/bin", "/usr/local/sbin", "/usr/local/bin"] {
                if Path::new(directory).join("nft").exists() {
                    run("mount", &format!("--bind /dev/null {directory}/nft"));
                }
            }
            let mut changes = HostChanges::begin(None, "vpn0").await.unwrap();
            let net = "10.8.0.0/24".parse().unwrap();
            let error = changes.masquerade("vpn0", net, None, false, None).await.unwrap_err();
            assert_eq!(error.code(), ErrorCode::NatUnavailable);
            assert!(error.to_string().contains("apt-get install nftables"), "{error}");
            assert_eq!(changes.foreign_forward_drops("vpn0").await, []);
        });
    });
}
