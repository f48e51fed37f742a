//! Which switches let packets pass between the tunnel and the rest of the host's networks.
//!
//! IPv4 looks at the interface that a packet comes in by, so only the tunnel and the interfaces that
//! answers come back by are switched.
//!
//! IPv6 has the same per interface since Linux 6.17 (`force_forwarding`). Older kernels look at one
//! switch for the whole namespace, which makes a router of every interface: it drops the routes that
//! came by router advertisement and takes no more of them, unless `accept_ra` is 2; and switching it
//! off again resets what was a router's interface before.

use std::io;

use super::change::{Change, Kept, Switched};
use super::sysctl::{Family, Key, Switch, Sysctls};

const ON: &str = "1";

/// The interfaces that packets from and to the tunnel use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Passage {
    /// Interfaces for IPv4, the tunnel included.
    pub(super) v4: Vec<String>,
    /// Interfaces for IPv6, the tunnel included; empty if the tunnel has no IPv6.
    pub(super) v6: Vec<String>,
}

/// The changes that open the passage, in the order in which they have to be made.
///
/// `theirs` are the changes of our other living instances: what they have switched on counts as off.
pub(super) fn plan(sysctls: &Sysctls, passage: &Passage, theirs: &[Change]) -> io::Result<Vec<Change>> {
    let mut plan = Plan { sysctls, theirs, changes: Vec::new() };
    plan.v4(&passage.v4)?;
    if !passage.v6.is_empty() {
        plan.v6(&passage.v6)?;
    }
    Ok(plan.changes)
}

struct Plan<'a> {
    sysctls: &'a Sysctls,
    theirs: &'a [Change],
    changes: Vec<Change>,
}

impl Plan<'_> {
    fn v4(&mut self, interfaces: &[String]) -> io::Result<()> {
        let all = Switch::v4("all", Key::Forwarding);
        let before = self.sysctls.read(&all)?.unwrap_or_default();
        for interface in interfaces {
            let umbrella = Some((all.clone(), before.clone()));
            self.switch(Switch::v4(interface, Key::Forwarding), ON, umbrella)?;
        }
        Ok(())
    }

    fn v6(&mut self, interfaces: &[String]) -> io::Result<()> {
        let all = Switch::v6("all", Key::Forwarding);
        let claimed = self.theirs.iter().any(|change| is_switched(change, &all));
        if claimed {
            self.join_v6();
        } else if self.sysctls.read(&all)?.as_deref() == Some(ON) {
            // The host is a router already.
        } else if self.sysctls.read(&Switch::v6("all", Key::ForceForwarding))?.is_some() {
            for interface in interfaces {
                self.switch(Switch::v6(interface, Key::ForceForwarding), ON, None)?;
            }
        } else {
            self.v6_of_namespace(&all)?;
        }
        Ok(())
    }

    /// Another instance has made the host a router: the same changes, with the true old values.
    fn join_v6(&mut self) {
        let of_v6 = |change: &&Change| match change {
            Change::Switched(switched) => switched.switch.family == Family::V6,
            Change::Kept(kept) => kept.switch.family == Family::V6,
            Change::Route(_) | Change::Table(_) | Change::Guard(_) | Change::Resolvers(_) => false,
        };
        for change in self.theirs.iter().filter(of_v6) {
            if !self.changes.contains(change) {
                self.changes.push(change.clone());
            }
        }
    }

    fn v6_of_namespace(&mut self, all: &Switch) -> io::Result<()> {
        let mut interfaces = self.sysctls.interfaces(Family::V6)?;
        interfaces.push("default".to_owned());
        // Taken back in reverse: off for all, the advertisements as before, the old routers on again.
        for interface in &interfaces {
            let switch = Switch::v6(interface, Key::Forwarding);
            if self.sysctls.read(&switch)?.as_deref() == Some(ON) {
                self.changes.push(Change::Kept(Kept { switch, value: ON.to_owned() }));
            }
        }
        for interface in interfaces.iter().filter(|name| !matches!(name.as_str(), "lo" | "default")) {
            // Where advertisements count today they shall go on to. Only before the big switch: the
            // kernel drops the routes in the very moment.
            let is_router =
                self.sysctls.read(&Switch::v6(interface, Key::Forwarding))?.as_deref() == Some(ON);
            let accept = Switch::v6(interface, Key::AcceptRa);
            if !is_router && self.sysctls.read(&accept)?.as_deref() == Some("1") {
                self.switch(accept, "2", None)?;
            }
        }
        self.switch(all.clone(), ON, None)
    }

    /// Adds the change unless the switch stands so by somebody else's will, or is not there.
    fn switch(&mut self, switch: Switch, new: &str, umbrella: Option<(Switch, String)>) -> io::Result<()> {
        let Some(old) = self.sysctls.read(&switch)? else { return Ok(()) };
        let theirs = self.theirs.iter().find(|change| is_switched(change, &switch));
        if let Some(theirs) = theirs {
            self.changes.push(theirs.clone());
        } else if old != new {
            self.changes.push(Change::Switched(Switched { switch, old, new: new.to_owned(), umbrella }));
        }
        Ok(())
    }
}

fn is_switched(change: &Change, switch: &Switch) -> bool {
    matches!(change, Change::Switched(switched) if switched.switch == *switch)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;
    use std::time::Duration;

    use super::*;
    use crate::network::ledger::Ledger;
    use crate::network::namespace::{ipv6, isolated, run};
    use crate::network::netlink::Netlink;
    use crate::network::sysctl::tests::fake;
    use crate::packet::Offload;
    use crate::tunnel::{Tun, TunConfig};

    fn passage(v4: &[&str], v6: &[&str]) -> Passage {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Passage { v4: owned(v4), v6: owned(v6) }
    }

    /// The plan, one change a line.
    fn lines(changes: &[Change]) -> Vec<String> {
        let line = |change: &Change| match change {
            Change::Switched(Switched { switch, old, new, .. }) => format!("{switch} {old} > {new}"),
            Change::Kept(Kept { switch, value }) => format!("{switch} = {value}"),
            other => panic!("{other:?}"),
        };
        changes.iter().map(|change| line(change).replace("/proc/sys/net/", "")).collect()
    }

    #[test]
    fn ipv4_is_switched_per_interface() {
        let (_tree, sysctls) = fake(&[
            ("ipv4/conf/all/forwarding", "0"),
            ("ipv4/conf/vpn0/forwarding", "0"),
            ("ipv4/conf/eth0/forwarding", "0"),
            ("ipv4/conf/docker0/forwarding", "1"),
        ]);
        let plan = plan(&sysctls, &passage(&["vpn0", "eth0", "docker0", "gone0"], &[]), &[]).unwrap();
        assert_eq!(lines(&plan), ["ipv4/conf/vpn0/forwarding 0 > 1", "ipv4/conf/eth0/forwarding 0 > 1"]);
    }

    #[test]
    fn what_another_instance_switched_keeps_its_true_old_value() {
        let (_tree, sysctls) = fake(&[("ipv4/conf/all/forwarding", "0"), ("ipv4/conf/eth0/forwarding", "0")]);
        let passage = passage(&["eth0"], &[]);
        let theirs = plan(&sysctls, &passage, &[]).unwrap();
        sysctls.write(&Switch::v4("eth0", Key::Forwarding), "1").unwrap();
        assert_eq!(plan(&sysctls, &passage, &theirs).unwrap(), theirs);
        assert_eq!(plan(&sysctls, &passage, &[]).unwrap(), [], "an administrator's own is none of ours");
    }

    #[test]
    fn ipv6_is_forced_per_interface_where_the_kernel_can() {
        let (_tree, sysctls) = fake(&[
            ("ipv6/conf/all/forwarding", "0"),
            ("ipv6/conf/all/force_forwarding", "0"),
            ("ipv6/conf/eth0/force_forwarding", "0"),
            ("ipv6/conf/eth0/accept_ra", "1"),
            ("ipv6/conf/vpn0/force_forwarding", "0"),
        ]);
        let plan = plan(&sysctls, &passage(&[], &["eth0", "vpn0"]), &[]).unwrap();
        assert_eq!(
            lines(&plan),
            ["ipv6/conf/eth0/force_forwarding 0 > 1", "ipv6/conf/vpn0/force_forwarding 0 > 1"]
        );
    }

    #[test]
    fn an_ipv6_router_needs_nothing() {
        let (_tree, sysctls) = fake(&[
            ("ipv6/conf/all/forwarding", "1"),
            ("ipv6/conf/eth0/forwarding", "0"),
            ("ipv6/conf/eth0/accept_ra", "1"),
        ]);
        assert_eq!(plan(&sysctls, &passage(&[], &["eth0"]), &[]).unwrap(), []);
    }

    /// A host of an older kernel: `eth0` lives by router advertisements, `eth1` does not care for
    /// them, `lan0` is a router's.
    fn older_kernel() -> (tempfile::TempDir, Sysctls) {
        fake(&[
            ("ipv6/conf/all/forwarding", "0"),
            ("ipv6/conf/default/forwarding", "0"),
            ("ipv6/conf/default/accept_ra", "1"),
            ("ipv6/conf/lo/forwarding", "0"),
            ("ipv6/conf/lo/accept_ra", "1"),
            ("ipv6/conf/eth0/forwarding", "0"),
            ("ipv6/conf/eth0/accept_ra", "1"),
            ("ipv6/conf/eth1/forwarding", "0"),
            ("ipv6/conf/eth1/accept_ra", "0"),
            ("ipv6/conf/lan0/forwarding", "1"),
            ("ipv6/conf/lan0/accept_ra", "1"),
        ])
    }

    const OLDER: [&str; 3] =
        ["ipv6/conf/lan0/forwarding = 1", "ipv6/conf/eth0/accept_ra 1 > 2", "ipv6/conf/all/forwarding 0 > 1"];

    #[test]
    fn older_kernels_keep_their_advertised_routes() {
        let (_tree, sysctls) = older_kernel();
        assert_eq!(lines(&plan(&sysctls, &passage(&[], &["vpn0"]), &[]).unwrap()), OLDER);
    }

    #[test]
    fn a_second_instance_on_an_older_kernel_joins_the_first() {
        let (_tree, sysctls) = older_kernel();
        let passage = passage(&[], &["vpn0"]);
        let theirs = plan(&sysctls, &passage, &[]).unwrap();
        // As the kernel does it.
        for interface in ["all", "default", "lo", "eth0", "eth1"] {
            sysctls.write(&Switch::v6(interface, Key::Forwarding), "1").unwrap();
        }
        sysctls.write(&Switch::v6("eth0", Key::AcceptRa), "2").unwrap();
        assert_eq!(plan(&sysctls, &passage, &theirs).unwrap(), theirs);
        assert_eq!(lines(&theirs), OLDER);
    }

    /// `/proc/sys` as a kernel before 6.17 has it: the real switches, without `force_forwarding`.
    fn older_view(interfaces: &[&str]) -> (tempfile::TempDir, Sysctls) {
        let directory = tempfile::tempdir().unwrap();
        for interface in ["all", "default", "lo"].iter().chain(interfaces) {
            for (family, key) in [("ipv4", "forwarding"), ("ipv6", "forwarding"), ("ipv6", "accept_ra")] {
                let path = format!("net/{family}/conf/{interface}/{key}");
                let link = directory.path().join(&path);
                fs::create_dir_all(link.parent().unwrap()).unwrap();
                symlink(Path::new("/proc/sys").join(path), link).unwrap();
            }
        }
        let sysctls = Sysctls::at(directory.path());
        (directory, sysctls)
    }

    /// A router's advertisement of itself, for half an hour.
    fn advertisement() -> Vec<u8> {
        let body = [&[134, 0, 0, 0, 64, 0][..], &1800_u16.to_be_bytes(), &[0; 8]].concat();
        ipv6("fe80::1".parse().unwrap(), "ff02::1".parse().unwrap(), 58, 255, body, 2)
    }

    fn advertised_route() -> bool {
        run("ip", "-6 route show default").contains("via fe80::1 dev wan0 proto ra")
    }

    #[test]
    fn a_real_kernel_keeps_its_advertised_route_and_gets_its_switches_back() {
        isolated(
            "network::forwarding::tests::a_real_kernel_keeps_its_advertised_route_and_gets_its_switches_back",
            || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                let _entered = runtime.enter();
                let wan =
                    Tun::create(&TunConfig { name: Some("wan0".to_owned()), mtu: 1500, multi_queue: false })
                        .unwrap();
                Netlink::open().unwrap().set_up(wan.index(), 1500).unwrap();
                run("ip", "link add lan0 type veth peer name far0");
                run("sysctl", "-qw net.ipv6.conf.lan0.forwarding=1");
                wan.write(&advertisement(), Offload::NONE).unwrap();
                std::thread::sleep(Duration::from_millis(100));
                assert!(advertised_route(), "{}", run("ip", "-6 route"));

                let (_view, sysctls) = older_view(&["wan0", "lan0", "far0"]);
                let values = || run("sysctl", "-a -r net.ipv6.conf.*.(forwarding|accept_ra)$");
                let before = values();
                let mut ledger = Ledger::begin(None, "vpn0", sysctls.clone(), None).unwrap();
                let plan = plan(&sysctls, &passage(&[], &["wan0"]), &[]).unwrap();
                let turn = ledger.turn().unwrap();
                ledger.switch_all(&turn, plan).unwrap();
                assert!(advertised_route(), "{}", run("ip", "-6 route"));
                assert!(values().contains("net.ipv6.conf.wan0.forwarding = 1"), "{}", values());
                ledger.undo();
                assert_eq!(values(), before);
                assert!(advertised_route(), "{}", run("ip", "-6 route"));
            },
        );
    }
}
