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
            Change::Route(_) | Change::Table(_) => false,
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
