//! The host's resolvers, each test in a network and an `/etc` of its own.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/namespace.rs"]
#[allow(dead_code, reason = "shared with the other tests of the network")]
mod namespace;

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use namespace::{Helper, attempt, block_on, has, isolated, run};
use smartvpn::error::ErrorCode;
use smartvpn::network::{HostChanges, NetworkError, RepairReport, ResolverMethod, repair};
use smartvpn::tunnel::{Tun, TunConfig};

const RESOLV_CONF: &str = "/etc/resolv.conf";
const ORIGINAL: &str = "# by hand\nnameserver 192.0.2.1\nsearch corp.test\noptions edns0 trust-ad\n";

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// Runs `body` in namespaces of its own, with an `/etc` of 1 MiB and nothing in `/run`.
fn on_a_host(test: &str, body: impl FnOnce(&Path)) {
    isolated(test, || {
        run("mount", "-t tmpfs -o mode=755 host /run");
        fs::create_dir_all("/run/etc").unwrap();
        run("mount", "-t tmpfs -o mode=755,size=1m host /run/etc");
        for name in ["passwd", "group", "nsswitch.conf", "ld.so.cache"] {
            let _ = fs::copy(Path::new("/etc").join(name), Path::new("/run/etc").join(name));
        }
        run("mount", "--bind /run/etc /etc");
        fs::write(RESOLV_CONF, ORIGINAL).unwrap();
        fs::set_permissions(RESOLV_CONF, fs::Permissions::from_mode(0o640)).unwrap();
        fs::create_dir("/run/state").unwrap();
        body(Path::new("/run/state"));
    });
}

fn resolv_conf() -> String {
    fs::read_to_string(RESOLV_CONF).unwrap()
}

/// The resolvers that the file names, in order.
fn named() -> Vec<String> {
    resolv_conf().lines().filter_map(|line| line.strip_prefix("nameserver ")).map(str::to_owned).collect()
}

/// The file is as the test found it, and nothing lies beside it or in the state directory.
#[track_caller]
fn assert_as_found() {
    assert_eq!(resolv_conf(), ORIGINAL);
    let metadata = fs::symlink_metadata(RESOLV_CONF).unwrap();
    assert_eq!((metadata.mode() & 0o7777, metadata.uid()), (0o640, 0));
    let names = |directory| {
        let entries = fs::read_dir(directory).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect::<Vec<_>>()
    };
    assert!(names("/etc").iter().all(|name| !name.contains("smartvpn")), "{:?}", names("/etc"));
    assert!(names("/run/state").iter().all(|name| name == "lock"), "{:?}", names("/run/state"));
}

/// A TUN that is up, and what is set for it.
struct Tunnel {
    tun: Tun,
    changes: HostChanges,
}

impl Tunnel {
    async fn new(name: &str, state: Option<&Path>) -> Self {
        let tun =
            Tun::create(&TunConfig { name: Some(name.to_owned()), mtu: 1420, multi_queue: false }).unwrap();
        run("ip", &format!("link set {name} up"));
        let changes = HostChanges::begin(state, name).await.unwrap();
        Self { tun, changes }
    }

    async fn set(&mut self, servers: &[&str]) -> Result<Option<ResolverMethod>, NetworkError> {
        self.changes.set_resolvers(ips(servers), self.tun.index()).await
    }

    /// A tunnel whose resolvers are set.
    async fn with(name: &str, state: Option<&Path>, servers: &[&str], by: ResolverMethod) -> Self {
        let mut tunnel = Self::new(name, state).await;
        assert_eq!(tunnel.set(servers).await.unwrap(), Some(by));
        tunnel
    }

    async fn down(self) {
        self.changes.undo().await;
    }
}

/// What the helper processes of the tests below do: `ROLE STATE_DIR`.
#[test]
fn helper() {
    let Some(words) = namespace::role() else { return };
    let (role, state) = words.split_once(' ').unwrap();
    let state = Path::new(state);
    block_on(async {
        match role {
            "victim" => {
                let mut tunnel = Tunnel::new("victim", Some(state)).await;
                println!("by {:?}", tunnel.set(&["10.8.0.1"]).await.unwrap().unwrap());
                println!("ready");
                std::future::pending::<()>().await;
            }
            other => panic!("no role {other}"),
        }
    });
}

/// Starts a helper and returns what it said until it was ready.
fn helper_that_is_ready(mut helper: Helper) -> (Helper, String) {
    let mut said = String::new();
    for line in BufReader::new(helper.stdout()).lines() {
        let line = line.unwrap();
        if line.ends_with("ready") {
            return (helper, said);
        }
        said.push_str(&line);
        said.push('\n');
    }
    panic!("the helper is not ready: {said}");
}

#[test]
fn a_file_is_rewritten_and_comes_back() {
    on_a_host("a_file_is_rewritten_and_comes_back", |state| {
        block_on(async {
            let tunnel =
                Tunnel::with("vpn0", Some(state), &["10.8.0.1", "fd08::1"], ResolverMethod::File).await;
            assert_eq!(named(), ["10.8.0.1", "fd08::1"]);
            assert!(resolv_conf().contains("search corp.test\noptions edns0\n"), "{}", resolv_conf());
            tunnel.down().await;
            assert_as_found();

            let mut tunnel = Tunnel::with("vpn0", Some(state), &["10.8.0.1"], ResolverMethod::File).await;
            assert_eq!(tunnel.set(&["10.8.0.2"]).await.unwrap(), Some(ResolverMethod::File));
            assert_eq!(named(), ["10.8.0.2"]);
            assert_eq!(tunnel.set(&[]).await.unwrap(), None);
            assert_eq!(resolv_conf(), ORIGINAL);
            assert_eq!(tunnel.set(&["10.8.0.3"]).await.unwrap(), Some(ResolverMethod::File));
            // An exit handler drops what it has.
            drop(tunnel);
            assert_as_found();

            let tunnel = Tunnel::with("vpn0", None, &["10.8.0.1"], ResolverMethod::File).await;
            tunnel.down().await;
            assert_as_found();
        });
    });
}

#[test]
fn a_link_comes_back_as_the_very_same() {
    on_a_host("a_link_comes_back_as_the_very_same", |state| {
        run("mv", "/etc/resolv.conf /run/managed.conf");
        symlink("../run/managed.conf", RESOLV_CONF).unwrap();
        block_on(async {
            let tunnel = Tunnel::with("vpn0", Some(state), &["10.8.0.1"], ResolverMethod::File).await;
            assert_eq!(named(), ["10.8.0.1"]);
            assert_eq!(fs::read_to_string("/run/managed.conf").unwrap(), ORIGINAL);
            fs::write("/run/managed.conf", "nameserver 192.0.2.9\n").unwrap();
            tunnel.down().await;
        });
        assert_eq!(fs::read_link(RESOLV_CONF).unwrap(), Path::new("../run/managed.conf"));
        assert_eq!(named(), ["192.0.2.9"]);
    });
}

#[test]
fn somebodys_later_change_is_left_alone() {
    on_a_host("somebodys_later_change_is_left_alone", |state| {
        block_on(async {
            let mut tunnel = Tunnel::with("vpn0", Some(state), &["10.8.0.1"], ResolverMethod::File).await;
            fs::write(RESOLV_CONF, format!("{}nameserver 192.0.2.9\n", resolv_conf())).unwrap();
            assert_eq!(tunnel.set(&["10.8.0.2"]).await.unwrap(), None);
            assert_eq!(named(), ["10.8.0.1", "192.0.2.9"]);
            tunnel.down().await;
            assert_eq!(named(), ["10.8.0.1", "192.0.2.9"]);
        });
    });
}

#[test]
fn the_last_of_two_instances_brings_the_original_back() {
    on_a_host("the_last_of_two_instances_brings_the_original_back", |state| {
        block_on(async {
            for first_goes_first in [true, false] {
                let one = Tunnel::with("vpn0", Some(state), &["10.8.0.1"], ResolverMethod::File).await;
                let two = Tunnel::with("vpn1", Some(state), &["10.9.0.1"], ResolverMethod::File).await;
                assert_eq!(named(), ["10.9.0.1"]);
                let (first, second, meanwhile) =
                    if first_goes_first { (one, two, "10.9.0.1") } else { (two, one, "10.8.0.1") };
                first.down().await;
                assert_eq!(named(), [meanwhile]);
                second.down().await;
                assert_as_found();
            }
            // The lower one changes its mind and is the upper one then.
            let mut one = Tunnel::with("vpn0", Some(state), &["10.8.0.1"], ResolverMethod::File).await;
            let two = Tunnel::with("vpn1", Some(state), &["10.9.0.1"], ResolverMethod::File).await;
            one.set(&["10.8.0.2"]).await.unwrap();
            assert_eq!(named(), ["10.8.0.2"]);
            one.down().await;
            assert_eq!(named(), ["10.9.0.1"]);
            two.down().await;
            assert_as_found();
        });
    });
}

#[test]
fn a_file_of_ours_that_nobody_knows_of_is_not_taken_for_the_original() {
    on_a_host("a_file_of_ours_that_nobody_knows_of_is_not_taken_for_the_original", |state| {
        block_on(async {
            let one = Tunnel::with("vpn0", None, &["10.8.0.1"], ResolverMethod::File).await;
            let mut two = Tunnel::new("vpn1", Some(state)).await;
            let error = two.set(&["10.9.0.1"]).await.unwrap_err();
            assert_eq!(error.code(), ErrorCode::DnsFailed);
            assert!(error.to_string().contains("vpn0"), "{error}");
            assert!(error.to_string().contains("`dns: []`"), "{error}");
            two.down().await;
            assert_eq!(named(), ["10.8.0.1"]);
            one.down().await;
        });
        assert_as_found();
    });
}

#[test]
fn what_a_killed_process_left_is_repaired() {
    on_a_host("what_a_killed_process_left_is_repaired", |state| {
        for by_next_start in [false, true] {
            let role = format!("victim {}", state.display());
            let (mut victim, said) = helper_that_is_ready(Helper::here("helper", &role));
            assert!(said.contains("by File"), "{said}");
            assert_eq!(named(), ["10.8.0.1"]);
            block_on(async { assert_eq!(repair(state).await, RepairReport::default()) });
            victim.kill();
            assert_eq!(named(), ["10.8.0.1"]);
            block_on(async {
                if by_next_start {
                    HostChanges::begin(Some(state), "another").await.unwrap().undo().await;
                } else {
                    assert_eq!(repair(state).await.repaired, ["victim"]);
                }
            });
            assert_as_found();
        }
    });
}

/// Routes are gone when the host starts anew; what is in a file is not.
#[test]
fn what_a_power_failure_left_is_repaired() {
    on_a_host("what_a_power_failure_left_is_repaired", |state| {
        let role = format!("victim {}", state.display());
        let (mut victim, _) = helper_that_is_ready(Helper::here("helper", &role));
        victim.kill();
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        let mut files = fs::read_dir(state).unwrap().map(|entry| entry.unwrap().path());
        let journal = files.find(|path| path.extension().is_some_and(|e| e == "json")).unwrap();
        let text = fs::read_to_string(&journal).unwrap();
        let earlier = text.replace(boot.trim(), "00000000-0000-0000-0000-000000000000");
        assert_ne!(text, earlier);
        fs::write(state.join("victim@7.json"), earlier).unwrap();
        fs::remove_file(&journal).unwrap();
        fs::remove_file(journal.with_extension("lock")).unwrap();

        block_on(async {
            let tunnel = Tunnel::with("victim", Some(state), &["10.9.0.1"], ResolverMethod::File).await;
            assert_eq!(named(), ["10.9.0.1"]);
            tunnel.down().await;
        });
        assert_as_found();
    });
}

#[test]
fn a_mounted_file_is_written_in_place() {
    on_a_host("a_mounted_file_is_written_in_place", |state| {
        fs::write("/run/mounted.conf", ORIGINAL).unwrap();
        fs::set_permissions("/run/mounted.conf", fs::Permissions::from_mode(0o640)).unwrap();
        run("mount", "--bind /run/mounted.conf /etc/resolv.conf");
        let inode = fs::metadata(RESOLV_CONF).unwrap().ino();
        block_on(async {
            let tunnel = Tunnel::with("vpn0", Some(state), &["10.8.0.1"], ResolverMethod::File).await;
            assert_eq!(named(), ["10.8.0.1"]);
            assert_eq!(fs::metadata(RESOLV_CONF).unwrap().ino(), inode);
            tunnel.down().await;
        });
        assert_as_found();

        // All else is read-only, as in a sandbox of a service manager.
        run("mount", "-o remount,bind,ro /etc");
        block_on(async {
            let tunnel = Tunnel::with("vpn0", Some(state), &["10.8.0.1"], ResolverMethod::File).await;
            assert_eq!(named(), ["10.8.0.1"]);
            tunnel.down().await;
        });
        assert_as_found();
        assert_eq!(fs::metadata(RESOLV_CONF).unwrap().ino(), inode);
    });
}

#[test]
fn a_link_out_of_a_read_only_folder_is_written_through() {
    on_a_host("a_link_out_of_a_read_only_folder_is_written_through", |state| {
        run("mv", "/etc/resolv.conf /run/managed.conf");
        symlink("../run/managed.conf", RESOLV_CONF).unwrap();
        run("mount", "-o remount,bind,ro /etc");
        block_on(async {
            let one = Tunnel::with("vpn0", Some(state), &["10.8.0.1"], ResolverMethod::File).await;
            let two = Tunnel::with("vpn1", Some(state), &["10.9.0.1"], ResolverMethod::File).await;
            assert_eq!(named(), ["10.9.0.1"]);
            one.down().await;
            assert_eq!(named(), ["10.9.0.1"]);
            two.down().await;
        });
        assert_eq!(resolv_conf(), ORIGINAL);
        assert_eq!(fs::read_link(RESOLV_CONF).unwrap(), Path::new("../run/managed.conf"));
    });
}

#[test]
fn what_cannot_be_written_is_told_and_left_whole() {
    on_a_host("what_cannot_be_written_is_told_and_left_whole", |state| {
        let is_refused = || {
            block_on(async {
                let mut tunnel = Tunnel::new("vpn0", Some(state)).await;
                let error = tunnel.set(&["10.8.0.1"]).await.unwrap_err();
                assert_eq!(error.code(), ErrorCode::DnsFailed);
                for part in [RESOLV_CONF, "`dns: []`"] {
                    assert!(error.to_string().contains(part), "{error}");
                }
                tunnel.down().await;
            });
            assert_as_found();
        };
        // Many administrators do so, to keep it from being rewritten. Before Linux 6.6 a file system in
        // memory does not know it.
        if has("chattr") && attempt("chattr", "+i /etc/resolv.conf").status.success() {
            is_refused();
            run("chattr", "-i /etc/resolv.conf");
        }
        run("mount", "-o remount,bind,ro /etc");
        is_refused();
    });
}

#[test]
fn a_full_disk_leaves_the_old_file_whole() {
    on_a_host("a_full_disk_leaves_the_old_file_whole", |state| {
        let fill = || attempt("dd", "if=/dev/zero of=/etc/filling bs=4k");
        block_on(async {
            fill();
            let mut tunnel = Tunnel::new("vpn0", Some(state)).await;
            let error = tunnel.set(&["10.8.0.1"]).await.unwrap_err();
            assert_eq!(error.code(), ErrorCode::DnsFailed);
            assert_eq!(resolv_conf(), ORIGINAL);

            fs::remove_file("/etc/filling").unwrap();
            tunnel.set(&["10.8.0.1"]).await.unwrap();
            fill();
            tunnel.down().await;
            assert_eq!(named(), ["10.8.0.1"], "what is there is whole");
            assert_eq!(repair(state).await.failed, ["vpn0"]);

            // A new tunnel of that name knows what was there before.
            let mut tunnel = Tunnel::new("vpn0", Some(state)).await;
            fs::remove_file("/etc/filling").unwrap();
            tunnel.set(&["10.8.0.2"]).await.unwrap();
            assert_eq!(named(), ["10.8.0.2"]);
            tunnel.down().await;
            assert_as_found();
        });
    });
}

#[test]
fn resolvers_are_routed_into_the_tunnel() {
    on_a_host("resolvers_are_routed_into_the_tunnel", |state| {
        run("ip", "link add eth0 type veth peer name far0");
        run("ip", "link set far0 up");
        run("ip", "link set eth0 up");
        run("ip", "addr add 192.0.2.2/24 dev eth0");
        run("ip", "route add default via 192.0.2.1");
        let device_to = |address| {
            let text = run("ip", &format!("route get {address}"));
            text.split_once(" dev ").unwrap().1.split(' ').next().unwrap().to_owned()
        };
        block_on(async {
            let resolver = ips(&["198.51.100.53"])[0];
            let mut one = Tunnel::new("vpn0", Some(state)).await;
            assert!(one.changes.route_resolver(resolver, one.tun.index()).await.unwrap());
            assert!(!one.changes.route_resolver(resolver, one.tun.index()).await.unwrap());
            assert_eq!(device_to("198.51.100.53"), "vpn0");
            // One next door too.
            let neighbour = ips(&["192.0.2.53"])[0];
            assert!(one.changes.route_resolver(neighbour, one.tun.index()).await.unwrap());
            assert_eq!(device_to("192.0.2.53"), "vpn0");
            one.changes.unroute_resolver(neighbour, one.tun.index()).await.unwrap();
            assert_eq!(device_to("192.0.2.53"), "eth0");
            for direct in ips(&["127.0.0.1", "169.254.0.53", "::1", "fe80::53"]) {
                assert!(!one.changes.route_resolver(direct, one.tun.index()).await.unwrap());
            }

            // The server keeps its way.
            let server = ips(&["198.51.100.1"])[0];
            one.changes.pin_route(server).await.unwrap();
            assert!(!one.changes.route_resolver(server, one.tun.index()).await.unwrap());
            assert_eq!(device_to("198.51.100.1"), "eth0");

            let mut two = Tunnel::new("vpn1", Some(state)).await;
            assert!(two.changes.route_resolver(resolver, two.tun.index()).await.unwrap());
            assert_eq!(device_to("198.51.100.53"), "vpn0");
            one.down().await;
            assert_eq!(device_to("198.51.100.53"), "vpn1");
            two.changes.unroute_resolver(resolver, two.tun.index()).await.unwrap();
            assert_eq!(device_to("198.51.100.53"), "eth0");

            run("ip", "route add 198.51.100.53 via 192.0.2.1");
            let error = two.changes.route_resolver(resolver, two.tun.index()).await.unwrap_err();
            assert_eq!(error.code(), ErrorCode::DnsFailed);
            assert!(error.to_string().contains("198.51.100.53/32"), "{error}");
            two.down().await;
        });
    });
}

/// A `resolvconf` like Debian's that keeps what it is told under /run, and writes down its calls.
const RESOLVCONF: &str = r#"#!/bin/sh
set -e
echo "$*" >> /run/calls
mkdir -p /run/records
case "$1" in
  --version) cat /run/version ;;
  -a) cat > "/run/records/$2" ;;
  -d) rm -f "/run/records/$2" ;;
esac
[ ! -e /run/refuse ] || { echo "resolvconf: Error: it is Sunday" >&2; exit 1; }
[ ! -e /run/enabled ] || {
  echo '# Dynamic resolv.conf(5) file for glibc resolver(3) generated by resolvconf(8)'
  cat /run/records/* 2>/dev/null || true
  echo "nameserver 192.0.2.1"
} > /run/resolvconf/resolv.conf
"#;

/// Puts the program where it is found before any that the machine has.
fn install_resolvconf(version: &str) {
    fs::write("/run/version", version).unwrap();
    fs::write("/run/enabled", "").unwrap();
    fs::write("/run/program", RESOLVCONF).unwrap();
    fs::set_permissions("/run/program", fs::Permissions::from_mode(0o755)).unwrap();
    let there = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(|directory| format!("{directory}/resolvconf"));
    match there.iter().find(|path| Path::new(path).exists()) {
        Some(path) => drop(run("mount", &format!("--bind /run/program {path}"))),
        None => {
            run("mount", "-t tmpfs host /usr/local/sbin");
            run("cp", "-p /run/program /usr/local/sbin/resolvconf");
        }
    }
    fs::create_dir("/run/resolvconf").unwrap();
    fs::remove_file(RESOLV_CONF).unwrap();
    symlink("../run/resolvconf/resolv.conf", RESOLV_CONF).unwrap();
    run("/run/program", "-u");
    fs::remove_file("/run/calls").unwrap();
}

fn calls() -> Vec<String> {
    let text = fs::read_to_string("/run/calls").unwrap_or_default();
    let _ = fs::remove_file("/run/calls");
    text.lines().map(str::to_owned).collect()
}

#[test]
fn debians_resolvconf_is_told_and_untold() {
    on_a_host("debians_resolvconf_is_told_and_untold", |state| {
        install_resolvconf("Debian resolvconf 1.91+nmu1");
        let before = resolv_conf();
        block_on(async {
            let mut tunnel =
                Tunnel::with("vpn0", Some(state), &["10.8.0.1", "fd08::1"], ResolverMethod::Resolvconf).await;
            assert_eq!(named(), ["10.8.0.1", "fd08::1", "192.0.2.1"]);
            assert_eq!(calls(), ["--version", "-a tun.vpn0"]);
            tunnel.set(&["10.8.0.2"]).await.unwrap();
            assert_eq!(named(), ["10.8.0.2", "192.0.2.1"]);
            tunnel.down().await;
            assert_eq!(calls(), ["-a tun.vpn0", "-d tun.vpn0"]);
        });
        assert_eq!(resolv_conf(), before);
        assert_eq!(fs::read_link(RESOLV_CONF).unwrap(), Path::new("../run/resolvconf/resolv.conf"));

        let role = format!("victim {}", state.display());
        let (mut victim, said) = helper_that_is_ready(Helper::here("helper", &role));
        assert!(said.contains("by Resolvconf"), "{said}");
        victim.kill();
        block_on(async { assert_eq!(repair(state).await.repaired, ["victim"]) });
        assert_eq!(resolv_conf(), before);
    });
}

#[test]
fn openresolv_is_told_to_leave_the_others_out() {
    on_a_host("openresolv_is_told_to_leave_the_others_out", |state| {
        install_resolvconf("openresolv 3.13.2");
        block_on(async {
            let tunnel = Tunnel::with("vpn0", Some(state), &["10.8.0.1"], ResolverMethod::Resolvconf).await;
            tunnel.down().await;
        });
        assert_eq!(calls(), ["--version", "-a tun.vpn0 -m 0 -x", "-d tun.vpn0 -f"]);
    });
}

#[test]
fn a_resolvconf_that_refuses_is_quoted() {
    on_a_host("a_resolvconf_that_refuses_is_quoted", |state| {
        install_resolvconf("Debian resolvconf 1.91+nmu1");
        let before = resolv_conf();
        block_on(async {
            let mut tunnel = Tunnel::new("vpn0", Some(state)).await;
            fs::write("/run/refuse", "").unwrap();
            let error = tunnel.set(&["10.8.0.1"]).await.unwrap_err();
            assert_eq!(error.code(), ErrorCode::DnsFailed);
            let cause = std::error::Error::source(&error).unwrap().to_string();
            assert!(cause.contains("it is Sunday"), "{cause}");
            fs::remove_file("/run/refuse").unwrap();

            // Debian's does so between `--disable-updates` and `--enable-updates`.
            fs::remove_file("/run/enabled").unwrap();
            let error = tunnel.set(&["10.8.0.1"]).await.unwrap_err();
            assert!(error.to_string().contains("resolvconf --enable-updates"), "{error}");
            assert_eq!(fs::read_dir("/run/records").unwrap().count(), 0);
            tunnel.down().await;
        });
        assert_eq!(resolv_conf(), before);

        // What only hands on to systemd-resolved is of no use without it.
        fs::write("/run/version", "systemd 257 (257.7-1)").unwrap();
        block_on(async {
            let tunnel = Tunnel::with("vpn0", Some(state), &["10.8.0.1"], ResolverMethod::File).await;
            tunnel.down().await;
        });
        assert_eq!(resolv_conf(), before);
    });
}

/// What stands for systemd-resolved: it writes down its calls.
#[derive(Clone, Default)]
struct Resolved(Arc<Mutex<Told>>);

#[derive(Default)]
struct Told {
    calls: Vec<String>,
    /// How many more times it does not know an interface.
    unknown: u32,
    busy: bool,
    silent: bool,
}

#[derive(Debug, zbus::DBusError)]
#[zbus(prefix = "org.freedesktop.resolve1")]
enum Refusal {
    #[zbus(error)]
    ZBus(zbus::Error),
    NoSuchLink(String),
    LinkBusy(String),
}

#[zbus::interface(name = "org.freedesktop.resolve1.Manager")]
impl Resolved {
    #[zbus(name = "SetLinkDNS")]
    fn set_link_dns(&self, ifindex: i32, addresses: Vec<(i32, Vec<u8>)>) -> Result<(), Refusal> {
        let mut told = self.told();
        if told.unknown > 0 {
            told.unknown -= 1;
            return Err(Refusal::NoSuchLink(format!("Link {ifindex} not known")));
        }
        told.calls.push(format!("SetLinkDNS {ifindex} {addresses:?}"));
        Ok(())
    }

    fn set_link_domains(&self, ifindex: i32, domains: Vec<(String, bool)>) -> Result<(), Refusal> {
        let mut told = self.told();
        told.calls.push(format!("SetLinkDomains {ifindex} {domains:?}"));
        if told.busy { Err(Refusal::LinkBusy(format!("Link {ifindex} is managed."))) } else { Ok(()) }
    }

    fn set_link_default_route(&self, ifindex: i32, enable: bool) {
        self.told().calls.push(format!("SetLinkDefaultRoute {ifindex} {enable}"));
    }

    async fn revert_link(&self, ifindex: i32) {
        let silent = {
            let mut told = self.told();
            told.calls.push(format!("RevertLink {ifindex}"));
            told.silent
        };
        if silent {
            std::future::pending::<()>().await;
        }
    }
}

impl Resolved {
    fn told(&self) -> MutexGuard<'_, Told> {
        self.0.lock().unwrap()
    }

    fn take_calls(&self) -> Vec<String> {
        std::mem::take(&mut self.told().calls)
    }
}

/// A message bus where the host's would be; ends when dropped.
struct Bus(Child);

const BUS_CONFIG: &str = r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <listen>unix:path=/run/dbus/system_bus_socket</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow send_destination="*"/>
    <allow receive_sender="*"/>
    <allow own="*"/>
  </policy>
</busconfig>
"#;

impl Bus {
    fn start() -> Self {
        fs::create_dir("/run/dbus").unwrap();
        fs::write("/run/bus.conf", BUS_CONFIG).unwrap();
        let mut bus = Command::new("dbus-daemon")
            .args(["--config-file=/run/bus.conf", "--nofork", "--print-address"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut address = String::new();
        BufReader::new(bus.stdout.take().unwrap()).read_line(&mut address).unwrap();
        assert!(address.starts_with("unix:"), "the bus is up");
        Self(bus)
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Leads `/etc/resolv.conf` to the stub of systemd-resolved.
fn use_the_stub() {
    fs::create_dir_all("/run/systemd/resolve").unwrap();
    fs::write("/run/systemd/resolve/stub-resolv.conf", "nameserver 127.0.0.53\noptions edns0 trust-ad\n")
        .unwrap();
    fs::remove_file(RESOLV_CONF).unwrap();
    symlink("../run/systemd/resolve/stub-resolv.conf", RESOLV_CONF).unwrap();
}

/// The stand-in's connection: it serves as long as this lives.
async fn serve(resolved: &Resolved) -> zbus::Connection {
    zbus::connection::Builder::address("unix:path=/run/dbus/system_bus_socket")
        .serve_at("/org/freedesktop/resolve1", resolved.clone())
        .name("org.freedesktop.resolve1")
        .build()
        .await
        .unwrap()
}

#[test]
fn systemd_resolved_is_told_over_dbus() {
    on_a_host("systemd_resolved_is_told_over_dbus", |state| {
        if !has("dbus-daemon") {
            return;
        }
        let _bus = Bus::start();
        use_the_stub();
        let before = fs::symlink_metadata(RESOLV_CONF).unwrap().ino();
        block_on(async {
            let resolved = Resolved::default();
            let _served = serve(&resolved).await;
            // It has yet to hear of the new interface.
            resolved.told().unknown = 3;
            let mut tunnel =
                Tunnel::with("vpn0", Some(state), &["10.8.0.1", "fd08::1"], ResolverMethod::Resolved).await;
            let index = tunnel.tun.index();
            let told = |servers: &str| {
                [
                    format!("SetLinkDNS {index} [{servers}]"),
                    format!("SetLinkDomains {index} [(\".\", true)]"),
                    format!("SetLinkDefaultRoute {index} true"),
                ]
            };
            let v6 = "[253, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]";
            assert_eq!(resolved.take_calls(), told(&format!("(2, [10, 8, 0, 1]), (10, {v6})")));
            tunnel.set(&["10.8.0.2"]).await.unwrap();
            assert_eq!(resolved.take_calls(), told("(2, [10, 8, 0, 2])"));
            tunnel.changes.undo().await;
            assert_eq!(resolved.take_calls(), [format!("RevertLink {index}")]);
            drop(tunnel.tun);
            assert_eq!(fs::symlink_metadata(RESOLV_CONF).unwrap().ino(), before, "the file is not touched");
            assert_eq!(named(), ["127.0.0.53"]);

            // Dropped on a thread of the runtime, as when a future is cancelled.
            let tunnel = Tunnel::with("vpn0", None, &["10.8.0.1"], ResolverMethod::Resolved).await;
            let index = tunnel.tun.index();
            drop(tunnel.changes);
            assert_eq!(resolved.take_calls().last().unwrap(), &format!("RevertLink {index}"));
            drop(tunnel.tun);

            // With the interface its settings are gone, and its number may be another's.
            let tunnel = Tunnel::with("vpn0", None, &["10.8.0.1"], ResolverMethod::Resolved).await;
            drop(tunnel.tun);
            resolved.take_calls();
            tunnel.changes.undo().await;
            assert_eq!(resolved.take_calls(), Vec::<String>::new());
        });
    });
}

#[test]
fn a_resolved_that_refuses_is_quoted_and_one_that_hangs_delays_little() {
    on_a_host("a_resolved_that_refuses_is_quoted_and_one_that_hangs_delays_little", |state| {
        if !has("dbus-daemon") {
            return;
        }
        let _bus = Bus::start();
        use_the_stub();
        block_on(async {
            let resolved = Resolved::default();
            let _served = serve(&resolved).await;
            resolved.told().busy = true;
            let mut tunnel = Tunnel::new("vpn0", Some(state)).await;
            let index = tunnel.tun.index();
            let error = tunnel.set(&["10.8.0.1"]).await.unwrap_err();
            assert_eq!(error.code(), ErrorCode::DnsFailed);
            let cause = std::error::Error::source(&error).unwrap().to_string();
            assert!(cause.contains("is managed"), "{cause}");
            assert_eq!(resolved.take_calls().last().unwrap(), &format!("RevertLink {index}"));

            resolved.told().busy = false;
            tunnel.set(&["10.8.0.1"]).await.unwrap();
            resolved.told().silent = true;
            // It takes 2 s at most; a busy machine adds to that.
            let undone = tokio::time::timeout(Duration::from_secs(6), tunnel.changes.undo()).await;
            assert!(undone.is_ok(), "an undo waits for nobody");
        });
    });
}

#[test]
fn without_a_resolved_of_this_network_the_link_to_its_stub_is_replaced() {
    on_a_host("without_a_resolved_of_this_network_the_link_to_its_stub_is_replaced", |state| {
        if !has("dbus-daemon") {
            return;
        }
        use_the_stub();
        let replaced = async |tunnel: Tunnel| {
            assert_eq!(named(), ["10.8.0.1"]);
            tunnel.down().await;
            assert_eq!(named(), ["127.0.0.53"]);
        };
        block_on(async {
            // No bus, then no service.
            replaced(Tunnel::with("vpn0", Some(state), &["10.8.0.1"], ResolverMethod::File).await).await;
        });
        let _bus = Bus::start();
        block_on(async {
            replaced(Tunnel::with("vpn0", Some(state), &["10.8.0.1"], ResolverMethod::File).await).await;

            // One that counts the interfaces of another network.
            let resolved = Resolved::default();
            let _served = serve(&resolved).await;
            let role = format!("victim {}", state.display());
            let elsewhere =
                tokio::task::spawn_blocking(move || helper_that_is_ready(Helper::elsewhere("helper", &role)));
            let (mut elsewhere, said) = elsewhere.await.unwrap();
            assert!(said.contains("by File"), "{said}");
            assert_eq!(resolved.take_calls(), Vec::<String>::new());
            elsewhere.kill();
        });
    });
}
