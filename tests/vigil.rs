//! What tells a client to look at its connection, against a real kernel: changes of the host's network, each
//! test in namespaces of its own, and a process that stood still.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/namespace.rs"]
#[allow(dead_code, reason = "shared with other tests")]
mod namespace;

use std::io::{BufRead, BufReader, Write};
use std::net::IpAddr;
use std::sync::mpsc;
use std::time::Duration;

use namespace::{Helper, block_on, isolated, role, run};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};
use smartvpn::engine::{Alarm, Vigil};
use smartvpn::network::{Change, HostChanges, Monitor, Netlink};
use smartvpn::tunnel::{Tun, TunConfig};
use tokio::time::{Instant, timeout};

/// A change is reported within a second; the rest is for a busy machine.
const SOON: Duration = Duration::from_secs(5);
/// The kernel may tell of a carrier a second late.
const QUIET: Duration = Duration::from_millis(1300);

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A host with a network card, `eth0`, whose other end is a router that nobody answers at.
fn one_card() {
    run("ip", "link add eth0 type veth peer name far0");
    for name in ["eth0", "far0"] {
        // No address of the kernel's own making, which would come when it likes.
        run("ip", &format!("link set {name} addrgenmode none"));
        run("ip", &format!("link set {name} up"));
    }
    run("ip", "addr add 192.0.2.2/24 dev eth0");
    run("ip", "route add default via 192.0.2.1");
    run("ip", "-6 addr add 2001:db8::2/64 dev eth0 nodad");
    run("ip", "-6 route add default via 2001:db8::1");
}

/// The reports until none comes for a while.
async fn reports(monitor: &mut Monitor) -> Vec<Change> {
    let mut reports = Vec::new();
    while let Ok(change) = timeout(QUIET, monitor.changed()).await {
        reports.push(change);
    }
    reports
}

/// Runs `ip` with each of these lines, as fast as it can.
fn batch(lines: impl Iterator<Item = String>) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    lines.for_each(|line| writeln!(file, "{line}").unwrap());
    run("ip", &format!("-batch {}", file.path().display()));
}

/// An address that comes and goes, so often.
fn storm(times: u32) -> impl Iterator<Item = String> {
    (0..times).map(|time| {
        let verb = if time % 2 == 0 { "add" } else { "del" };
        format!("addr {verb} 198.51.100.{}/32 dev eth0", time / 2 % 200 + 1)
    })
}

/// What the helper processes of the tests below do.
#[test]
fn helper() {
    let Some(role) = role() else { return };
    block_on(async {
        let mut vigil = if role == "deaf" { without_descriptors(|| Vigil::open(0)) } else { Vigil::open(0) };
        println!("\nready");
        loop {
            match vigil.next().await {
                Alarm::Network => println!("network"),
                Alarm::Woke(lost) => println!("woke {}", lost.as_millis()),
            }
        }
    });
}

/// Runs `body` while the process can open nothing.
fn without_descriptors<T>(body: impl FnOnce() -> T) -> T {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(0), ..limit }).unwrap();
    let outcome = body();
    setrlimit(Resource::Nofile, limit).unwrap();
    outcome
}

/// The lines that a helper prints once it is ready.
fn alarms(helper: &mut Helper) -> mpsc::Receiver<String> {
    let mut lines = BufReader::new(helper.stdout()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.ends_with("ready")), "the helper is not ready");
    let (sender, alarms) = mpsc::channel();
    std::thread::spawn(move || lines.all(|line| sender.send(line).is_ok()));
    alarms
}

#[test]
fn each_change_is_reported() {
    isolated("each_change_is_reported", || {
        one_card();
        block_on(async {
            let mut monitor = Monitor::open().unwrap();
            reports(&mut monitor).await;
            for (change, of) in [
                ("addr add 192.0.2.3/24 dev eth0", "address"),
                ("addr del 192.0.2.3/24 dev eth0", "address"),
                ("-6 addr add 2001:db8::3/64 dev eth0 nodad", "address"),
                ("-6 addr del 2001:db8::3/64 dev eth0", "address"),
                ("route add 198.51.100.0/24 via 192.0.2.1", "route"),
                ("route del 198.51.100.0/24", "route"),
                ("-6 route add unreachable 2001:db8:9::/48", "route"),
                ("-6 route del unreachable 2001:db8:9::/48", "route"),
                ("link set far0 down", "link"),
                ("link set far0 up", "link"),
                ("link set eth0 down", "link"),
                ("link set eth0 up", "link"),
                ("link del eth0", "link"),
            ] {
                run("ip", change);
                let first = timeout(SOON, monitor.changed()).await.unwrap_or_else(|_| panic!("{change}"));
                let rest = reports(&mut monitor).await;
                let is_told = |report: &Change| match of {
                    "address" => report.addresses,
                    "route" => report.routes,
                    _ => report.links,
                };
                assert!(is_told(&first) || rest.iter().any(is_told), "{change}: {first:?} {rest:?}");
                // What follows the first message, and a carrier that comes later.
                assert!(rest.len() <= 2, "{change}: {first:?} {rest:?}");
            }
        });
    });
}

#[test]
fn what_is_no_change_is_not_reported() {
    isolated("what_is_no_change_is_not_reported", || {
        one_card();
        block_on(async {
            let mut monitor = Monitor::open().unwrap();
            let tun = TunConfig { name: Some("vpn0".to_owned()), mtu: 1420, multi_queue: false };
            let tun = Tun::create(&tun).unwrap();
            monitor.ignore(tun.index());
            reports(&mut monitor).await;

            let netlink = Netlink::open().unwrap();
            netlink.add_address(tun.index(), ip("10.8.0.2"), 24).unwrap();
            netlink.add_address(tun.index(), ip("fd00:8::2"), 64).unwrap();
            netlink.set_up(tun.index(), 1420).unwrap();
            let mut changes = HostChanges::begin(None, tun.name()).await.unwrap();
            changes.pin_route(ip("203.0.113.7")).await.unwrap();
            changes.route_via_tunnel("0.0.0.0/0".parse().unwrap(), tun.index()).await.unwrap();
            run("ip", "route add 198.51.100.0/24 dev vpn0");
            run("ip", "route del 198.51.100.0/24 dev vpn0");
            run("ip", "link set vpn0 down");
            assert_eq!(reports(&mut monitor).await, [], "it is our own");

            run("ip", "link set eth0 alias uplink");
            run("ip", "addr change 192.0.2.2/24 dev eth0 valid_lft 3600 preferred_lft 3600");
            run("ip", "link add idle0 type veth peer name idle1");
            run("ip", "neigh add 192.0.2.1 lladdr 02:00:00:00:00:01 dev eth0");
            assert_eq!(reports(&mut monitor).await, [], "nothing is new");

            run("ip", "addr add 192.0.2.3/24 dev eth0");
            assert!(timeout(SOON, monitor.changed()).await.unwrap().addresses, "it still hears");
        });
    });
}

#[test]
fn a_caller_that_often_turns_away_misses_nothing() {
    isolated("a_caller_that_often_turns_away_misses_nothing", || {
        one_card();
        block_on(async {
            let mut monitor = Monitor::open().unwrap();
            reports(&mut monitor).await;
            // The second one falls into the pause after the first one's report.
            for (change, is_link) in [("addr add 192.0.2.3/24 dev eth0", false), ("link set eth0 down", true)]
            {
                run("ip", change);
                let told = timeout(SOON, async {
                    let is_told = |report: Change| if is_link { report.links } else { report.addresses };
                    while !timeout(Duration::from_millis(1), monitor.changed()).await.is_ok_and(is_told) {}
                });
                told.await.unwrap_or_else(|_| panic!("{change}"));
            }
        });
    });
}

#[test]
fn a_storm_gives_few_reports() {
    isolated("a_storm_gives_few_reports", || {
        one_card();
        block_on(async {
            let mut monitor = Monitor::open().unwrap();
            reports(&mut monitor).await;
            let begin = Instant::now();
            let raging = std::thread::spawn(|| batch(storm(200)));
            let mut count = 0;
            let mut last = begin;
            while timeout(QUIET, monitor.changed()).await.is_ok() {
                count += 1;
                last = Instant::now();
            }
            raging.join().unwrap();
            let most = 1 + (last - begin).as_millis() / 100;
            assert!(count >= 1 && count <= most, "{count} reports, of {most} at most");
        });
    });
}

#[test]
fn what_was_lost_counts_as_a_change() {
    isolated("what_was_lost_counts_as_a_change", || {
        one_card();
        block_on(async {
            let mut monitor = Monitor::open().unwrap();
            reports(&mut monitor).await;
            // More than the socket holds while nobody reads.
            batch(storm(4000).chain(["link set eth0 down".to_owned()]));
            let lost = reports(&mut monitor).await;
            assert!(lost.iter().any(|report| report.overrun) && lost.len() <= 3, "{lost:?}");
            run("ip", "link set far0 alias noise");
            assert_eq!(reports(&mut monitor).await, [], "all is known again");
            run("ip", "link set eth0 up");
            let heard = reports(&mut monitor).await;
            assert!(heard.iter().any(|report| report.links), "that it was down was lost: {heard:?}");
        });
    });
}

#[test]
fn the_way_to_a_server_is_told_as_it_is() {
    isolated("the_way_to_a_server_is_told_as_it_is", || {
        one_card();
        let netlink = Netlink::open().unwrap();
        let has = |address| netlink.has_address(ip(address)).unwrap();
        let source = |remote| netlink.source_to(ip(remote)).unwrap();
        let (server, server6) = ("203.0.113.7", "2001:db8:7::7");
        assert!(has("192.0.2.2") && has("2001:db8::2") && has("::ffff:192.0.2.2") && has("127.0.0.1"));
        assert!(!has("192.0.2.3") && !has("192.0.2.0") && !has("2001:db8::3"));
        assert_eq!(source(server), Some(ip("192.0.2.2")));
        assert_eq!(source("::ffff:203.0.113.7"), Some(ip("192.0.2.2")));
        assert_eq!(source(server6), Some(ip("2001:db8::2")));
        assert_eq!(source("127.0.0.1"), Some(ip("127.0.0.1")));

        run("ip", "link add wlan0 type veth peer name far1");
        run("ip", "link set wlan0 up");
        run("ip", "addr add 198.51.100.2/24 dev wlan0");
        run("ip", "route replace default via 198.51.100.1");
        assert_eq!(source(server), Some(ip("198.51.100.2")), "it leaves by another interface");
        assert!(has("192.0.2.2"), "the old address stays");
        run("ip", "addr del 192.0.2.2/24 dev eth0");
        assert!(!has("192.0.2.2"));
        run("ip", "route del default");
        assert_eq!(source(server), None);
        for kind in ["blackhole", "unreachable", "prohibit"] {
            run("ip", &format!("route add {kind} {server}"));
            run("ip", &format!("-6 route add {kind} {server6}"));
            assert_eq!(source(server), None, "{kind}");
            assert_eq!(source(server6), None, "{kind}");
            run("ip", &format!("route del {kind} {server}"));
            run("ip", &format!("-6 route del {kind} {server6}"));
        }
        assert_eq!(source(server6), Some(ip("2001:db8::2")));
        run("ip", "link set eth0 down");
        assert_eq!(source(server6), None);
        assert!(!has("2001:db8::2"), "IPv6 addresses go with the link");
    });
}

#[test]
fn a_process_that_stood_still_and_a_changed_network_raise_an_alarm() {
    isolated("a_process_that_stood_still_and_a_changed_network_raise_an_alarm", || {
        one_card();
        let mut helpers = ["vigil", "deaf"].map(|role| Helper::here("helper", role));
        let [hearing, deaf] = helpers.each_mut().map(alarms);
        let signal = |helper: &Helper, signal| {
            let pid = Pid::from_raw(i32::try_from(helper.id()).unwrap()).unwrap();
            kill_process(pid, signal).unwrap();
        };
        std::thread::sleep(QUIET);
        helpers.iter().for_each(|helper| signal(helper, Signal::STOP));
        std::thread::sleep(Duration::from_millis(4200));
        helpers.iter().for_each(|helper| signal(helper, Signal::CONT));
        for alarms in [&hearing, &deaf] {
            // The carriers of the beginning may have been told before.
            let woke = std::iter::from_fn(|| alarms.recv_timeout(SOON).ok())
                .find_map(|line| line.strip_prefix("woke ").map(str::to_owned));
            let lost: u64 = woke.expect("it is noticed").parse().unwrap();
            assert!((3000..60_000).contains(&lost), "{lost} ms");
        }
        run("ip", "addr add 192.0.2.3/24 dev eth0");
        assert_eq!(hearing.recv_timeout(SOON).unwrap(), "network");
        assert!(deaf.recv_timeout(QUIET).is_err(), "it has its clocks alone");
    });
}
